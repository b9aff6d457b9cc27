"""A session that speaks the source model's names and axes, whatever a conversion made of them in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgefleet_agent.runtimes.base import Array, Feeds, InferenceFailedError, LoadFailedError, Session
from edgefleet_agent.runtimes.wrapping import Wrapping
from edgefleet_contract.artifact import TensorMap, TensorSpec
from edgefleet_contract.base import clip_reason


def mapped(session: Session, inputs: Mapping[str, TensorMap], outputs: Mapping[str, TensorMap]) -> Session:
    """Return a session under the source's names and axes; the same session where nothing is mapped.

    Args:
        session: the model file.
        inputs: the source's input name → how the file holds it; an input left out is the same in both.
        outputs: likewise for outputs.

    Raises:
        LoadFailedError: a map names no tensor of the file, names one twice, or has another number of axes.
    """
    return MappedSession(session, inputs, outputs) if inputs or outputs else session


class MappedSession(Wrapping):
    """A session behind a map. Arguments and errors as `mapped`."""

    def __init__(self, inner: Session, inputs: Mapping[str, TensorMap], outputs: Mapping[str, TensorMap]) -> None:
        super().__init__(inner)
        self._inputs, self._in = _translated(inner.inputs, inputs, "input")
        self._outputs, self._out = _translated(inner.outputs, outputs, "output")

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to take, in the source's terms."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to give, in the source's terms."""
        return self._outputs

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by the source's names, in its order of axes. Raises InferenceFailedError."""
        found = self._inner.run(self._to_file(feeds))
        return {name: to_source(found[tensor.name], tensor) for name, tensor in self._out.items()}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return the file's own call: feeds are transposed once, here, outside of what is timed."""
        return self._inner.bind(self._to_file(feeds))

    def _to_file(self, feeds: Feeds) -> dict[str, Array]:
        if unknown := sorted(set(feeds) - set(self._in)):
            msg = f"the model takes {sorted(self._in)}, got {unknown[0]!r}"
            raise InferenceFailedError(clip_reason(msg))
        return {self._in[name].name: _to_file_order(value, self._in[name]) for name, value in feeds.items()}


def _translated(
    specs: tuple[TensorSpec, ...], maps: Mapping[str, TensorMap], kind: str
) -> tuple[tuple[TensorSpec, ...], dict[str, TensorMap]]:
    """Return the file's specs in the source's terms, and the map of every one of them, by the source's name."""
    source_of = {tensor.name: name for name, tensor in maps.items()}
    known = {spec.name for spec in specs}
    if len(source_of) != len(maps) or not set(source_of) <= known:
        asked = sorted(tensor.name for tensor in maps.values())
        msg = f"the {kind} map leads to {asked}; the model file has {sorted(known)}, each of which it may name once"
        raise LoadFailedError(clip_reason(msg))
    translated: dict[str, TensorSpec] = {}
    tensors: dict[str, TensorMap] = {}
    for spec in specs:
        name = source_of.get(spec.name, spec.name)
        tensor = maps.get(name, TensorMap(name=spec.name))
        if tensor.axes and len(tensor.axes) != len(spec.shape):
            msg = (
                f"the {kind} map of {name!r} has {len(tensor.axes)} axes; the model file's tensor has {len(spec.shape)}"
            )
            raise LoadFailedError(clip_reason(msg))
        shape = tuple(spec.shape[axis] for axis in _inverse(tensor.axes)) if tensor.axes else spec.shape
        layout = None if tensor.axes else spec.layout
        translated[name] = spec.model_copy(update={"name": name, "shape": shape, "layout": layout})
        tensors[name] = tensor
    if len(translated) != len(specs):
        msg = f"the {kind} map gives one name to two tensors of the model file"
        raise LoadFailedError(msg)
    return tuple(translated.values()), tensors


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(axes.index(axis) for axis in range(len(axes)))


def _to_file_order(value: Array, tensor: TensorMap) -> Array:
    if not tensor.axes:
        return value
    if value.ndim != len(tensor.axes):
        msg = f"{tensor.name!r} takes {len(tensor.axes)} axes, got shape {value.shape}"
        raise InferenceFailedError(clip_reason(msg))
    return np.ascontiguousarray(np.transpose(value, tensor.axes))


def to_source(value: Array, tensor: TensorMap) -> Array:
    """Return a file's tensor in the source's order of axes. Raises InferenceFailedError when it has other axes."""
    if not tensor.axes:
        return value
    if value.ndim != len(tensor.axes):
        msg = f"output {tensor.name!r} came with shape {value.shape}; its map has {len(tensor.axes)} axes"
        raise InferenceFailedError(clip_reason(msg))
    return np.transpose(value, _inverse(tensor.axes))
