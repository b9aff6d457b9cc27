"""Sensors behind a function: NVML, the Raspberry Pi's firmware, a meter outside."""

# ruff: noqa: N802 - NVML's own names

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet_agent.qualify.energy.meter import EnergyMeter
from edgefleet_agent.sensors.external import Statistics, meter_total, statistics_from
from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.nvml import Handle, find_nvml, find_nvml_within
from edgefleet_agent.sensors.pi import parse_adc, parse_throttled
from edgefleet_agent.sensors.probe import probe
from edgefleet_agent.sensors.reader import RailReader
from edgefleet_agent.sensors.readings import read_rails
from edgefleet_contract.profile import RailKind
from edgefleet_hil.boards import PI5_ADC, add_rapl_zone, write_board_name, write_files
from edgefleet_hil.meter import SimulatedMeter

Tree = Callable[[str], Path]


class FakeNvmlError(Exception):
    """As NVML's own error."""


class FakeNvml:
    """NVML with some cards: joules counted and watts now; None for what a card does not support."""

    NVMLError: type[Exception] = FakeNvmlError

    def __init__(self, *cards: tuple[int | None, int | None]) -> None:
        self.cards = cards

    def nvmlInit(self) -> None:
        if not self.cards:
            raise FakeNvmlError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:
        return index

    def nvmlDeviceGetName(self, handle: Handle) -> str | bytes:
        return b"Card" if handle else "Card"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Handle) -> int:
        return self._or_error(self.cards[handle][0])

    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int:
        return self._or_error(self.cards[handle][1])

    @staticmethod
    def _or_error(value: int | None) -> int:
        if value is None:
            raise FakeNvmlError("Not Supported")
        return value


def test_a_cards_counter_is_preferred_and_its_power_is_an_average() -> None:
    rails = find_nvml(FakeNvml((5_000, 70_000), (None, 30_000), (None, None))).rails
    assert [(rail.kind, rail.window_s, rail.problem is None) for rail in rails] == [
        (RailKind.COUNTER, None, True),
        (RailKind.AVERAGE, 1.0, True),
        (RailKind.AVERAGE, 1.0, False),
    ]
    with RailReader(rails[:2]) as reader:
        assert reader.values(reader.read()) == (5.0, 30.0)


def test_a_driver_that_does_not_answer_is_noted() -> None:
    found = find_nvml(FakeNvml())
    assert found.rails == ()
    assert "Driver Not Loaded" in found.notes[0]


def test_a_driver_that_never_answers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    nvml = FakeNvml((5_000, 1))
    monkeypatch.setattr(nvml, "nvmlInit", let_go.wait)
    found = find_nvml_within(nvml, 0.01)
    let_go.set()
    assert found.rails == ()
    assert "did not answer" in found.notes[0]


def test_graphics_cards_and_packages_add_up_and_psys_stands_aside(tmp_path: Path) -> None:
    add_rapl_zone(tmp_path, "intel-rapl:0", "package-0", 7_000_000)
    add_rapl_zone(tmp_path, "intel-rapl:1", "psys", 9_000_000)
    _, total = read_rails(probe(tmp_path, nvml=FakeNvml((5_000, 1))))
    assert (total.rails, total.joules) == (("package-0", "gpu0"), 12.0)
    assert "psys is left out" in str(total.rule)


def test_a_card_that_gives_only_watts_makes_a_mixed_total_without_a_figure_at_once(tmp_path: Path) -> None:
    add_rapl_zone(tmp_path, "intel-rapl:0", "package-0", 7_000_000)
    _, total = read_rails(probe(tmp_path, nvml=FakeNvml((None, 70_000))))
    assert (total.status, total.kind, total.watts, total.joules) == ("available", "mixed", None, None)
    assert "only over time" in str(total.reason)


def test_cards_without_a_processor_counter_are_modelled(tmp_path: Path) -> None:
    _, total = read_rails(probe(tmp_path, nvml=FakeNvml((None, 70_000))))
    assert (total.status, total.watts) == ("modelled", 70.0)


def test_a_jetsons_own_gpu_is_not_added_to_its_module(tree: Tree) -> None:
    _, total = read_rails(probe(tree("orin-nano"), nvml=FakeNvml((5_000, 1))))
    assert (total.rails, total.watts) == (("VDD_IN",), 4.95)


def test_the_pmics_rails_are_volts_times_amperes_where_both_are_told() -> None:
    rails = parse_adc(PI5_ADC)
    assert rails["VDD_CORE"] == 1.6
    assert len(rails) == 11


@pytest.mark.parametrize(
    "text", ["", 'error=1 error_msg="Command not registered"', "VDD_CORE_A current(7)=1e9A", "x" * 99_999]
)
def test_firmware_without_the_command_gives_no_rails(text: str) -> None:
    with pytest.raises(SensorFileError):
        parse_adc(text)


def test_one_command_gives_all_rails_of_a_reading() -> None:
    asked: list[str] = []

    def vcgencmd(word: str) -> str:
        asked.append(word)
        return PI5_ADC if word == "pmic_read_adc" else "throttled=0x0"

    root = Path("/nowhere")
    sensors = probe(root, vcgencmd=vcgencmd)
    asked.clear()
    with RailReader(sensors.total.rails) as reader:
        assert sum(reader.values(reader.read())) == pytest.approx(2.9144)
        reader.read()
    assert asked == ["pmic_read_adc"] * 2


@pytest.mark.parametrize(
    ("text", "bits"), [("throttled=0x50000\n", 0x50000), ("0x5", 5), ("50005\n", 0x50005), ("0", 0)]
)
def test_throttle_bits_are_hexadecimal_in_every_form(text: str, bits: int) -> None:
    assert parse_throttled(text) == bits


@pytest.mark.parametrize("text", ["", "throttled=", "0xZ", "123456789", "5_0"])
def test_other_throttle_answers_are_refused(text: str) -> None:
    with pytest.raises(SensorFileError):
        parse_throttled(text)


@pytest.mark.parametrize(
    "path",
    [
        "devices/platform/soc/soc:firmware/get_throttled",
        "devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled",
        "devices/platform/soc:firmware/get_throttled",
    ],
)
def test_throttle_bits_are_read_from_sysfs_where_the_kernel_shows_them(tmp_path: Path, path: str) -> None:
    write_board_name(tmp_path, "Raspberry Pi 4 Model B Rev 1.2")
    write_files(tmp_path, {path: "50005"})
    flags = {flag.name: (flag.active, flag.since_boot) for flag in probe(tmp_path).read_thermal().throttle}
    assert flags == {
        "under-voltage": (True, True),
        "frequency capped": (False, False),
        "throttled": (True, True),
        "soft temperature limit": (False, False),
    }


def test_a_pi_4_has_no_power_sensor(tmp_path: Path) -> None:
    write_board_name(tmp_path, "Raspberry Pi 4 Model B Rev 1.2")
    sensors = probe(tmp_path)
    assert sensors.total.reason == "no power sensor on this device"


def test_a_meter_on_the_input_is_a_total_by_itself() -> None:
    total = meter_total(SimulatedMeter())
    assert total.kind == "counter"
    assert EnergyMeter(total).dithers is False
    with RailReader(total.rails) as reader:
        assert reader.values(reader.read()) == (0.0,)


def test_a_labgrid_drivers_statistics_are_taken_over() -> None:
    told = {"power": {"avg": 1.5, "std": 0.1}, "current": {"avg": 0.3}, "voltage": {"avg": 5}, "energy_J": 12.5}
    assert statistics_from(told) == Statistics(1.5, 12.5, 0.3, 5.0)


@pytest.mark.parametrize(
    "told", [{}, {"power": 3, "energy_J": 1}, {"power": {"avg": 1}}, {"power": {"avg": True}, "energy_J": 1}]
)
def test_statistics_without_figures_are_refused(told: dict[str, object]) -> None:
    with pytest.raises(SensorFileError):
        statistics_from(told)


def test_a_simulated_meter_adds_up_what_its_load_draws(tmp_path: Path) -> None:
    meter = SimulatedMeter(lambda at_s: 2.0 if at_s < 1.0 else 6.0)
    meter.pass_s(0.5)
    meter.start()
    meter.pass_s(1.0)
    accumulated = meter.stop()
    assert accumulated.energy_j == pytest.approx(4.0)
    assert accumulated.duration_s == 1.0
    meter.capture(tmp_path / "capture.csv", duration_s=0.1, frequency_hz=100.0)
    lines = (tmp_path / "capture.csv").read_text().splitlines()
    assert lines[:2] == ["at_s,power_w", "1.500000,6.0"]
    assert len(lines) == 11
    assert meter.get_statistics().power_w == 6.0


def test_a_meter_that_was_not_started_says_so() -> None:
    with pytest.raises(SensorFileError, match="not started"):
        SimulatedMeter().stop()
