"""What a device is: which changes make proofs on it stale."""

from __future__ import annotations

import pytest

from edgefleet_contract.profile import EngineProbe, ProbeStatus, Profile

PROFILE = Profile(
    device="one",
    site="lab",
    agent_version="1",
    arch="aarch64",
    os="Linux",
    kernel="6.1",
    python_version="3.11",
    cpu_model="A78AE",
    cpu_count=6,
    memory_bytes=2**33,
    disk_free_bytes=2**30,
    engines=(EngineProbe(target="ort/cpu", status=ProbeStatus.AVAILABLE, version="1.32"),),
)


def test_free_disk_labels_and_the_agents_version_leave_the_environment_as_it_is() -> None:
    other = PROFILE.model_copy(update={"disk_free_bytes": 1, "labels": {"site": "x"}, "agent_version": "9"})
    assert other.environment == PROFILE.environment


@pytest.mark.parametrize(
    "change",
    [
        {"kernel": "6.2"},
        {"cpu_count": 4},
        {"power_mode": "nvpmodel 2"},
        {"engines": (EngineProbe(target="ort/cpu", status=ProbeStatus.AVAILABLE, version="1.33"),)},
        {"engines": (EngineProbe(target="ort/cpu", status=ProbeStatus.BROKEN, version="1.32", reason="no"),)},
    ],
)
def test_another_kernel_runtime_number_of_cpus_or_power_mode_is_another_environment(change: dict[str, object]) -> None:
    assert PROFILE.model_copy(update=change).environment != PROFILE.environment
