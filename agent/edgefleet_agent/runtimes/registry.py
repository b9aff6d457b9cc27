"""Finds a runtime by name, importing its module only then; says truly what this version does not have."""

from __future__ import annotations

from importlib import import_module

from edgefleet_agent.runtimes.base import Runtime, UnsupportedError
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_contract.variant import ENGINES, Variant

TEST_RUNTIME = "misbehave"
_MODULES = {"ort": "edgefleet_agent.runtimes.ort", TEST_RUNTIME: "edgefleet_agent.runtimes.misbehave"}
_ABSENT = {
    "tflite": "this version of the agent has no TFLite runtime",
    "tensorrt": "this version of the agent has no TensorRT runtime",
    "tensorrt-rtx": "this version of the agent has no TensorRT-RTX runtime",
}


def find_runtime(variant: Variant, *, test_runtimes: bool) -> Runtime:
    """Return the runtime that runs a variant here.

    Args:
        variant: what shall run.
        test_runtimes: whether the runtime that misbehaves on purpose may be used.

    Raises:
        UnsupportedError: this version has no such runtime or engine, or it does not work here; says why.
    """
    if variant.runtime == TEST_RUNTIME and not test_runtimes:
        msg = f"{variant} misbehaves on purpose and is offered only by agents started with test runtimes"
        raise UnsupportedError(msg)
    if variant.runtime not in _MODULES:
        raise UnsupportedError(_ABSENT[variant.runtime])
    runtime = _runtime(variant.runtime)
    probe = next(probe for probe in runtime.probe() if probe.target == variant.target)
    if probe.status is not ProbeStatus.AVAILABLE:
        raise UnsupportedError(probe.reason or f"{variant.target} is {probe.status.value}")
    return runtime


def probe_engines(*, test_runtimes: bool) -> tuple[EngineProbe, ...]:
    """Return what works here, for every engine of the variant grammar."""
    names = [name for name in ENGINES if name != TEST_RUNTIME or test_runtimes]
    return tuple(probe for name in names for probe in _probe(name))


def _probe(name: str) -> tuple[EngineProbe, ...]:
    if name in _MODULES:
        return _runtime(name).probe()
    return tuple(
        EngineProbe(target=f"{name}/{engine}", status=ProbeStatus.MISSING, reason=_ABSENT[name])
        for engine in ENGINES[name]
    )


def _runtime(name: str) -> Runtime:
    runtime: Runtime = import_module(_MODULES[name]).RUNTIME
    return runtime
