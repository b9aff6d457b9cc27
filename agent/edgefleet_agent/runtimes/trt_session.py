"""One TensorRT plan, loaded and run. Never run on hardware by us."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgefleet_agent.runtimes.base import Array, Feeds, InferenceFailedError, LoadFailedError, UnsupportedError
from edgefleet_agent.runtimes.cuda import Cuda, CudaError
from edgefleet_agent.runtimes.trt_api import ICudaEngine, IExecutionContext, Runtime, Trt
from edgefleet_agent.runtimes.trt_module import new_logger, said
from edgefleet_contract.artifact import DType, TensorSpec
from edgefleet_contract.base import clip_reason
from edgefleet_contract.evidence import PlacementResult

_DTYPES: Mapping[str, DType] = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
    "UINT8": "uint8",
}  # fmt: skip
"""TensorRT's types that numpy has too."""


@dataclass(frozen=True)
class _Buffer:
    """One tensor's memory on both sides."""

    name: str
    host: Array
    address: int

    @property
    def size_bytes(self) -> int:
        return int(self.host.nbytes)


@dataclass(frozen=True)
class _Bound:
    """Buffers of one set of inputs and its outputs."""

    given: tuple[_Buffer, ...]
    taken: tuple[_Buffer, ...]


class TrtSession:
    """A plan on the first GPU.

    Args:
        trt: TensorRT's module.
        cuda: the CUDA runtime.
        plan: a serialised plan, whose header has been read.
        placement: where its layers run, as its builder told; None where nobody told.

    Raises:
        LoadFailedError: TensorRT refuses the plan.
        UnsupportedError: it has inputs or outputs of a type numpy lacks.
        MemoryError: there is no memory for it.
    """

    def __init__(self, trt: Trt, cuda: Cuda, plan: bytes, placement: PlacementResult | None) -> None:
        self._cuda, self._placement = cuda, placement
        self._logger = new_logger(trt)
        self._runtime: Runtime = trt.Runtime(self._logger)
        engine: ICudaEngine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise _refused("the plan", said(self._logger))
        self._engine = engine
        self._inputs, self._outputs = read_specs(trt, engine)
        context: IExecutionContext = engine.create_execution_context()
        if context is None:
            needed_bytes = int(engine.device_memory_size_v2)
            raise _refused(f"an execution context ({needed_bytes} bytes of GPU memory)", said(self._logger))
        self._context = context
        self._stream = cuda.new_stream()
        self._memory: dict[str, list[tuple[int, int]]] = {}
        self._active: _Bound | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the plan declares to take."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the plan declares to give."""
        return self._outputs

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name. Raises InferenceFailedError."""
        bound = self._bind(feeds)
        self._infer(bound)
        return {buffer.name: buffer.host for buffer in bound.taken}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return a call that copies `feeds` to the GPU, infers, copies the outputs back, and waits.

        The copies are part of it: an application's data starts and ends in host memory, as it does on a CPU.
        """
        bound = self._bind(feeds)
        return lambda: self._infer(bound)

    def placement(self) -> PlacementResult | None:
        """Return where the plan's layers run."""
        return self._placement

    def close(self) -> None:
        """Free the plan and its memory."""
        for address, _ in (each for held in self._memory.values() for each in held):
            self._cuda.free(address)
        self._memory.clear()
        self._cuda.drop_stream(self._stream)
        del self._context, self._engine, self._runtime

    def _infer(self, bound: _Bound) -> None:
        context: IExecutionContext = self._context
        try:
            if self._active is not bound:
                self._activate(bound)
            for buffer in bound.given:
                self._cuda.upload(buffer.address, buffer.host.ctypes.data, buffer.size_bytes, self._stream)
            if not context.execute_async_v3(self._stream):
                msg = f"TensorRT does not run the plan: {said(self._logger)}"
                raise InferenceFailedError(clip_reason(msg))
            for buffer in bound.taken:
                self._cuda.download(buffer.host.ctypes.data, buffer.address, buffer.size_bytes, self._stream)
            self._cuda.wait(self._stream)
        except CudaError as error:
            raise InferenceFailedError(str(error)) from error

    def _bind(self, feeds: Feeds) -> _Bound:
        try:
            given = tuple(self._input(spec, feeds[spec.name]) for spec in self._inputs)
            self._set_shapes(given)
            bound = _Bound(given, tuple(self._output(spec) for spec in self._outputs))
            self._activate(bound)
        except CudaError as error:
            raise InferenceFailedError(str(error)) from error
        return bound

    def _activate(self, bound: _Bound) -> None:
        """Point the context at these buffers: several bound calls may take turns."""
        context: IExecutionContext = self._context
        self._set_shapes(bound.given)
        for buffer in (*bound.given, *bound.taken):
            if not context.set_tensor_address(buffer.name, buffer.address):
                msg = f"TensorRT takes no address for {buffer.name!r}: {said(self._logger)}"
                raise InferenceFailedError(clip_reason(msg))
        self._active = bound

    def _set_shapes(self, given: tuple[_Buffer, ...]) -> None:
        context: IExecutionContext = self._context
        for buffer in given:
            if not context.set_input_shape(buffer.name, tuple(buffer.host.shape)):
                msg = f"input {buffer.name!r} has shape {list(buffer.host.shape)}, which the plan does not take"
                raise InferenceFailedError(clip_reason(f"{msg}: {said(self._logger)}"))

    def _input(self, spec: TensorSpec, value: Array) -> _Buffer:
        host = np.array(value, dtype=spec.dtype, order="C", copy=None)
        return _Buffer(spec.name, host, self._address(spec.name, int(host.nbytes)))

    def _output(self, spec: TensorSpec) -> _Buffer:
        context: IExecutionContext = self._context
        shape = tuple(int(size) for size in context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            msg = f"output {spec.name!r} has a shape that depends on the data, which this version does not take"
            raise InferenceFailedError(msg)
        host = np.empty(shape, dtype=spec.dtype)
        return _Buffer(spec.name, host, self._address(spec.name, int(host.nbytes)))

    def _address(self, name: str, size_bytes: int) -> int:
        """Return GPU memory for a tensor: what it had before where that is large enough. Nothing is freed before
        the end, as an earlier bound call may still use it.
        """
        held = self._memory.setdefault(name, [])
        known = next((address for address, had_bytes in held if had_bytes >= size_bytes), None)
        if known is not None:
            return known
        address = self._cuda.malloc(size_bytes)
        held.append((address, size_bytes))
        return address


def read_specs(trt: Trt, engine: ICudaEngine) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return an engine's inputs and outputs, in its own order. Raises UnsupportedError for a type numpy lacks."""
    names = {getattr(trt.DataType, theirs): ours for theirs, ours in _DTYPES.items() if hasattr(trt.DataType, theirs)}
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for place in range(engine.num_io_tensors):
        name = engine.get_tensor_name(place)
        kind = engine.get_tensor_dtype(name)
        if kind not in names:
            msg = f"tensor {name!r} is of type {kind}; this version takes: {', '.join(_DTYPES)}"
            raise UnsupportedError(clip_reason(msg))
        shape = tuple(int(size) if size >= 0 else "?" for size in engine.get_tensor_shape(name))
        side = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        side.append(TensorSpec(name=name, dtype=names[kind], shape=shape))
    return tuple(inputs), tuple(outputs)


def _refused(what: str, reason: str) -> Exception:
    if "OutOfMemory" in reason or "out of memory" in reason:
        return MemoryError(f"TensorRT has no memory for {what}: {reason}")
    return LoadFailedError(clip_reason(f"TensorRT makes nothing of {what}: {reason}"))
