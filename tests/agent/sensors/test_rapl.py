"""RAPL's zones in every layout, and which of them add up."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_agent.sensors.probe import probe
from edgefleet_agent.sensors.rails import Rail, Total
from edgefleet_hil.boards import add_rapl_zone, link_class, write_files


def names(total: Total) -> set[str]:
    return {rail.name for rail in total.rails}


def rail(root: Path, name: str) -> Rail:
    return next(rail for rail in probe(root).rails if rail.name == name)


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    """One package with cores, graphics and memory, its memory-mapped repeat, and psys over all."""
    for identity, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "uncore"), ("0:2", "dram"), ("1", "psys")):
        add_rapl_zone(tmp_path, f"intel-rapl:{identity}", name, 1_000_000)
    add_rapl_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    add_rapl_zone(tmp_path, "intel-rapl-mmio:0:0", "dram", 1_000_000)
    return tmp_path


def test_psys_is_the_total_and_contains_the_package(laptop: Path) -> None:
    sensors = probe(laptop)
    assert names(sensors.total) == {"psys"}
    assert set(rail(laptop, "psys").includes) == {"package-0", "package-0/core", "package-0/uncore"}
    assert set(rail(laptop, "package-0").includes) == {"package-0/core", "package-0/uncore"}


def test_the_memory_mapped_view_of_a_package_is_left_out_and_said(laptop: Path) -> None:
    sensors = probe(laptop)
    assert len([rail for rail in sensors.rails if rail.scope == "package"]) == 1
    assert len([rail for rail in sensors.rails if rail.scope == "memory"]) == 1
    assert any("memory-mapped view" in note for note in sensors.notes)


def test_the_memory_mapped_view_is_used_where_there_is_no_other(tmp_path: Path) -> None:
    add_rapl_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    assert names(probe(tmp_path).total) == {"package-0"}


def test_zones_that_are_only_nested_are_found(tmp_path: Path) -> None:
    zone = "class/powercap/intel-rapl/intel-rapl:0"
    for path, name in ((zone, "package-0"), (f"{zone}/intel-rapl:0:0", "dram")):
        write_files(tmp_path, {f"{path}/name": name, f"{path}/energy_uj": 7, f"{path}/max_energy_range_uj": 99})
    assert names(probe(tmp_path).total) == {"package-0", "package-0/dram"}


def test_zones_that_are_only_flat_are_found(tmp_path: Path) -> None:
    for identity, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core")):
        write_files(tmp_path, {f"class/powercap/{identity}/name": name, f"class/powercap/{identity}/energy_uj": 7})
    sensors = probe(tmp_path)
    assert {rail.name for rail in sensors.rails} == {"package-0", "package-0/core"}
    assert names(sensors.total) == {"package-0"}


def test_dies_of_one_package_add_up(tmp_path: Path) -> None:
    for number in (0, 1):
        add_rapl_zone(tmp_path, f"intel-rapl:{number}", f"package-0-die-{number}", 1_000_000)
    assert names(probe(tmp_path).total) == {"package-0-die-0", "package-0-die-1"}


@pytest.mark.parametrize(("packages_n", "added_n"), [(64, 64), (65, 0), (300, 0)])
def test_a_sum_that_would_leave_packages_out_is_no_total(tmp_path: Path, packages_n: int, added_n: int) -> None:
    for number in range(packages_n):
        add_rapl_zone(tmp_path, f"intel-rapl:{number}", f"package-{number}", 1_000_000)
    total = probe(tmp_path).total
    assert len(total.rails) == added_n
    assert ("leave some out" in str(total.reason)) == (added_n == 0)


@pytest.mark.parametrize(("told", "range_n"), [(262143328850, 262143328850), (0, None)])
def test_a_range_of_zero_is_no_range(tmp_path: Path, told: int, range_n: int | None) -> None:
    add_rapl_zone(tmp_path, "intel-rapl:0", "package-0", 1, range_uj=told)
    assert rail(tmp_path, "package-0").range_n == range_n


def test_memory_of_one_socket_alone_is_left_out_of_the_sum(tmp_path: Path) -> None:
    for socket in (0, 1):
        add_rapl_zone(tmp_path, f"intel-rapl:{socket}", f"package-{socket}", 1_000_000)
    add_rapl_zone(tmp_path, "intel-rapl:0:0", "dram", 1_000_000)
    total = probe(tmp_path).total
    assert names(total) == {"package-0", "package-1"}
    assert "memory" in str(total.leaves_out)


def test_a_package_that_only_root_may_read_leaves_no_total(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_rapl_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    real_open = __import__("os").open

    def guarded(path: object, *flags: int) -> int:
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied")
        return int(real_open(path, *flags))

    monkeypatch.setattr("edgefleet_agent.sensors.files.os.open", guarded)
    total = probe(tmp_path).total
    assert total.rails == ()
    assert "root only" in str(total.reason)


def test_a_control_type_linked_into_the_class_counts_nothing_twice(tmp_path: Path) -> None:
    add_rapl_zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    link_class(tmp_path, "powercap", "devices/virtual/powercap/intel-rapl")
    assert len(probe(tmp_path).rails) == 1


def test_two_platform_zones_are_not_trusted(tmp_path: Path) -> None:
    for number, name in enumerate(("package-0", "package-1", "psys", "psys-1")):
        add_rapl_zone(tmp_path, f"intel-rapl:{number}", name, 1_000_000)
    total = probe(tmp_path).total
    assert names(total) == {"package-0", "package-1"}
    assert "psys is left out" in total.rule
