"""Files that are not what they should be: the probe never hangs, never raises, and says what it could not read."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgefleet_agent.probe import probe_profile, with_readings
from edgefleet_agent.sensors.files import (
    MAX_ATTRIBUTE_BYTES,
    SensorFileError,
    list_numbered,
    parse_int,
    printable,
    read_bytes,
    read_word,
)
from edgefleet_agent.sensors.probe import probe
from edgefleet_agent.sensors.readings import read_rails
from edgefleet_contract.profile import ProbedProfile
from edgefleet_hil.boards import BOARDS, build_board, write_files

Tree = Callable[[str], Path]
TIME_LIMIT_S = 20


@pytest.fixture(autouse=True)
def _hang_is_a_failure() -> Iterator[None]:
    """Interrupt a blocked read: pytest-timeout's own limit would end the whole run."""

    def stop(*_: object) -> None:
        msg = "hung"
        raise TimeoutError(msg)

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIME_LIMIT_S)
    yield
    signal.alarm(0)


def probed(root: Path) -> ProbedProfile:
    return with_readings(probe_profile("lab", "one", {}, (), sysfs_root=root), root)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\n", b"5_000", b"0x10", b"1.5", b"+3", b"1e3", b"--1", b"1 2", "٣".encode(), b"9" * 21, b"nan", b"\xff"],
)
def test_what_is_no_plain_number_is_refused(raw: bytes) -> None:
    with pytest.raises(SensorFileError):
        parse_int(raw)


@pytest.mark.parametrize(("raw", "number"), [(b"42\n", 42), (b"-7\n", -7), (b" 5 \x00\n", 5), (b"0", 0)])
def test_plain_numbers_are_read(raw: bytes, number: int) -> None:
    assert parse_int(raw) == number


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def folder(path: Path) -> None:
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(10 * 1024**3)


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def digits(path: Path) -> None:
    path.write_bytes(b"9" * 100_000)


def absurd(path: Path) -> None:
    path.write_text("99999999999999999999\n")


def negative(path: Path) -> None:
    path.write_text("-1\n")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def underscore(path: Path) -> None:
    path.write_text("5_000\n")


def dangling(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


SPOILERS = [fifo, loop, device, terminal, folder, huge, garbage, digits, absurd, negative, empty, underscore, dangling]


@pytest.mark.parametrize("spoil", SPOILERS)
@pytest.mark.parametrize("board", ["agx-orin", "rapl-two-sockets", "pi5", "android", "nano-jetpack4"])
def test_a_board_with_every_file_spoilt_is_still_probed(tree: Tree, board: str, spoil: Callable[[Path], None]) -> None:
    root = tree(board)
    for path in [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]:
        path.unlink()
        spoil(path)
    profile = probed(root)
    assert profile.model_dump_json()
    assert profile.total.watts is None


@pytest.mark.parametrize("spoil", [spoil for spoil in SPOILERS if spoil is not negative])
@pytest.mark.parametrize(
    ("board", "file"),
    [
        ("agx-orin", "class/hwmon/hwmon1/curr3_input"),
        ("agx-orin", "class/hwmon/hwmon1/in2_input"),
        ("rapl-two-sockets", "class/powercap/intel-rapl:1/energy_uj"),
        ("pi5", "vcgencmd/pmic_read_adc"),
        ("android", "class/power_supply/battery/current_now"),
        ("android", "class/power_supply/battery/status"),
    ],
)
def test_one_spoilt_figure_of_a_total_leaves_no_figure_and_a_reason(
    tree: Tree, board: str, file: str, spoil: Callable[[Path], None]
) -> None:
    root = tree(board)
    path = (root / file).resolve()
    path.unlink()
    spoil(path)
    _, total = read_rails(probe(root))
    assert (total.status, total.watts, total.joules) == ("none", None, None)
    assert total.reason


def test_a_folder_in_a_loop_is_not_followed_for_ever(tree: Tree) -> None:
    root = tree("rapl-two-sockets")
    zone = (root / "class/powercap/intel-rapl:0").resolve()
    (zone / "intel-rapl:7").symlink_to(zone.parent)
    (zone / "intel-rapl:0:9").symlink_to(zone)
    (root / "class/hwmon/hwmon7").symlink_to(root / "class/hwmon/hwmon7")
    total = probe(root).total
    assert len([rail for rail in total.rails if rail.scope == "package"]) == 2


def test_thousands_of_folders_are_bounded_and_do_not_hide_a_chip(tree: Tree) -> None:
    root = tree("orin-nano")
    for number in range(3000):
        (root / f"class/hwmon/hwmon{number + 100}").mkdir()
    for number in range(1000):
        (root / f"class/thermal/thermal_zone{number + 100}").mkdir()
        (root / f"class/power_supply/s{number}").mkdir(parents=True)
    profile = probed(root)
    assert profile.total.watts == 4.95
    assert len(profile.temperatures) <= 64
    assert any("hwmon" in note for note in profile.notes)


def test_thousands_of_chips_that_claim_to_be_power_monitors_are_bounded(tmp_path: Path) -> None:
    for number in range(800):
        write_files(
            tmp_path, {f"class/hwmon/hwmon{number}/name": "ina3221", f"class/hwmon/hwmon{number}/in1_label": "X"}
        )
    profile = probed(tmp_path)
    assert len(profile.rails) <= 64
    assert profile.total.status == "none"


def test_names_from_outside_are_made_printable(tmp_path: Path) -> None:
    odd = os.fsdecode(b"bat\xff\n\x1b[31m")
    write_files(tmp_path, {f"class/power_supply/{odd}/type": "Battery", "class/hwmon/hwmon0/name": "a\x1b[31mb"})
    write_files(tmp_path, {"class/hwmon/hwmon0/power1_input": 1, "class/hwmon/hwmon0/power1_label": "x" * 300})
    profile = probed(tmp_path)
    text = profile.model_dump_json()
    assert "\\u001b" not in text
    assert all(rail.name.isprintable() for rail in profile.rails)
    assert len(printable("y" * 300)) == 64


def test_an_unsearchable_folder_has_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    root = build_board("android", tmp_path)
    monkeypatch.setattr(Path, "stat", denied)
    assert read_rails(probe(root))[1].watts is None


def test_only_the_first_bytes_of_a_huge_file_are_read(tmp_path: Path) -> None:
    huge(tmp_path / "name")
    assert len(read_bytes(tmp_path / "name")) == MAX_ATTRIBUTE_BYTES
    assert read_word(tmp_path / "name") == ""


def test_a_missing_folder_lists_nothing(tmp_path: Path) -> None:
    import re

    assert list_numbered(tmp_path / "no", re.compile("a([0-9])")).entries == ()


@pytest.mark.parametrize("board", BOARDS)
def test_a_tree_whose_folders_vanish_during_the_probe_is_survived(tree: Tree, board: str) -> None:
    root = tree(board)
    sensors = probe(root)
    shutil.rmtree(root)
    rails, total = read_rails(sensors)
    assert all(rail.watts is None and rail.joules is None for rail in rails)
    assert total.watts is None
    assert sensors.read_thermal().temperatures == ()


def many_links(folder: Path, name: str, target: Path, number: int = 300) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        (folder / name.format(index)).symlink_to(target)


@pytest.mark.parametrize(
    ("file", "inner", "outer", "link"),
    [
        ("power{}_input", "hwmon", "class/hwmon", "hwmon{}"),
        ("hwmon{}", "device/hwmon", "bus/i2c/drivers/ina3221", "{}-0040"),
        ("iio:device{}", "device", "bus/i2c/drivers/ina3221x", "{}-0040"),
        ("trip_point_{}_type", "zone", "class/thermal", "thermal_zone{}"),
    ],
)
def test_folders_that_multiply_each_other_by_links_are_bounded(
    tmp_path: Path, file: str, inner: str, outer: str, link: str
) -> None:
    crowd = tmp_path / "crowd" / inner
    crowd.mkdir(parents=True)
    for index in range(300):
        path = crowd / file.format(index)
        if "_" in file:
            path.write_text("5000000\n")
        else:
            path.mkdir()
            write_files(path, {"name": "ina3221", "in1_label": "X", "rail_name_0": "X", "in_power0_input": 5})
    target = tmp_path / "crowd" / inner.split("/", maxsplit=1)[0]
    many_links(tmp_path / outer, link, target)
    if outer == "class/hwmon":
        write_files(crowd, {"name": "crowded"})
    profile = probed(tmp_path)
    assert len(profile.rails) <= 64
    assert profile.total.status == "none"


def test_zones_that_hold_each_other_are_looked_into_once(tmp_path: Path) -> None:
    root = tmp_path / "class/powercap"
    for zone in range(60):
        folder = root / f"intel-rapl:{zone}"
        write_files(folder, {"name": f"package-{zone}", "energy_uj": 1, "max_energy_range_uj": 9})
    for zone in range(60):
        many_links(root / f"intel-rapl:{zone}", f"intel-rapl:{zone}:{{}}", root / f"intel-rapl:{(zone + 1) % 60}", 60)
    assert len(probed(tmp_path).total.rails) == 60


def test_a_search_that_was_cut_short_does_not_say_that_there_is_no_sensor(tmp_path: Path) -> None:
    for number in range(33):
        write_files(tmp_path / f"class/power_supply/AC{number}", {"type": "Mains", "online": 1})
    total = probed(tmp_path).total
    assert total.status == "none"
    assert "among those that were looked at: more than 32 power supplies" in str(total.reason)
