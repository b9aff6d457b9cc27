"""What a device says it is."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent import host
from edgefleet_agent.__main__ import main
from edgefleet_agent.jobs import JobDeath
from edgefleet_agent.probe import PROBE_ATTEMPTS, probe_engines_in_child, probe_profile
from edgefleet_contract.child import ChildEnd, ChildLimits, ChildOutcome
from edgefleet_contract.job import ProbeAnswer, ProbeJob
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_hil.boards import BOARDS, build_board, write_files


def board(root: Path, model: bytes) -> Path:
    folder = root / "firmware/devicetree/base"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(model)
    return root


def test_this_machine_describes_itself() -> None:
    profile = probe_profile("lab", "bench", {"room": "a1"}, ())
    assert (profile.site, profile.device, profile.labels) == ("lab", "bench", {"room": "a1"})
    assert profile.arch == os.uname().machine
    assert profile.memory_bytes > 64 * 1024**2
    assert profile.disk_free_bytes > 0
    assert profile.cpu_count >= 1
    assert profile.agent_version == host.agent_version()
    assert profile.energy_unmeasured_reason


def test_asking_twice_gives_one_digest() -> None:
    assert probe_profile("lab", "bench", {}, ()).digest == probe_profile("lab", "bench", {}, ()).digest


def test_a_jetson_is_labelled_by_its_device_tree(tmp_path: Path) -> None:
    root = board(tmp_path, b"NVIDIA Jetson Orin Nano Developer Kit\x00")
    assert probe_profile("lab", "bench", {}, (), sysfs_root=root).labels == {"board": "jetson"}


def test_an_operators_label_wins_over_what_was_found(tmp_path: Path) -> None:
    root = board(tmp_path, b"Raspberry Pi 5 Model B\x00")
    assert probe_profile("lab", "bench", {"board": "mine"}, (), sysfs_root=root).labels == {"board": "mine"}


@pytest.mark.parametrize(
    ("model", "compatible", "label"),
    [
        (b"quill", b"nvidia,quill\x00nvidia,tegra186\x00", {"board": "jetson"}),
        (b"Another maker's carrier", b"acme,c1\x00nvidia,p3767-0000\x00nvidia,tegra234\x00", {"board": "jetson"}),
        (b"Some Board", b"acme,board\x00fsl,imx8mm\x00", {}),
    ],
)
def test_a_board_with_a_name_of_its_own_is_known_by_its_chip(
    tmp_path: Path, model: bytes, compatible: bytes, label: dict[str, str]
) -> None:
    root = board(tmp_path, model + b"\x00")
    (root / "firmware/devicetree/base/compatible").write_bytes(compatible)
    assert probe_profile("lab", "bench", {}, (), sysfs_root=root).labels == label


def test_a_cpu_without_a_name_is_called_by_its_board(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    root = board(tmp_path / "sys", b"Some Board\x00")
    assert host.cpu_model(tmp_path, root) == "Some Board"
    assert host.cpu_features(tmp_path) == ("asimd", "fp")


def test_a_system_that_tells_nothing_still_has_a_cpu_model(tmp_path: Path) -> None:
    assert host.cpu_model(tmp_path, tmp_path)
    assert host.cpu_features(tmp_path) == ()


def test_the_first_processor_speaks_for_all(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: Fast CPU\nflags\t: a b\n\nmodel name\t: Slow CPU\nflags\t: c\n")
    assert host.cpu_model(tmp_path, tmp_path) == "Fast CPU"
    assert host.cpu_features(tmp_path) == ("a", "b")


def printed(root: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["probe", "--sysfs-root", str(root), "-o", "json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_probe_prints_a_trees_rails_total_temperatures_and_throttle_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = printed(build_board("agx-orin", tmp_path), capsys)
    assert [(rail["name"], rail["kind"], rail["watts"], rail["in_total"]) for rail in told["rails"]] == [
        ("VDD_GPU_SOC", "instant", 4.0, True),
        ("VDD_CPU_CV", "instant", 2.0, True),
        ("VIN_SYS_5V0", "instant", 5.0, True),
        ("VDDQ_VDD2_1V8AO", "instant", 1.0, False),
    ]
    assert told["total"]["watts"] == 11.0
    assert {zone["name"]: zone["celsius"] for zone in told["temperatures"]}["tj-thermal"] == 48.5
    assert {flag["name"] for flag in told["throttle"]} >= {"over-current alarm 3", "cpu-throttle-alert"}
    assert told["engines"] == []
    assert any("given tree" in note for note in told["notes"])


@pytest.mark.parametrize("board", BOARDS)
def test_probe_prints_every_board_as_a_table_too(
    board: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = build_board(board, tmp_path)
    assert main(["probe", "--sysfs-root", str(root)]) == 0
    out = capsys.readouterr().out
    assert "\ntotal " in out
    assert ("modelled" in out) is (board == "pi5")


def test_a_profile_of_a_tree_says_whether_energy_can_be_measured(tmp_path: Path) -> None:
    root = build_board("orin-nano", tmp_path)
    profile = probe_profile("lab", "bench", {}, (), sysfs_root=root)
    assert profile.energy_unmeasured_reason is None
    assert [sensor.name for sensor in profile.sensors if sensor.in_total] == ["VDD_IN"]


def test_readings_do_not_change_what_a_device_is(tmp_path: Path) -> None:
    root = build_board("orin-nano", tmp_path)
    before = probe_profile("lab", "bench", {}, (), sysfs_root=root)
    write_files(root, {"class/hwmon/hwmon1/curr1_input": 2000, "class/thermal/thermal_zone0/temp": 70000})
    assert probe_profile("lab", "bench", {}, (), sysfs_root=root).digest == before.digest


def test_a_tree_that_is_no_folder_is_the_callers_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["probe", "--sysfs-root", str(tmp_path / "no")]) == 2
    assert "no such folder" in capsys.readouterr().err


def dying(times: int, monkeypatch: pytest.MonkeyPatch) -> list[ProbeJob]:
    """Let the probe's worker be killed so many times before it answers; return the jobs it was given."""
    asked: list[ProbeJob] = []

    def run(job: ProbeJob, limits: ChildLimits) -> ProbeAnswer | JobDeath:
        asked.append(job)
        if len(asked) <= times:
            return JobDeath(
                ChildOutcome(ChildEnd.CRASHED, None, "was killed by signal 9 (SIGKILL)", "no memory left\n", 0.1)
            )
        return ProbeAnswer(engines=(EngineProbe(target="ort/cpu", status=ProbeStatus.AVAILABLE),))

    monkeypatch.setattr("edgefleet_agent.probe.run_job", run)
    return asked


def test_a_probe_somebody_killed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = dying(2, monkeypatch)
    assert [engine.status for engine in probe_engines_in_child(test_runtimes=False)] == [ProbeStatus.AVAILABLE]
    assert len(asked) == 3


def test_a_probe_that_always_dies_makes_its_engines_broken_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = dying(99, monkeypatch)
    engines = probe_engines_in_child(test_runtimes=False)
    assert len(asked) == PROBE_ATTEMPTS
    assert {engine.status for engine in engines} == {ProbeStatus.BROKEN}
    assert all("SIGKILL" in str(engine.reason) and "no memory left" in str(engine.reason) for engine in engines)
