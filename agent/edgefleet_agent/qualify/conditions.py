"""The conditions of a measurement."""

from __future__ import annotations

from edgefleet_agent import host
from edgefleet_contract.evidence import Conditions


def read_conditions(runtime: str, runtime_version: str, *, threads: int, spinning: bool) -> Conditions:
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
        extra={"distribution": host.distribution(), "spinning": str(spinning).lower()},
    )
