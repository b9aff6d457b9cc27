"""Sensor trees of boards that are not at hand, as folders of plain files: for tests and for rigs.

::

    root = build_board("agx-orin", tmp_path)          # a whole sysfs
    edgefleet-agent probe --sysfs-root DIR -o json    # then tells its rails

Layouts follow the kernel's documentation and public listings of such boards; figures are made up and differ from
rail to rail, so that a sum tells which rails are in it. Nothing here was recorded on hardware by us.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

Files = Mapping[str, object]


def write_files(root: Path, files: Files) -> Path:
    """Write attributes below a folder, each with a line end, as the kernel does; return the folder."""
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n", encoding="utf-8")
    return root


def write_board_name(root: Path, model: str) -> None:
    """Write the device tree's name of the board, ended by a zero byte."""
    folder = root / "firmware/devicetree/base"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model").write_bytes(model.encode() + b"\x00")


def link_class(root: Path, kind: str, target: str) -> None:
    """Show a device in its class folder, by a relative link as sysfs has them."""
    link = root / "class" / kind / Path(target).name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(root / target, link.parent))


Channel = tuple[str, int, int]
"""Label, millivolts, milliamperes."""


def add_ina3221(
    root: Path, address: str, hwmon: int, channels: tuple[Channel, ...], *, off: tuple[int, ...] = ()
) -> Path:
    """Add an INA3221 as JetPack 5 and later show it; return the chip's folder.

    Args:
        root: the sysfs.
        address: bus and address, such as `1-0040`.
        hwmon: the chip's hwmon number.
        channels: label, millivolts and milliamperes of channels 1 to 3.
        off: channels that are switched off: their values cannot be read.
    """
    device = f"devices/platform/bus@0/c240000.i2c/i2c-{address.split('-', maxsplit=1)[0]}/{address}"
    chip = f"{device}/hwmon/hwmon{hwmon}"
    files: dict[str, object] = {f"{chip}/name": "ina3221", f"{device}/name": "ina3221", f"{chip}/samples": 1}
    for number, (label, mv, ma) in enumerate(channels, start=1):
        files |= {
            f"{chip}/in{number}_label": label,
            f"{chip}/in{number}_enable": int(number not in off),
            f"{chip}/in{number}_input": mv,
            f"{chip}/curr{number}_input": ma,
            f"{chip}/curr{number}_crit": 32760,
            f"{chip}/shunt{number}_resistor": 5000,
            f"{chip}/in{number + 3}_input": ma * 5,
        }
    files |= {f"{chip}/in7_input": 999, f"{chip}/in7_label": "sum of shunt voltages", f"{chip}/curr4_input": 99999}
    write_files(root, files)
    link_class(root, "hwmon", chip)
    for folder in ("bus/i2c/drivers/ina3221", "bus/i2c/devices"):
        link = root / folder / address
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(root / device, link.parent))
    return root / chip


def add_ina3221x(root: Path, address: str, device: int, rails: tuple[tuple[str, int], ...]) -> Path:
    """Add an INA3221 as JetPack 4 shows it, by iio: name and milliwatts of each channel; return its folder."""
    i2c = f"devices/7000c400.i2c/i2c-{address.split('-', maxsplit=1)[0]}/{address}"
    iio = f"{i2c}/iio:device{device}"
    files: dict[str, object] = {f"{iio}/name": "ina3221x", f"{i2c}/name": "ina3221x"}
    for channel, (name, mw) in enumerate(rails):
        files |= {
            f"{iio}/rail_name_{channel}": name,
            f"{iio}/in_power{channel}_input": mw,
            f"{iio}/in_voltage{channel}_input": 5000,
            f"{iio}/in_current{channel}_input": mw // 5,
            f"{iio}/crit_current_limit_{channel}": 32760,
        }
    write_files(root, files)
    link = root / "bus/i2c/drivers/ina3221x" / address
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(root / i2c, link.parent))
    iio_link = root / "bus/iio/devices" / f"iio:device{device}"
    iio_link.parent.mkdir(parents=True, exist_ok=True)
    iio_link.symlink_to(os.path.relpath(root / iio, iio_link.parent))
    return root / iio


def add_zone(root: Path, number: int, name: str, celsius: float, *, passive_c: float | None = None) -> None:
    """Add a thermal zone."""
    zone = f"class/thermal/thermal_zone{number}"
    files: dict[str, object] = {f"{zone}/type": name, f"{zone}/temp": round(celsius * 1000)}
    if passive_c is not None:
        files |= {f"{zone}/trip_point_0_type": "passive", f"{zone}/trip_point_0_temp": round(passive_c * 1000)}
    write_files(root, files)


def add_cooling(root: Path, number: int, name: str, state: int, most: int) -> None:
    """Add a cooling device."""
    folder = f"class/thermal/cooling_device{number}"
    write_files(root, {f"{folder}/type": name, f"{folder}/cur_state": state, f"{folder}/max_state": most})


def add_cpufreq(root: Path, policy: int, khz: int, max_khz: int) -> None:
    """Add a CPU clock."""
    folder = f"devices/system/cpu/cpufreq/policy{policy}"
    write_files(root, {f"{folder}/scaling_cur_freq": khz, f"{folder}/scaling_max_freq": max_khz})


def _jetson_thermal(root: Path, hwmon: int) -> None:
    for number, (name, celsius) in enumerate((("cpu-thermal", 48.5), ("gpu-thermal", 46.25), ("tj-thermal", 48.5))):
        add_zone(root, number, name, celsius, passive_c=99.0)
    for number, (name, state, most) in enumerate(
        (("pwm-fan", 2, 3), ("cpu-throttle-alert", 0, 1), ("gpu-throttle-alert", 0, 1), ("hot-surface-alert", 1, 1))
    ):
        add_cooling(root, number, name, state, most)
    add_cpufreq(root, 0, 729600, 1510400)
    chip = f"devices/platform/soctherm-oc-event/hwmon/hwmon{hwmon}"
    events = {f"{chip}/oc{number}_event_cnt": count for number, count in ((1, 0), (2, 0), (3, 7))}
    write_files(root, {f"{chip}/name": "soctherm_oc", f"{chip}/oc3_throt_en": 1, **events})
    link_class(root, "hwmon", chip)


def orin_nano(root: Path) -> Path:
    """Jetson Orin Nano with JetPack 6: 4.95 W in."""
    write_board_name(root, "NVIDIA Jetson Orin Nano Developer Kit")
    rails = (("VDD_IN", 4950, 1000), ("VDD_CPU_GPU_CV", 4950, 200), ("VDD_SOC", 4950, 300))
    add_ina3221(root, "1-0040", 1, rails)
    _jetson_thermal(root, 3)
    return root


def orin_nx(root: Path) -> Path:
    """Jetson Orin NX, its chip on another hwmon number behind a fan controller: 7.2 W in."""
    write_board_name(root, "NVIDIA Jetson Orin NX Engineering Reference Developer Kit")
    write_files(root, {"class/hwmon/hwmon0/name": "pwmfan", "class/hwmon/hwmon0/pwm1": 80})
    add_ina3221(root, "1-0040", 4, (("VDD_IN", 4800, 1500), ("VDD_CPU_GPU_CV", 4800, 500), ("VDD_SOC", 4800, 400)))
    _jetson_thermal(root, 5)
    return root


def agx_orin(root: Path) -> Path:
    """Jetson AGX Orin, two chips: 4 + 2 + 5 W; the memory rail, 1 W, is fed by the 5 V one."""
    write_board_name(root, "NVIDIA Jetson AGX Orin Developer Kit")
    add_ina3221(
        root, "1-0040", 1, (("VDD_GPU_SOC", 20000, 200), ("VDD_CPU_CV", 20000, 100), ("VIN_SYS_5V0", 5000, 1000))
    )
    add_ina3221(root, "1-0041", 2, (("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 200), ("NC", 0, 0)), off=(1, 3))
    _jetson_thermal(root, 3)
    return root


def xavier_nx(root: Path) -> Path:
    """Jetson Xavier NX with JetPack 5: 6 W in."""
    write_board_name(root, "NVIDIA Jetson Xavier NX Developer Kit")
    add_ina3221(root, "7-0040", 3, (("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 240)))
    _jetson_thermal(root, 4)
    return root


def agx_xavier(root: Path) -> Path:
    """Jetson AGX Xavier: six rails of 1, 2, 4, 8, 16 and 32 tenths of a watt."""
    write_board_name(root, "Jetson-AGX")
    add_ina3221(root, "1-0040", 2, (("GPU", 20000, 5), ("CPU", 20000, 10), ("SOC", 20000, 20)))
    add_ina3221(root, "1-0041", 3, (("CV", 20000, 40), ("VDDRQ", 20000, 80), ("SYS5V", 5000, 640)))
    return root


def nano_jetpack4(root: Path) -> Path:
    """Jetson Nano with JetPack 4: 2.1 W in, by iio."""
    write_board_name(root, "NVIDIA Jetson Nano Developer Kit")
    add_ina3221x(root, "6-0040", 0, (("POM_5V_IN", 2100), ("POM_5V_GPU", 42), ("POM_5V_CPU", 504)))
    for number, (name, celsius) in enumerate(
        (("AO-therm", 44.0), ("CPU-therm", 36.5), ("GPU-therm", 34.5), ("PMIC-Die", 100.0))
    ):
        add_zone(root, number, name, celsius)
    return root


def add_rapl_zone(root: Path, identity: str, name: str, energy_uj: int, *, range_uj: int = 262143328850) -> None:
    """Add a powercap zone where the kernel has it, and its link in the flat class folder.

    Args:
        root: the sysfs.
        identity: such as `intel-rapl:0`, or `intel-rapl:0:1` for a sub-zone.
        name: such as `package-0` or `dram`.
        energy_uj: the counter.
        range_uj: where the counter begins again.
    """
    control, *numbers = identity.split(":")
    parts = [":".join((control, *numbers[: depth + 1])) for depth in range(len(numbers))]
    zone = "/".join(("devices/virtual/powercap", control, *parts))
    write_files(
        root,
        {
            f"{zone}/name": name,
            f"{zone}/energy_uj": energy_uj,
            f"{zone}/max_energy_range_uj": range_uj,
            f"{zone}/enabled": 1,
        },
    )
    link_class(root, "powercap", zone)


def rapl_two_sockets(root: Path) -> Path:
    """A server with two sockets: 1,000 + 2,000 J in the packages, 10 + 20 J in their memory; the rest lies inside."""
    for socket in (0, 1):
        factor = socket + 1
        add_rapl_zone(root, f"intel-rapl:{socket}", f"package-{socket}", 1_000_000_000 * factor)
        add_rapl_zone(root, f"intel-rapl:{socket}:0", "core", 600_000_000 * factor)
        add_rapl_zone(root, f"intel-rapl:{socket}:1", "dram", 10_000_000 * factor, range_uj=65712999613)
    link_class(root, "powercap", "devices/virtual/powercap/intel-rapl")
    write_files(root, {"class/hwmon/hwmon0/name": "coretemp", "class/hwmon/hwmon0/temp1_input": 45000})
    write_files(root, {"class/hwmon/hwmon1/name": "nvme", "class/hwmon/hwmon1/temp1_input": 38850})
    add_zone(root, 0, "x86_pkg_temp", 51.0)
    return root


PI5_ADC = """ 3V7_WL_SW_A current(0)=0.00200000A
   3V3_SYS_A current(1)=0.10000000A
   1V8_SYS_A current(2)=0.20000000A
  DDR_VDD2_A current(3)=0.02000000A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.20000000A
    0V8_SW_A current(6)=0.40000000A
  VDD_CORE_A current(7)=2.00000000A
   3V3_DAC_A current(17)=0.00000000A
   0V8_AON_A current(16)=0.00500000A
      HDMI_A current(22)=0.01000000A
 3V7_WL_SW_V volt(8)=3.70000000V
   3V3_SYS_V volt(9)=3.30000000V
   1V8_SYS_V volt(10)=1.80000000V
  DDR_VDD2_V volt(11)=1.10000000V
  DDR_VDDQ_V volt(12)=0.60000000V
   1V1_SYS_V volt(13)=1.10000000V
    0V8_SW_V volt(14)=0.80000000V
  VDD_CORE_V volt(15)=0.80000000V
   3V3_DAC_V volt(20)=3.30000000V
   0V8_AON_V volt(19)=0.80000000V
      HDMI_V volt(23)=5.10000000V
     EXT5V_V volt(24)=5.10000000V
      BATT_V volt(25)=0.01000000V"""


def pi5(root: Path) -> Path:
    """Raspberry Pi 5 with recorded firmware answers: 2.9144 W on the PMIC's rails; it was too hot once since boot."""
    write_board_name(root, "Raspberry Pi 5 Model B Rev 1.0")
    write_files(root, {"vcgencmd/pmic_read_adc": PI5_ADC, "vcgencmd/get_throttled": "throttled=0x80000"})
    write_files(root, {"class/hwmon/hwmon0/name": "rpi_volt", "class/hwmon/hwmon0/in0_lcrit_alarm": 0})
    write_files(root, {"class/hwmon/hwmon1/name": "rp1_adc", "class/hwmon/hwmon1/in1_input": 1465})
    add_zone(root, 0, "cpu-thermal", 52.3)
    add_cooling(root, 0, "pwm-fan", 1, 4)
    add_cpufreq(root, 0, 2400000, 2400000)
    return root


def android(root: Path) -> Path:
    """An Android phone on battery: 0.5 A at 4 V; the battery appears again under hwmon, and a pen has its own."""
    battery = {"type": "Battery", "status": "Discharging", "present": 1, "current_now": -500000, "voltage_now": 4000000}
    write_files(root, {f"class/power_supply/battery/{name}": value for name, value in battery.items()})
    usb = {"type": "USB", "online": 0, "current_now": 0, "voltage_now": 0}
    write_files(root, {f"class/power_supply/usb/{name}": value for name, value in usb.items()})
    pen = {
        "type": "Battery",
        "scope": "Device",
        "status": "Discharging",
        "current_now": -900000,
        "voltage_now": 3900000,
    }
    write_files(root, {f"class/power_supply/pen/{name}": value for name, value in pen.items()})
    write_files(root, {"class/hwmon/hwmon0/name": "battery", "class/hwmon/hwmon0/power1_input": 2000000})
    add_zone(root, 0, "cpu-0-0-usr", 41.0)
    add_cooling(root, 0, "thermal-cpufreq-0", 0, 12)
    return root


BOARDS: dict[str, Callable[[Path], Path]] = {
    "orin-nano": orin_nano,
    "orin-nx": orin_nx,
    "agx-orin": agx_orin,
    "xavier-nx": xavier_nx,
    "agx-xavier": agx_xavier,
    "nano-jetpack4": nano_jetpack4,
    "rapl-two-sockets": rapl_two_sockets,
    "pi5": pi5,
    "android": android,
}


def build_board(name: str, root: Path) -> Path:
    """Build the tree of a board below an empty folder and return its sysfs.

    Raises:
        KeyError: no such board; `BOARDS` has their names.
    """
    root.mkdir(parents=True, exist_ok=True)
    return BOARDS[name](root)
