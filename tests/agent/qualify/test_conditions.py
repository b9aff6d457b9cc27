"""What a measurement says about the machine, and what it is pinned to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgefleet_agent.host import power_modes
from edgefleet_agent.qualify.conditions import pin, read_conditions, usable_cpus
from edgefleet_contract.errors import UserInputError
from edgefleet_hil.boards import write_files


def test_threads_spinning_cpus_and_governor_are_recorded(tmp_path: Path) -> None:
    write_files(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil"})
    found = read_conditions("ort", "1.32.0", threads=2, spinning=False, root=tmp_path)
    assert found.threads == 2
    assert (found.extra["spinning"], found.extra["governor"]) == ("false", "schedutil")
    assert found.extra["cpus"] == usable_cpus()


def test_a_machine_that_does_not_tell_its_governor_has_none(tmp_path: Path) -> None:
    assert "governor" not in read_conditions("ort", "1", threads=1, spinning=True, root=tmp_path).extra


def test_the_power_mode_of_a_jetson_and_of_a_laptop_is_recorded(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {"var/lib/nvpmodel/status": "pmode:0002 fmode:quiet", "sys/firmware/acpi/platform_profile": "low-power"},
    )
    found = read_conditions("ort", "1", threads=1, spinning=False, root=tmp_path).extra
    assert (found["nvpmodel"], found["platform_profile"]) == ("2", "low-power")


def test_a_file_of_something_else_is_no_power_mode(tmp_path: Path) -> None:
    write_files(tmp_path, {"var/lib/nvpmodel/status": "pmode:MAXN"})
    assert power_modes(tmp_path) == {}


def test_cpus_are_told_as_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 7, 8})
    assert usable_cpus() == "0-2,5,7-8"


def test_a_process_is_pinned_to_the_cpus_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[object] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cpus: pinned.append(cpus))
    pin(())
    pin((1, 2))
    assert pinned == [(1, 2)]
    with pytest.raises(UserInputError, match="CPU 7 cannot be used here; this process may use 0-2"):
        pin((0, 7))
    assert len(pinned) == 1
