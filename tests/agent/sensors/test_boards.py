"""Boards' trees: the right rails, the right totals, nothing added twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.sensors.boards import FEEDS, INCLUDES, decide_total
from edgefleet_agent.sensors.probe import probe
from edgefleet_agent.sensors.rails import Call, Rail
from edgefleet_agent.sensors.readings import read_rails
from edgefleet_contract.profile import RailKind, RailReading, TotalReading
from edgefleet_hil.boards import BOARDS, add_ina3221, add_ina3221x, build_board, write_board_name, write_files

Tree = Callable[[str], Path]
INSTANT, COUNTER = RailKind.INSTANT, RailKind.COUNTER


def read(root: Path) -> tuple[dict[str, RailReading], TotalReading]:
    rails, total = read_rails(probe(root))
    return {rail.name: rail for rail in rails}, total


EXPECTED: dict[str, tuple[dict[str, float], tuple[str, ...], float | None]] = {
    "orin-nano": ({"VDD_IN": 4.95, "VDD_CPU_GPU_CV": 0.99, "VDD_SOC": 1.485}, ("VDD_IN",), 4.95),
    "orin-nx": ({"VDD_IN": 7.2, "VDD_CPU_GPU_CV": 2.4, "VDD_SOC": 1.92}, ("VDD_IN",), 7.2),
    "agx-orin": (
        {"VDD_GPU_SOC": 4.0, "VDD_CPU_CV": 2.0, "VIN_SYS_5V0": 5.0, "VDDQ_VDD2_1V8AO": 1.0},
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        11.0,
    ),
    "xavier-nx": ({"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 2.0, "VDD_SOC": 1.2}, ("VDD_IN",), 6.0),
    "agx-xavier": (
        {"GPU": 0.1, "CPU": 0.2, "SOC": 0.4, "CV": 0.8, "VDDRQ": 1.6, "SYS5V": 3.2},
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        6.3,
    ),
    "nano-jetpack4": ({"POM_5V_IN": 2.1, "POM_5V_GPU": 0.042, "POM_5V_CPU": 0.504}, ("POM_5V_IN",), 2.1),
    "android": ({"battery": 2.0, "pen": 3.51}, ("battery",), 2.0),
}


@pytest.mark.parametrize("board", EXPECTED)
def test_a_boards_rails_and_total_are_right_to_the_last_figure(tree: Tree, board: str) -> None:
    watts, adds, total_w = EXPECTED[board]
    rails, total = read(tree(board))
    assert {name: rail.watts for name, rail in rails.items()} == watts
    assert {rail.kind for rail in rails.values()} == {INSTANT}
    assert (total.status, total.rails, total.watts, total.joules) == ("available", adds, total_w, None)
    assert {name for name, rail in rails.items() if rail.in_total} == set(adds)


@pytest.mark.parametrize("board", BOARDS)
def test_no_rail_of_a_total_contains_another_of_it(tree: Tree, board: str) -> None:
    rails, total = read(tree(board))
    assert total.rails
    for name in total.rails:
        assert not set(rails[name].includes) & set(total.rails)
    assert total.rule


@pytest.mark.parametrize("board", BOARDS)
def test_every_rail_says_that_it_never_ran_on_hardware(tree: Tree, board: str) -> None:
    rails, _ = read(tree(board))
    assert all("never run on hardware by us" in str(rail.proven_on) for rail in rails.values())


def test_two_sockets_add_up_with_their_memory_and_without_their_cores(tree: Tree) -> None:
    rails, total = read(tree("rapl-two-sockets"))
    assert {name: rail.joules for name, rail in rails.items()} == {
        "package-0": 1000.0,
        "package-0/core": 600.0,
        "package-0/dram": 10.0,
        "package-1": 2000.0,
        "package-1/core": 1200.0,
        "package-1/dram": 20.0,
    }
    assert {rail.kind for rail in rails.values()} == {COUNTER}
    assert {rail.watts for rail in rails.values()} == {None}
    assert set(total.rails) == {"package-0", "package-1", "package-0/dram", "package-1/dram"}
    assert (total.status, total.joules, total.watts) == ("available", 3030.0, None)
    assert rails["package-0"].includes == ("package-0/core",)


def test_a_pi_5_is_modelled_since_its_rails_are_a_part_of_the_board(tree: Tree) -> None:
    rails, total = read(tree("pi5"))
    assert rails["VDD_CORE"].watts == 1.6
    assert {"EXT5V", "BATT"} & set(rails) == set()
    assert (total.status, total.watts) == ("modelled", 2.9144)
    assert "leaves out USB" in str(total.reason)


def test_agx_orins_memory_rail_is_shown_as_fed_by_the_5_volt_rail(tree: Tree) -> None:
    rails, total = read(tree("agx-orin"))
    assert rails["VIN_SYS_5V0"].includes == ("VDDQ_VDD2_1V8AO",)
    assert not rails["VDDQ_VDD2_1V8AO"].in_total
    assert "VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0" in str(total.rule)


def only_class(root: Path) -> None:
    """Leave the chips where only `/sys/class/hwmon` shows them, as plain folders."""
    for link in sorted((root / "class/hwmon").iterdir()):
        if link.is_symlink():
            target = link.resolve()
            link.unlink()
            shutil.copytree(target, link)
    shutil.rmtree(root / "bus")
    shutil.rmtree(root / "devices/platform")


def only_driver(root: Path) -> None:
    shutil.rmtree(root / "class/hwmon")
    shutil.rmtree(root / "bus/i2c/devices")


def only_bus(root: Path) -> None:
    shutil.rmtree(root / "class/hwmon")
    shutil.rmtree(root / "bus/i2c/drivers")


def plain_folders_twice(root: Path) -> None:
    """Show each chip twice as folders of their own, as a tree copied without links has them."""
    for folder in ("class/hwmon", "bus/i2c/drivers/ina3221"):
        for link in sorted((root / folder).iterdir()):
            target = link.resolve()
            link.unlink()
            shutil.copytree(target, link)


@pytest.mark.parametrize("view", [only_class, only_driver, only_bus, plain_folders_twice])
@pytest.mark.parametrize("board", ["orin-nano", "agx-orin"])
def test_a_chip_counts_once_by_whatever_path_it_is_seen(tree: Tree, board: str, view: Callable[[Path], None]) -> None:
    watts, adds, total_w = EXPECTED[board]
    root = tree(board)
    view(root)
    rails, total = read(root)
    assert {name: rail.watts for name, rail in rails.items()} == watts
    assert (total.rails, total.watts) == (adds, total_w)


def test_the_order_of_labels_and_the_number_of_the_chip_do_not_matter(tmp_path: Path) -> None:
    write_board_name(tmp_path, "NVIDIA Jetson Orin Nano")
    add_ina3221(tmp_path, "7-0041", 17, (("VDD_SOC", 5000, 300), ("NC", 1, 1), ("VDD_IN", 5000, 1000)))
    rails, total = read(tmp_path)
    assert {name: rail.watts for name, rail in rails.items()} == {"VDD_SOC": 1.5, "VDD_IN": 5.0}
    assert (total.rails, total.watts) == (("VDD_IN",), 5.0)


def test_a_whole_root_is_found_as_well_as_a_sysfs(tmp_path: Path) -> None:
    build_board("orin-nx", tmp_path / "sys")
    (tmp_path / "etc").mkdir()
    assert read(tmp_path)[1].watts == 7.2


def test_a_channel_that_is_switched_off_leaves_no_total(tmp_path: Path) -> None:
    channels = (("VDD_IN", 5000, 1000), ("VDD_CPU_GPU_CV", 5000, 1), ("VDD_SOC", 5000, 1))
    add_ina3221(tmp_path, "1-0040", 1, channels, off=(1,))
    rails, total = read(tmp_path)
    assert rails["VDD_IN"].watts is None
    assert total.status == "none"
    assert "in1_enable is 0" in str(total.reason)


@pytest.mark.parametrize("gone", ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"])
def test_a_sum_with_a_rail_missing_is_no_total(tmp_path: Path, gone: str) -> None:
    labels = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    add_ina3221(tmp_path, "1-0040", 1, tuple(("NC" if label == gone else label, 5000, 100) for label in labels))
    total = read(tmp_path)[1]
    assert total.status == "none"
    assert gone in str(total.reason)


def test_channels_without_labels_are_shown_and_never_added(tmp_path: Path) -> None:
    write_files(tmp_path, {"class/hwmon/hwmon2/name": "ina3221"})
    for number in (1, 2, 3):
        chip = f"class/hwmon/hwmon2/{{}}{number}_input"
        write_files(tmp_path, {chip.format("in"): 5000, chip.format("curr"): 100})
    rails, total = read(tmp_path)
    assert [rail.watts for rail in rails.values()] == [0.5, 0.5, 0.5]
    assert total.status == "none"


def test_the_same_input_rail_on_two_chips_is_ambiguous(tmp_path: Path) -> None:
    for address, hwmon in (("1-0040", 1), ("1-0041", 2)):
        add_ina3221(tmp_path, address, hwmon, (("VDD_IN", 5000, 1000),))
    rails, total = read(tmp_path)
    assert len(rails) == 2
    assert total.status == "none"


def test_a_rail_on_a_board_no_table_knows_is_not_taken_for_its_input(tmp_path: Path) -> None:
    write_board_name(tmp_path, "Some Gateway Rev 3")
    add_ina3221(tmp_path, "1-0040", 1, (("VDD_IN", 5000, 1000), ("VBUS", 5000, 10)))
    total = read(tmp_path)[1]
    assert total.status == "none"
    assert "Some Gateway" in str(total.reason)


def test_a_jetson_tx2s_input_contains_its_other_rails_on_both_chips(tmp_path: Path) -> None:
    write_board_name(tmp_path, "quill")
    add_ina3221x(tmp_path, "0-0040", 0, (("VDD_SYS_GPU", 152), ("VDD_SYS_SOC", 687), ("VDD_4V0_WIFI", 0)))
    add_ina3221x(tmp_path, "0-0041", 1, (("VDD_IN", 3056), ("VDD_SYS_CPU", 152), ("VDD_SYS_DDR", 883)))
    rails, total = read(tmp_path)
    assert len(rails["VDD_IN"].includes) == 5
    assert (total.rails, total.watts) == (("VDD_IN",), 3.056)


def test_a_thors_rails_have_no_table_and_so_no_total(tmp_path: Path) -> None:
    write_board_name(tmp_path, "NVIDIA Jetson AGX Thor Developer Kit")
    add_ina3221(
        tmp_path, "2-0040", 1, (("VDD_GPU", 20000, 100), ("VDD_CPU_SOC_MSS", 20000, 300), ("VIN_SYS_5V0", 5000, 9))
    )
    total = read(tmp_path)[1]
    assert total.status == "none"
    assert total.reason == "no table fits; the nearest, Jetson AGX Thor, needs what is not there: VIN"


THOR = (("VDD_GPU", 20000, -16), ("VDD_CPU_SOC_MSS", 20000, 325), ("VIN_SYS_5V0", 5000, 1304))


def add_monitor(root: Path, chip: str, label: str, microwatts: int) -> None:
    folder = root / "class/hwmon/hwmon8"
    write_files(folder, {"name": chip, "label": label, "in0_input": 4, "in1_input": 20000, "curr1_input": 1150,
                         "power1_input": microwatts})  # fmt: skip


def test_a_thors_carrier_measures_the_whole_boards_input(tmp_path: Path) -> None:
    write_board_name(tmp_path, "NVIDIA Jetson AGX Thor Developer Kit")
    add_ina3221(tmp_path, "2-0040", 1, THOR)
    add_monitor(tmp_path, "ina238", "VIN", 23_000_000)
    rails, total = read(tmp_path)
    assert (total.status, total.rails, total.watts, total.scope) == ("available", ("VIN",), 23.0, "board")
    assert rails["VIN"].includes == ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
    assert (rails["VIN"].kind, rails["VIN"].window_s) == (RailKind.AVERAGE, 0.05)
    assert rails["VDD_GPU"].watts == -0.32  # a shunt's offset while the GPU is without power
    assert total.leaves_out is None


@pytest.mark.parametrize(("chip", "label"), [("ina238", "AUX_12V"), ("ina226", ""), ("ina219", "VIN")])
def test_another_monitor_on_a_carrier_adds_up_to_nothing(tmp_path: Path, chip: str, label: str) -> None:
    write_board_name(tmp_path, "NVIDIA Jetson AGX Thor Developer Kit")
    add_ina3221(tmp_path, "2-0040", 1, THOR)
    add_monitor(tmp_path, chip, label, 23_000_000)
    assert read(tmp_path)[1].status == "none"


def test_a_carriers_input_does_not_stand_for_the_module_of_another_board(tree: Tree) -> None:
    root = tree("orin-nx")
    add_monitor(root, "ina226", "VIN", 23_000_000)
    assert read(root)[1].rails == ("VDD_IN",)


def mainline(root: Path) -> Path:
    """Make a channel that nothing is soldered to look as kernels do that have no label for it."""
    chip = root / "class/hwmon/hwmon2"
    for number in (1, 3):
        (chip / f"in{number}_label").unlink()
        for name in (f"in{number}_input", f"curr{number}_input"):
            (chip / name).unlink()
            (chip / name).mkdir()
    return root


def test_a_channel_that_is_off_and_has_no_name_is_no_rail(tree: Tree) -> None:
    rails, total = read(mainline(tree("agx-orin")))
    assert list(rails) == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]
    assert total.watts == 11.0


def test_a_name_that_only_the_device_tree_tells_is_taken(tree: Tree) -> None:
    root = tree("orin-nano")
    chip = root / "class/hwmon/hwmon1"
    for number, name in ((1, "VDD_IN"), (2, "VDD_CPU_GPU_CV"), (3, "VDD_SOC")):
        (chip / f"in{number}_label").unlink()
        write_files(chip, {f"device/of_node/input@{number - 1}/label": name})
    assert read(root)[1].rails == ("VDD_IN",)


def test_an_acpi_meter_is_found_where_older_kernels_keep_it(tmp_path: Path) -> None:
    meter = {"device/power1_average": 180_000_000, "device/power1_average_interval": 1000, "name": "power_meter"}
    write_files(tmp_path / "class/hwmon/hwmon0", meter)
    rails, total = read(tmp_path)
    assert {name: (rail.watts, rail.window_s) for name, rail in rails.items()} == {"power_meter power1": (180.0, 1.0)}
    assert rails["power_meter power1"].sensor == "power_meter hwmon0 power1_average"
    assert total.status == "none"


def test_an_averaging_chip_is_told_by_its_samples(tree: Tree) -> None:
    root = tree("orin-nano")
    chip = next((root / "class/hwmon").glob("hwmon1"))
    write_files(chip, {"samples": 64, "update_interval": 422})
    rails, _ = read(root)
    assert {(rail.kind, rail.window_s) for rail in rails.values()} == {(RailKind.AVERAGE, 0.422)}


def test_other_chips_are_shown_and_add_up_to_nothing(tmp_path: Path) -> None:
    write_files(tmp_path, {"class/hwmon/hwmon0/name": "coretemp", "class/hwmon/hwmon0/temp1_input": 40000})
    card = {"name": "amdgpu", "power1_average": 30000000, "power1_input": 29000000, "power1_label": "PPT"}
    write_files(tmp_path, {f"class/hwmon/hwmon1/{name}": value for name, value in card.items()})
    meter = {"name": "power_meter", "power1_average": 150000000, "power1_average_interval": 1000}
    write_files(tmp_path, {f"class/hwmon/hwmon2/{name}": value for name, value in meter.items()})
    write_files(tmp_path, {"class/hwmon/hwmon3/name": "i915", "class/hwmon/hwmon3/energy1_input": 5000000})
    rails, total = read(tmp_path)
    assert {name: (rail.kind.value, rail.watts, rail.joules) for name, rail in rails.items()} == {
        "amdgpu PPT": ("average", 30.0, None),
        "power_meter power1": ("average", 150.0, None),
        "i915 energy1": ("counter", None, 5.0),
    }
    assert rails["power_meter power1"].window_s == 1.0
    assert total.status == "none"
    assert "none of these rails is known to cover the device" in str(total.reason)


def test_a_machine_without_sensors_says_so(tmp_path: Path) -> None:
    rails, total = read(tmp_path)
    assert rails == {}
    assert (total.status, total.reason) == ("none", "no power sensor on this device")


def test_a_jetpack_4_channel_without_power_is_voltage_times_current(tmp_path: Path) -> None:
    chip = add_ina3221x(tmp_path, "6-0040", 0, (("POM_5V_IN", 2500),))
    (chip / "in_power0_input").unlink()
    assert read(tmp_path)[1].watts == 2.5


def test_a_pi_5_whose_answers_were_not_recorded_says_what_reads_it(tmp_path: Path) -> None:
    write_board_name(tmp_path, "Raspberry Pi 5 Model B Rev 1.0")
    total = read(tmp_path)[1]
    assert total.status == "none"
    assert "vcgencmd pmic_read_adc" in str(total.reason)


LABELS = [*sorted(FEEDS), "NOT_IN_ANY_TABLE"]


@given(
    labels=st.lists(st.sampled_from(LABELS), unique=True, max_size=12),
    broken=st.sets(st.sampled_from(LABELS), max_size=3),
    board=st.sampled_from([None, "NVIDIA Jetson", "Some Gateway"]),
)
def test_whatever_rails_there_are_a_total_holds_no_rail_twice_and_none_that_is_broken(
    labels: list[str], broken: set[str], board: str | None
) -> None:
    rails = [
        Rail(
            name=label,
            family="ina3221",
            scope="s",
            kind=INSTANT,
            source=Call(lambda: 1.0),
            sensor=label,
            includes=INCLUDES.get(label, ()),
            problem="broken" if label in broken else None,
        )
        for label in labels
    ]
    total = decide_total(rails, board)
    added = {rail.name for rail in total.rails}
    assert not added & broken
    assert not added & {name for rail in total.rails for name in rail.includes}
    assert bool(total.rails) is (total.reason is None)
    covering = {"VDD_IN", "POM_5V_IN"} & set(labels)
    assert len(covering) != 1 or not added or added == covering


def test_labels_in_another_case_mean_the_same(tmp_path: Path) -> None:
    add_ina3221(tmp_path, "1-0040", 1, (("vdd_in", 5000, 1000), ("vdd_soc", 5000, 100)))
    rails, total = read(tmp_path)
    assert rails["vdd_in"].includes == ("vdd_soc",)
    assert (total.rails, total.watts) == (("vdd_in",), 5.0)


def test_a_carriers_own_monitor_adds_nothing_to_the_module(tree: Tree) -> None:
    root = tree("orin-nx")
    add_ina3221(root, "2-0042", 9, (("VDD_MUX", 19000, 800), ("VDD_5V0_IO_SYS", 5000, 300), ("VDD_3V3_SYS", 3300, 100)))
    rails, total = read(root)
    assert len(rails) == 6
    assert (total.rails, total.watts) == (("VDD_IN",), 7.2)
    assert "VDD_IN" in rails["VDD_MUX"].includes


def test_a_laptop_shows_everything_and_takes_its_processors_counter(tree: Tree) -> None:
    root = tree("rapl-two-sockets")
    battery = {"type": "Battery", "status": "Discharging", "present": 1, "power_now": 9_000_000}
    write_files(root, {f"class/power_supply/BAT0/{name}": value for name, value in battery.items()})
    write_files(root, {"class/hwmon/hwmon7/name": "BAT0", "class/hwmon/hwmon7/power1_input": 9_000_000})
    rails, total = read(root)
    assert rails["BAT0"].watts == 9.0
    assert total.joules == 3030.0
