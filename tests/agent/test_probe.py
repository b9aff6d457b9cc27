"""What a device says it is."""

from __future__ import annotations

import os
from pathlib import Path

from edgefleet_agent import host
from edgefleet_agent.probe import probe_profile


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
