"""ONNX Runtime, on the CPU or with one of its execution providers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from edgefleet_agent.runtimes.base import (
    NEVER_RUN,
    Array,
    Feeds,
    InferenceFailedError,
    LoadFailedError,
    TensorRefusedError,
    UnsupportedError,
)
from edgefleet_agent.runtimes.capture import native_stderr
from edgefleet_agent.runtimes.ort_placement import (
    OrtHandle,
    Providers,
    profile_placement,
    read_placement,
    tells_placement,
    with_times,
)
from edgefleet_agent.runtimes.ort_profile import profile_operators
from edgefleet_agent.runtimes.ort_providers import (
    ABSENT_SIGNS,
    PROVIDERS,
    absent_reason,
    options_problem,
    providers_of,
    tidy_log,
)
from edgefleet_contract.artifact import Dim, DType, TensorSpec
from edgefleet_contract.base import clip_reason
from edgefleet_contract.errors import DeviceError
from edgefleet_contract.evidence import OperatorProfile, PlacementResult
from edgefleet_contract.options import provider_problem
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_contract.variant import ENGINES, Variant

_QUIET = 3
"""Log severity: errors only. Warnings about models are the builder's concern, and standard error is kept short."""

_DTYPES: dict[str, DType] = {
    "double": "float64", "float": "float32", "float16": "float16", "int64": "int64", "int32": "int32",
    "int16": "int16", "int8": "int8", "uint64": "uint64", "uint32": "uint32", "uint16": "uint16", "uint8": "uint8",
    "bool": "bool",
}  # fmt: skip

_UNSUPPORTED_SIGNS = (
    "NOT_IMPLEMENTED",
    "is not a registered function/op",
    "Unsupported model IR version",
    "ONNX Runtime only *guarantees* support",
)
"""What ONNX Runtime 1.23 to 1.32 says when the file is sound but it has no opset, operator or kernel for it."""

_MEMORY_SIGNS = ("bad_alloc", "Failed to allocate memory")
_NOISE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |/onnxruntime_src/\S+ .*?\) (?=[A-Z])")

_PROBE_MODEL = bytes.fromhex(
    "080812003a83010a0f0a01780a01771201792204436f6e761201672a330801080108030803100122240000803f0000803f0000803f0000"
    "803f0000803f0000803f0000803f0000803f0000803f4201775a1b0a017812160a14080112100a0208010a0208010a0208040a02080462"
    "1b0a017912160a14080112100a0208010a0208010a0208020a02080242040a00100d"
)
"""An ONNX model of one Conv node, opset 13: `x` float32[1,1,4,4] → `y` float32[1,1,2,2], a 3 x 3 kernel of ones. Every
provider has a Conv, and on ones it gives nines: the smallest thing that proves an engine runs."""


_SEEN_ENGINES = frozenset({"cpu", "openvino"})
"""Engines that we have run on hardware."""


class OrtRuntime:
    """ONNX Runtime with one provider asked for, and the CPU's for what that one does not take.

    Run on hardware by us: `cpu`, and `openvino` on its CPU device. `cuda`, `tensorrt`, `coreml`, `qnn` and `xnnpack`
    were never run on hardware by us.
    """

    def __init__(self, carried: Mapping[str, str] | None = None) -> None:
        self._carried = dict(carried or {})

    def with_options(self, target: str, options: Mapping[str, str]) -> OrtRuntime:
        """Return this runtime with the provider options of an artifact. Raises UnsupportedError as `TakesOptions`."""
        if (problem := provider_problem(target, options)) is not None:
            raise UnsupportedError(clip_reason(f"the artifact's provider options are refused: {problem}"))
        return OrtRuntime(options)

    def options_here(self, engine: str) -> dict[str, str]:
        """Return the options a provider is given here: the artifact's, and before them the device's own."""
        return providers_of(engine, carried=self._carried)[0][1]

    @property
    def version(self) -> str:
        """The library's version."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def alone(self) -> tuple[str, ...]:
        """Return the engines besides the CPU whose provider is installed: starting one loads drivers."""
        return tuple(engine for engine in ENGINES["ort"] if engine != "cpu" and self.check(engine) is None)

    def check(self, engine: str) -> str | None:
        """Return why an engine cannot be used, as far as is known without starting it."""
        found = self._installed(engine)
        return None if found.status is ProbeStatus.AVAILABLE else found.reason

    def probe(self) -> tuple[EngineProbe, ...]:
        """Return what works here. Starts every installed provider in this process."""
        return tuple(self.probe_engine(engine) for engine in ENGINES["ort"])

    def probe_engine(self, engine: str) -> EngineProbe:
        """Return whether one engine works here: it must compute the probe model, and be read back as what ran it.

        What the library claims is no proof: onnxruntime-gpu lists CUDA on machines without a GPU.
        """
        found = self._installed(engine)
        if found.status is not ProbeStatus.AVAILABLE:
            return found
        reason = _reason_it_does_not_run(engine)
        if reason is None:
            return found if engine in _SEEN_ENGINES else found.model_copy(update={"reason": NEVER_RUN})
        absent = any(sign in reason for sign in ABSENT_SIGNS)
        status = ProbeStatus.MISSING if absent else ProbeStatus.BROKEN
        return found.model_copy(update={"status": status, "reason": clip_reason(reason)})

    def _installed(self, engine: str) -> EngineProbe:
        target = f"ort/{engine}"
        try:
            import onnxruntime
        except ModuleNotFoundError:
            reason = "onnxruntime is not installed; install edgefleet[agent,ort]"
            return EngineProbe(target=target, status=ProbeStatus.MISSING, reason=reason)
        except ImportError as error:
            reason = clip_reason(f"onnxruntime does not import: {error}")
            return EngineProbe(target=target, status=ProbeStatus.BROKEN, reason=reason)
        version = self.version
        if PROVIDERS[engine] not in onnxruntime.get_available_providers():
            reason = absent_reason(engine, version)
            return EngineProbe(target=target, status=ProbeStatus.MISSING, version=version, reason=reason)
        if (problem := options_problem(engine)) is not None:
            return EngineProbe(target=target, status=ProbeStatus.BROKEN, version=version, reason=problem)
        return EngineProbe(target=target, status=ProbeStatus.AVAILABLE, version=version)

    def load(self, path: Path, *, variant: Variant, threads: int, spinning: bool) -> OrtSession:
        """Load a model file. Arguments and errors as `Runtime.load`."""
        if (reason := self.check(variant.engine)) is not None:
            raise UnsupportedError(reason)
        providers = providers_of(variant.engine, carried=self._carried)
        return OrtSession(_open(path, providers, threads=threads, spinning=spinning), str(path), providers)


def _reason_it_does_not_run(engine: str) -> str | None:
    """Return why an engine does not compute the probe model here, in words; None when it does."""
    providers = providers_of(engine)
    try:
        session = OrtSession(_open(_PROBE_MODEL, providers, threads=1, spinning=False), _PROBE_MODEL, providers)
        given = session.run({"x": np.ones((1, 1, 4, 4), np.float32)})["y"]
        placement = session.placement()
    except DeviceError as error:
        return f"the probe model does not run: {error}"
    if placement is None or placement.nodes.get(PROVIDERS[engine], 0) == 0:
        where = ", ".join(placement.nodes) if placement else "nothing it tells of"
        return f"{PROVIDERS[engine]} is offered, and the probe model ran on {where}"
    if not np.allclose(given, 9.0, rtol=1e-2):
        return f"the probe model gives {given.reshape(-1)[:4].tolist()} on {PROVIDERS[engine]}; right is 9.0"
    return None


class OrtSession:
    """One model loaded by ONNX Runtime."""

    def __init__(self, session: OrtHandle, model: str | bytes, providers: Providers) -> None:
        self._session = session
        self._model = model
        self._providers = providers
        self._inputs = tuple(_spec(node) for node in session.get_inputs())
        self._outputs = tuple(_spec(node) for node in session.get_outputs())

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to take."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to give."""
        return self._outputs

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name. Raises InferenceFailedError."""
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as error:  # the vendor's exceptions have no common base
            raise _inference_failed(error) from error
        return {spec.name: np.asarray(value) for spec, value in zip(self._outputs, values, strict=True)}

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return a call that infers on `feeds` into preallocated outputs.

        The wrapper's own `run_with_iobinding` costs more than a tiny model; the call under it (2.15 µs around an
        empty model) is used where this version has it.
        """
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        inputs, outputs = (
            {name: np.asarray(value, order="C") for name, value in each.items()} for each in (feeds, self.run(feeds))
        )
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(value))
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(value))
        call = self._call_on(binding)
        vars(call)["arrays"] = (inputs, outputs)  # the binding points into them, and does not keep them
        return call

    def _call_on(self, binding: OrtHandle) -> functools.partial[object]:
        inner = getattr(getattr(self._session, "_sess", None), "run_with_iobinding", None)
        inner_binding = getattr(binding, "_iobinding", None)
        if inner is not None and inner_binding is not None:
            return functools.partial(inner, inner_binding, None)
        return functools.partial(self._session.run_with_iobinding, binding)

    def placement(self) -> PlacementResult | None:
        """Return where operators run, read back from the runtime."""
        if not tells_placement(self._session):
            return profile_placement(self._model, self._inputs, providers=self._providers)
        told = read_placement(self._session, wanted=self._providers[0][0])
        return None if told is None else with_times(told, self._model, self._inputs, self._providers)

    def profile_operators(self, feeds: Feeds, *, threads: int, limit_s: float) -> OperatorProfile | None:
        """Return where time goes inside the model, as `ort_profile` does, on the engine of this session."""
        try:
            return profile_operators(self._model, self._providers, feeds, threads=threads, limit_s=limit_s)
        except Exception as error:  # the vendor's exceptions have no common base
            raise _inference_failed(error) from error

    def close(self) -> None:
        """Free the model."""
        del self._session


RUNTIME = OrtRuntime()


def _open(source: Path | bytes, providers: Providers, *, threads: int, spinning: bool) -> OrtHandle:
    """Return a session that holds the provider asked for. Raises LoadFailedError and UnsupportedError."""
    session = _try_open(source, providers, threads=threads, spinning=spinning)
    wanted = providers[0][0]
    if wanted in session.get_providers():
        return session
    # The library goes on without a provider that does not start, and says why on standard error alone.
    said: list[str] = []
    with native_stderr(said):
        _try_open(source, providers, threads=threads, spinning=spinning)
    words = tidy_log(said[0])
    msg = f"{wanted} does not start here: {words or 'it does not say why'}"
    raise UnsupportedError(clip_reason(msg))


def _try_open(source: Path | bytes, providers: Providers, *, threads: int, spinning: bool) -> OrtHandle:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    # Read by versions from 1.24 on; older ones ignore it.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    model = source if isinstance(source, bytes) else str(source)
    try:
        return onnxruntime.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # damaged files raise anything, UnicodeDecodeError included
        raise _load_failed(error, source) from error


def _load_failed(error: Exception, source: Path | bytes) -> DeviceError:
    text = str(error)
    if any(sign in text for sign in _MEMORY_SIGNS):
        raise MemoryError(text)
    name = source.name if isinstance(source, Path) else "the model"
    said = _tidy(text, source) or type(error).__name__
    if any(sign in text for sign in _UNSUPPORTED_SIGNS):
        return UnsupportedError(clip_reason(f"ONNX Runtime cannot run {name}: {said}"))
    return LoadFailedError(clip_reason(f"ONNX Runtime cannot load {name}: {said}"))


def _inference_failed(error: Exception) -> InferenceFailedError:
    text = str(error)
    if any(sign in text for sign in _MEMORY_SIGNS):
        raise MemoryError(text)
    return InferenceFailedError(clip_reason(f"an inference failed: {_tidy(text, b'') or type(error).__name__}"))


def _tidy(text: str, source: Path | bytes) -> str:
    """Return the vendor's message without its code prefix, its source locations and this machine's folders."""
    if isinstance(source, Path):
        text = text.replace(str(source), source.name)
    return _NOISE.sub("", _NOISE.sub("", text)).strip()


def _spec(node: OrtHandle) -> TensorSpec:
    try:
        name, kind, sizes = node.name, node.type, node.shape
    except UnicodeDecodeError as error:
        msg = "a tensor's name or shape is not UTF-8 text: the model file is damaged"
        raise LoadFailedError(msg) from error
    match = re.fullmatch(r"tensor\((\w+)\)", kind)
    dtype = _DTYPES.get(match[1]) if match else None
    if dtype is None:
        msg = f"tensor {name!r} is of type {kind}; this version takes tensors of: {', '.join(_DTYPES)}"
        raise TensorRefusedError(clip_reason(msg))
    try:
        return TensorSpec(name=name, dtype=dtype, shape=tuple(_dim(size) for size in sizes))
    except ValidationError as error:
        msg = f"tensor {name[:200]!r} has a name or shape outside our bounds"
        raise TensorRefusedError(msg) from error


def _dim(size: object) -> Dim:
    if isinstance(size, int) and 0 <= size < 2**31:
        return size
    return size[:128] if isinstance(size, str) and size else "?"
