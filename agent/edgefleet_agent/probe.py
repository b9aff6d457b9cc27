"""Finds out what this device is and can do. Safe in the resident process: runtimes are loaded in a child only."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

from edgefleet_agent import host
from edgefleet_agent.jobs import JobDeath, run_job
from edgefleet_agent.sensors.probe import energy_unmeasured_reason, find_sysfs, is_live, list_sensors, probe
from edgefleet_agent.sensors.readings import read_rails
from edgefleet_contract.base import clip_reason
from edgefleet_contract.child import ChildEnd, ChildLimits
from edgefleet_contract.job import ErrorAnswer, ProbeAnswer, ProbeJob
from edgefleet_contract.profile import EngineProbe, ProbedProfile, ProbeStatus, Profile
from edgefleet_contract.variant import ENGINES

PROBE_LIMITS = ChildLimits(timeout_s=60.0, memory_bytes=1024**3)
"""Importing a runtime from a slow card takes tens of seconds at worst."""

PROBE_ATTEMPTS = 3
"""A probe's death may be somebody else's doing (a kill, the kernel short of memory), and would cost its engines until
the next start."""

FOREIGN_NOTE = "the sensors are those of the given tree; processor and system are this machine's; no engine was probed"
_BOARDS = (("NVIDIA Jetson", "jetson"), ("Raspberry Pi", "raspberry-pi"), ("Coral", "coral"))
_CHIPS = (("nvidia,tegra", "jetson"), ("raspberrypi,", "raspberry-pi"))
"""Older Jetsons and other makers' carrier boards have names of their own, and tell the chip below."""
_IN_CHILD_RUNTIMES = ("ort", "tflite", "tensorrt", "tensorrt-rtx")
"""Runtimes whose library the probe loads, so whose fault a dead probe can be."""


def probe_profile(
    site: str,
    device: str,
    labels: Mapping[str, str],
    engines: tuple[EngineProbe, ...],
    sysfs_root: Path = Path("/sys"),
    disk: Path = Path("/"),
) -> Profile:
    """Return what this device is.

    Args:
        site: the site's name.
        device: the device's name.
        labels: labels the operator gave; they win over those found out here (`board`).
        engines: what `probe_engines_in_child` found.
        sysfs_root: where sysfs is mounted.
        disk: a folder on the disk whose free space counts.
    """
    import psutil

    sensors = probe(sysfs_root)
    sysfs_root = find_sysfs(sysfs_root)
    return Profile(
        device=device,
        site=site,
        agent_version=host.agent_version(),
        arch=host.arch(),
        os=host.os_name(),
        kernel=platform.release()[:128],
        python_version=platform.python_version(),
        cpu_model=host.cpu_model(sysfs_root=sysfs_root),
        cpu_count=host.cpu_count(),
        cpu_features=host.cpu_features(),
        memory_bytes=psutil.virtual_memory().total,
        disk_free_bytes=shutil.disk_usage(disk).free,
        engines=engines,
        sensors=list_sensors(sensors, sensors.read_thermal()),
        energy_unmeasured_reason=energy_unmeasured_reason(sensors.total),
        labels={**_board_label(sysfs_root), **labels},
        power_mode=host.power_mode() if is_live(sysfs_root) else "",
    )


def with_readings(profile: Profile, sysfs_root: Path = Path("/sys")) -> ProbedProfile:
    """Return a profile with what every sensor reads now.

    Args:
        profile: what `probe_profile` returned for the same root.
        sysfs_root: where sysfs is mounted, or the tree of another machine; then its sensors stand beside this machine's
            processor, and a note says so.
    """
    sensors = probe(sysfs_root)
    rails, total = read_rails(sensors)
    thermal = sensors.read_thermal()
    foreign = () if is_live(find_sysfs(sysfs_root)) else (FOREIGN_NOTE,)
    return ProbedProfile(
        **profile.model_dump(),
        sysfs_root=str(sysfs_root),
        rails=rails,
        total=total,
        temperatures=thermal.temperatures,
        cooling=thermal.cooling,
        frequencies=thermal.frequencies,
        throttle=thermal.throttle,
        notes=(*foreign, *map(clip_reason, sensors.notes), *thermal.notes)[:32],
    )


def _board_label(sysfs_root: Path) -> dict[str, str]:
    model = host.board_model(sysfs_root) or ""
    named = next((label for sign, label in _BOARDS if sign in model), None)
    makers = host.board_makers(sysfs_root)
    label = named or next((label for sign, label in _CHIPS if any(word.startswith(sign) for word in makers)), None)
    return {} if label is None else {"board": label}


def probe_engines_in_child(test_runtimes: bool, *, limits: ChildLimits = PROBE_LIMITS) -> tuple[EngineProbe, ...]:
    """Return which engines work here, by loading each runtime in a child process.

    Drivers and delegates that may crash get a child each. A probe that dies or fails makes its engines `broken`, with
    the reason: a bug is never "not available".
    """
    targets = tuple(f"{runtime}/{engine}" for runtime in _IN_CHILD_RUNTIMES for engine in ENGINES[runtime])
    found, alone = _probed(ProbeJob(test_runtimes=test_runtimes), targets, limits)
    jobs = (ProbeJob(test_runtimes=test_runtimes, target=target) for target in alone)
    return found + tuple(probe for job in jobs for probe in _probed(job, (str(job.target),), limits)[0])


def _probed(
    job: ProbeJob, targets: tuple[str, ...], limits: ChildLimits
) -> tuple[tuple[EngineProbe, ...], tuple[str, ...]]:
    """Return what a job found and what wants a job of its own; `targets` as broken when there is no such answer."""
    answer = run_job(job, limits)
    for _ in range(PROBE_ATTEMPTS - 1):
        if not isinstance(answer, JobDeath) or answer.outcome.end is ChildEnd.TIMEOUT:
            break
        answer = run_job(job, limits)
    if isinstance(answer, ProbeAnswer):
        return answer.engines, answer.alone
    said = answer.reason if isinstance(answer, (JobDeath, ErrorAnswer)) else f"the worker answered {answer.kind}"
    reason = clip_reason(f"probing failed: {said}")
    return tuple(EngineProbe(target=target, status=ProbeStatus.BROKEN, reason=reason) for target in targets), ()
