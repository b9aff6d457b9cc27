"""One model loaded by LiteRT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

import numpy as np
from pydantic import ValidationError

from edgefleet_agent.runtimes.base import (
    Array,
    Feeds,
    InferenceFailedError,
    LoadFailedError,
    TensorRefusedError,
    UnsupportedError,
)
from edgefleet_agent.runtimes.float_edges import Scale
from edgefleet_agent.runtimes.litert_placement import Node, nodes_of, placement_of
from edgefleet_contract.artifact import Dim, DType, TensorSpec
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import PlacementResult

Interpreter = Any
"""LiteRT's `Interpreter`; the package ships no types."""
MakeInterpreter = Callable[[Mapping[int, tuple[int, ...]]], Interpreter]
"""Takes the shapes of inputs by tensor index where they differ from the file's; returns a new interpreter with its
tensors allocated. Raises LoadFailedError and UnsupportedError."""

_DTYPES = frozenset(get_args(DType))
_STATEFUL_OPS = frozenset({
    "VAR_HANDLE", "CALL_ONCE", "LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN",
})  # fmt: skip
"""Operators that keep something from one inference to the next."""


class LitertSession:
    """A model in an interpreter of its own.

    Args:
        make: makes an interpreter of the file.
        engine: the engine asked for, for placement.
        delegate: the delegate's library, for placement; None where there is none.

    Raises:
        LoadFailedError: the file is damaged.
        UnsupportedError: a kernel is not there.
        TensorRefusedError: a tensor is none that this version takes.
    """

    def __init__(self, make: MakeInterpreter, *, engine: str, delegate: str | None = None) -> None:
        self._make = make
        self._engine = engine
        self._delegate = delegate
        self._interpreter = make({})
        self._bound = False
        self._kept: list[Interpreter] = []
        try:
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            nodes = self._nodes()
        except UnicodeDecodeError as error:
            msg = "a tensor's or an operator's name is no UTF-8 text: the model file is damaged"
            raise LoadFailedError(msg) from error
        self._input_index = {str(detail["name"]): int(detail["index"]) for detail in inputs}
        self._output_index = {str(detail["name"]): int(detail["index"]) for detail in outputs}
        self._shapes = {int(detail["index"]): _sizes(detail["shape"]) for detail in inputs}
        self._inputs, self._outputs = tuple(map(_spec, inputs)), tuple(map(_spec, outputs))
        self._scales = dict(filter(None, map(_scale, [*inputs, *outputs])))
        if len(self._input_index) != len(inputs) or len(self._output_index) != len(outputs):
            msg = "two inputs or two outputs of the model have one name, so they cannot be told apart"
            raise UnsupportedError(msg)
        self._stateful = any(node.op in _STATEFUL_OPS for node in nodes)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to take; quantised tensors keep their integer dtype."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to give; quantised tensors keep their integer dtype."""
        return self._outputs

    @property
    def scales(self) -> Mapping[str, Scale]:
        """How quantised inputs and outputs stand for real numbers; only those with one scale for the whole tensor."""
        return self._scales

    @property
    def stateful(self) -> bool:
        """Whether an inference may depend on those before it."""
        return self._stateful

    def reset(self) -> None:
        """Forget what earlier inferences left behind.

        Only a new interpreter does: neither `reset_all_variables` nor another allocation clears resource variables.
        """
        if self._stateful:
            self._renew(self._shapes)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name; inputs of dynamic size take the size of `feeds`.

        Raises:
            UnsupportedError: a kernel does not take its node: with inputs of dynamic size that shows only now.
            InferenceFailedError: anything else.
        """
        self._check(feeds)
        self._fit(feeds)
        try:
            for name, value in feeds.items():
                self._interpreter.set_tensor(self._input_index[name], np.asarray(value, order="C"))
            self._call()()
            return {name: self._interpreter.get_tensor(index) for name, index in self._output_index.items()}
        except (RuntimeError, ValueError, SystemError) as error:
            said = str(error).strip() or type(error).__name__
            if "failed to prepare" in said:
                raise UnsupportedError(clip_reason(f"tflite/{self._engine} cannot run the model: {said}")) from error
            raise InferenceFailedError(clip_reason(f"an inference failed: {said}")) from error

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return the interpreter's own call on `feeds`, which lie in its input tensors already.

        The call under the wrapper (0.34 µs around an empty model) is used where this version has it. An interpreter has
        one set of input tensors: of several bound calls, all compute on the feeds bound or run last.
        """
        self.run(feeds)
        self._bound = True
        return self._call()

    def _call(self) -> Callable[[], object]:
        """Return one inference. The wrapper's own call would also refuse while a bound one is kept somewhere."""
        inner: Callable[[], object] | None = getattr(getattr(self._interpreter, "_interpreter", None), "Invoke", None)
        public: Callable[[], object] = self._interpreter.invoke
        return inner if inner is not None else public

    def placement(self) -> PlacementResult | None:
        """Return which operators of the main graph the engine took, read back from the interpreter."""
        nodes = self._nodes()
        outputs = self._output_index.values()
        return placement_of(nodes, outputs, engine=self._engine, delegate=self._delegate) if nodes else None

    def close(self) -> None:
        """Free the model."""
        self._interpreter = None
        self._kept.clear()

    def _nodes(self) -> tuple[Node, ...]:
        tells = getattr(self._interpreter, "_get_ops_details", None)
        return nodes_of(tells()) if tells is not None else ()

    def _check(self, feeds: Feeds) -> None:
        if set(feeds) != set(self._input_index):
            msg = f"the model takes {sorted(self._input_index)}, got {sorted(feeds)}"
            raise InferenceFailedError(clip_reason(msg))
        for spec in self._inputs:
            value = feeds[spec.name]
            fits = len(value.shape) == len(spec.shape) and all(
                not isinstance(size, int) or size == got for size, got in zip(spec.shape, value.shape, strict=True)
            )
            if not fits or value.dtype != spec.dtype:
                msg = f"input {spec.name!r} is {spec.dtype}{list(spec.shape)}, got {value.dtype}{list(value.shape)}"
                raise InferenceFailedError(clip_reason(msg))

    def _fit(self, feeds: Feeds) -> None:
        """Give inputs of dynamic size the size of what they are fed."""
        wanted = {self._input_index[name]: tuple(value.shape) for name, value in feeds.items()}
        if wanted != self._shapes:
            self._renew(wanted)
            self._shapes = wanted

    def _renew(self, shapes: Mapping[int, tuple[int, ...]]) -> None:
        """Take a new interpreter; the old one is freed first, as small devices do not hold two, unless it is bound.

        A bound call reaches into its interpreter, whose delegate may not be freed before it.
        """
        if self._bound:
            self._kept.append(self._interpreter)
        self._bound = False
        self._interpreter = None
        self._interpreter = self._make(shapes)


def _sizes(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(map(int, shape))


def _spec(detail: Mapping[str, Any]) -> TensorSpec:
    name, dtype = str(detail["name"]), np.dtype(detail["dtype"]).name
    if dtype not in _DTYPES:
        msg = f"tensor {name[:200]!r} is of type {dtype}; this version takes tensors of: {', '.join(sorted(_DTYPES))}"
        raise TensorRefusedError(clip_reason(msg))
    declared = detail.get("shape_signature", ())
    sizes = declared if len(declared) == len(detail["shape"]) else detail["shape"]
    try:
        return TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": tuple(_dim(size) for size in sizes)})
    except ValidationError as error:
        msg = f"tensor {name[:200]!r} has a name or shape outside our bounds"
        raise TensorRefusedError(msg) from error


def _scale(detail: Mapping[str, Any]) -> tuple[str, Scale] | None:
    """Return a tensor's name and scale; None where it is not an integer tensor with one scale."""
    found = detail.get("quantization_parameters", {})
    scales, zero_points = found.get("scales", ()), found.get("zero_points", ())
    if len(scales) != 1 or len(zero_points) != 1 or np.dtype(detail["dtype"]).kind not in "iu":
        return None
    scale = float(scales[0])
    return (str(detail["name"]), Scale(scale, int(zero_points[0]))) if math.isfinite(scale) and scale > 0 else None


def _dim(size: int) -> Dim:
    return int(size) if size >= 0 else "?"
