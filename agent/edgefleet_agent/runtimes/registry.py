"""Finds a runtime by name, importing its module only then."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from edgefleet_agent.runtimes.base import ProbesAlone, Runtime, TakesOptions, UnsupportedError
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_contract.variant import ENGINES, Variant

TEST_RUNTIME = "misbehave"
_MODULES = {
    "ort": "edgefleet_agent.runtimes.ort",
    "tflite": "edgefleet_agent.runtimes.litert",
    "tensorrt": "edgefleet_agent.runtimes.trt",
    "tensorrt-rtx": "edgefleet_agent.runtimes.trt_rtx",
    TEST_RUNTIME: "edgefleet_agent.runtimes.misbehave",
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
    runtime = _runtime(variant.runtime)
    reason = _reason_against(runtime, variant)
    if reason is not None:
        raise UnsupportedError(reason)
    return runtime


def with_options(runtime: Runtime, target: str, options: Mapping[str, str]) -> Runtime:
    """Return a runtime with the options an artifact carries for it.

    Raises:
        UnsupportedError: it takes none, or not these.
    """
    if not options:
        return runtime
    if not isinstance(runtime, TakesOptions):
        raise UnsupportedError(
            f"{target} takes no options of an artifact; this one carries: {', '.join(options)[:500]}"
        )
    return runtime.with_options(target, options)


def options_here(runtime: Runtime, engine: str) -> str:
    """Return the options an engine is given here, as `key=value,key=value`; empty where there are none."""
    given = runtime.options_here(engine) if isinstance(runtime, TakesOptions) else {}
    return ",".join(f"{name}={value}" for name, value in sorted(given.items()))


def _reason_against(runtime: Runtime, variant: Variant) -> str | None:
    """Return why a variant cannot run; an engine that may crash is not started for it, as loading the model does."""
    if isinstance(runtime, ProbesAlone):
        return runtime.check(variant.engine)
    probe = next(probe for probe in runtime.probe() if probe.target == variant.target)
    return None if probe.status is ProbeStatus.AVAILABLE else probe.reason or f"{probe.target} is {probe.status.value}"


def probe_engines(*, test_runtimes: bool) -> tuple[EngineProbe, ...]:
    """Return what works here, for every engine of the variant grammar but those of `engines_alone`."""
    return tuple(probe for name in _names(test_runtimes) for probe in _probe(name))


def engines_alone(*, test_runtimes: bool) -> tuple[str, ...]:
    """Return the installed targets (`runtime/engine`) that may crash: each is to be probed in its own process."""
    return tuple(f"{name}/{engine}" for name in _names(test_runtimes) for engine in _alone(name))


def probe_target(target: str, *, test_runtimes: bool) -> EngineProbe:
    """Return whether one `runtime/engine` works here, by starting it in this process.

    Raises:
        UnsupportedError: the grammar has no such target, or it is not offered here.
    """
    name, _, engine = target.partition("/")
    if name not in _names(test_runtimes) or engine not in ENGINES[name]:
        raise UnsupportedError(f"no target {target!r} is offered here")
    prober = _prober(name)
    if prober is not None:
        return prober.probe_engine(engine)
    return next(probe for probe in _probe(name) if probe.target == target)


def _names(test_runtimes: bool) -> list[str]:
    return [name for name in ENGINES if name != TEST_RUNTIME or test_runtimes]


def _alone(name: str) -> tuple[str, ...]:
    prober = _prober(name)
    return () if prober is None else prober.alone()


def _prober(name: str) -> ProbesAlone | None:
    runtime: object = _runtime(name)
    return runtime if isinstance(runtime, ProbesAlone) else None


def _probe(name: str) -> tuple[EngineProbe, ...]:
    runtime = _runtime(name)
    if isinstance(runtime, ProbesAlone):
        alone = runtime.alone()
        return tuple(runtime.probe_engine(engine) for engine in ENGINES[name] if engine not in alone)
    return runtime.probe()


def _runtime(name: str) -> Runtime:
    runtime: Runtime = import_module(_MODULES[name]).RUNTIME
    return runtime
