"""The conditions of a measurement."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from edgefleet_agent import host
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Conditions


def read_conditions(
    runtime: str, runtime_version: str, *, threads: int, spinning: bool, root: Path = Path("/")
) -> Conditions:
    """Return what must be alike for two results to be compared."""
    return Conditions(
        arch=host.arch(),
        os=host.os_name(),
        cpu_model=host.cpu_model(),
        cpu_count=host.cpu_count(),
        runtime=runtime,
        runtime_version=runtime_version,
        threads=threads,
        agent_version=host.agent_version(),
        extra={
            "distribution": host.distribution(),
            "spinning": str(spinning).lower(),
            "cpus": usable_cpus(),
            **host.power_modes(root),
        },
    )


def with_engine_options(conditions: Conditions, options: str) -> Conditions:
    """Return conditions with the options the engine was given, which decide what it computes and how fast."""
    if not options:
        return conditions
    return conditions.model_copy(update={"extra": {**conditions.extra, "engine_options": options}})


def pin(cpus: Collection[int]) -> None:
    """Keep this process, and every thread it starts from now on, on these CPUs; none named: leave it as it is.

    Raises:
        UserInputError: one of them does not exist here, or may not be used.
    """
    if not cpus:
        return
    if not hasattr(os, "sched_setaffinity"):
        msg = "this system does not pin processes to CPUs; leave `cpus` out"
        raise UserInputError(msg)
    allowed = os.sched_getaffinity(0)
    if absent := sorted(set(cpus) - allowed):
        msg = f"CPU {absent[0]} cannot be used here; this process may use {_ranges(allowed)}"
        raise UserInputError(msg)
    os.sched_setaffinity(0, cpus)


def usable_cpus() -> str:
    """Return the CPUs this process may use, as `0-3,6`; `any` where the system does not tell."""
    return _ranges(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "any"


def _ranges(cpus: Collection[int]) -> str:
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
