"""A session that speaks floating point where the model file speaks quantised integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from edgefleet_agent.runtimes.base import Array, Feeds, Session
from edgefleet_agent.runtimes.wrapping import Wrapping
from edgefleet_contract.artifact import TensorSpec


class Scale(NamedTuple):
    """A quantised tensor stands for `(integer - zero_point) * scale`."""

    scale: float
    zero_point: int


@runtime_checkable
class Quantised(Protocol):
    """A session that tells how its integer inputs and outputs stand for real numbers."""

    @property
    def scales(self) -> Mapping[str, Scale]:
        """Input or output name → its scale; tensors that are no quantised integers are left out."""
        ...


class FloatEdges(Wrapping):
    """A session whose quantised inputs and outputs are float32.

    Args:
        inner: the model file.
        scales: name → scale of what is quantised; other tensors keep their dtype.
    """

    def __init__(self, inner: Session, scales: Mapping[str, Scale]) -> None:
        super().__init__(inner)
        self._scales = scales
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in inner.inputs}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes, in floating point."""
        return tuple(self._in_float(spec) for spec in self._inner.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives, in floating point."""
        return tuple(self._in_float(spec) for spec in self._inner.outputs)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name, dequantised. Raises InferenceFailedError."""
        found = self._inner.run(self._quantised(feeds))
        return {name: self._real(name, value) for name, value in found.items()}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return the file's own call: feeds are quantised once, here, outside of what is timed."""
        return self._inner.bind(self._quantised(feeds))

    def _in_float(self, spec: TensorSpec) -> TensorSpec:
        return spec.model_copy(update={"dtype": "float32"}) if spec.name in self._scales else spec

    def _quantised(self, feeds: Feeds) -> dict[str, Array]:
        return {name: self._integers(name, value) for name, value in feeds.items()}

    def _integers(self, name: str, value: Array) -> Array:
        """Return real numbers as the file's integers: rounded to nearest, and cut where the type ends."""
        scale = self._scales.get(name)
        if scale is None:
            return value
        bounds = np.iinfo(self._dtypes[name])
        rounded = np.rint(value / scale.scale) + scale.zero_point
        integers: Array = np.clip(rounded, bounds.min, bounds.max).astype(self._dtypes[name])
        return integers

    def _real(self, name: str, value: Array) -> Array:
        scale = self._scales.get(name)
        if scale is None:
            return value
        return ((value.astype(np.float64) - scale.zero_point) * scale.scale).astype(np.float32)


def with_float_edges(session: Session, inputs: bool, outputs: bool) -> tuple[Session, tuple[str, ...]]:
    """Return a session in floating point at its edges, and in words what was converted.

    Args:
        session: the model file.
        inputs: whether quantised inputs are wanted in floating point.
        outputs: likewise for outputs.
    """
    known = session.scales if isinstance(session, Quantised) else {}
    wanted = {spec.name for spec in (session.inputs if inputs else ()) + (session.outputs if outputs else ())}
    scales = {name: scale for name, scale in known.items() if name in wanted}
    if not scales:
        return session, ()
    said = tuple(
        f"{name!r} is quantised: {scale.scale:.6g} × (integer − {scale.zero_point}) stands for the real number"
        for name, scale in scales.items()
    )
    return FloatEdges(session, scales), said
