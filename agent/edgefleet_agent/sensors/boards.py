"""What each board's rails feed, and which of them add up. Pure: rails in, a total or the reason why there is none out.

A total comes from a rail that covers the others, or from a table that says what adds up; never from adding whatever
was found. Sources: NVIDIA Jetson developer guides (power monitors of each module), energymon's Jetson tables and
NVIDIA's forum answer 223111 for AGX Orin, the Linux kernel's powercap documentation for RAPL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgefleet_agent.sensors.rails import Rail, Total

_INPUT = ("module", "the whole module: all of its input")
FEEDS: dict[str, tuple[str, str]] = {
    "VDD_IN": _INPUT,
    "POM_5V_IN": _INPUT,
    "VDD_MUX": ("carrier", "the whole developer kit: carrier board and module"),
    "VIN": ("board", "the whole board's input"),
    "VDD_CPU_GPU_CV": ("cpu+gpu+cv", "CPU, GPU and vision accelerators"),
    "VDD_SOC": ("soc", "memory controller, codecs and other blocks of the chip"),
    "VDD_GPU_SOC": ("gpu+soc", "GPU and the chip's other blocks"),
    "VDD_CPU_CV": ("cpu+cv", "CPU and vision accelerators"),
    "VIN_SYS_5V0": ("system 5 V", "memory, storage and I/O: what VDD_GPU_SOC and VDD_CPU_CV do not feed"),
    "VDDQ_VDD2_1V8AO": ("memory", "memory and always-on logic; fed by VIN_SYS_5V0"),
    "VDD_CPU_SOC_MSS": ("cpu+soc", "CPU, memory subsystem and the chip's other blocks"),
    "VDD_GPU": ("gpu", "GPU"),
    "VDD_CPU": ("cpu", "CPU"),
    "POM_5V_GPU": ("gpu", "GPU"),
    "POM_5V_CPU": ("cpu", "CPU"),
    "GPU": ("gpu", "GPU"),
    "CPU": ("cpu", "CPU"),
    "SOC": ("soc", "the chip's other blocks"),
    "CV": ("cv", "vision accelerators"),
    "VDDRQ": ("memory", "memory"),
    "SYS5V": ("system 5 V", "storage and I/O"),
    "VDD_SYS_GPU": ("gpu", "GPU"),
    "VDD_SYS_CPU": ("cpu", "CPU"),
    "VDD_SYS_SOC": ("soc", "the chip's other blocks"),
    "VDD_SYS_DDR": ("memory", "memory"),
    "VDD_4V0_WIFI": ("wifi", "wireless"),
}
_ON_MODULE = (
    "VDD_CPU_GPU_CV", "VDD_SOC", "VDD_GPU", "VDD_CPU", "VDD_SYS_GPU", "VDD_SYS_CPU", "VDD_SYS_SOC", "VDD_SYS_DDR",
    "VDD_4V0_WIFI",
)  # fmt: skip
INCLUDES: dict[str, tuple[str, ...]] = {
    "VDD_IN": _ON_MODULE,
    "POM_5V_IN": ("POM_5V_GPU", "POM_5V_CPU"),
    "VDD_MUX": ("VDD_IN", *_ON_MODULE),
    "VIN": ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
    "VIN_SYS_5V0": ("VDDQ_VDD2_1V8AO",),
}
CARRIER_FAMILY = "ina2xx"
"""Monitors of one rail on a carrier board, beside the module's own INA3221."""
_LAPTOP_BATTERY = re.compile(r"BAT[0-9]")
"""ACPI's names; a phone shows its one battery and the gauges of it by other names."""
_NVIDIA = ("jetson", "nvidia", "tegra")
_SIGNATURE_N = 2
"""On a board that does not say it is NVIDIA's, one label of the tables may be chance; two are a Jetson module's."""
_CARRIER = "the carrier board and what is plugged into it"


@dataclass(frozen=True)
class BoardRule:
    """A set of rails of a board that adds up to its total."""

    board: str
    adds: tuple[str, ...]
    scope: str
    rule: str
    leaves_out: str | None = _CARRIER
    only_with: str | None = None
    """A rail that is there as well wherever this rule is meant: some names occur on other boards too."""


JETSON_RULES = (
    BoardRule(
        "Jetson with VDD_IN", ("VDD_IN",), "module", "VDD_IN is the module's input and contains every other rail"
    ),
    BoardRule(
        "Jetson Nano with JetPack 4",
        ("POM_5V_IN",),
        "module",
        "POM_5V_IN is the module's input and contains every other rail",
    ),
    BoardRule(
        "Jetson AGX Orin",
        ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
        "module",
        "AGX Orin has no rail that covers the others; these three add up. VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0 and "
        "would count twice",
    ),
    BoardRule(
        "Jetson AGX Xavier",
        ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
        "module",
        "AGX Xavier has no rail that covers the others; its six rails add up",
    ),
    BoardRule(
        "Jetson AGX Thor",
        ("VIN",),
        "board",
        "VIN is the input of carrier board and module and contains every other rail",
        leaves_out=None,
        only_with="VDD_CPU_SOC_MSS",
    ),
)
"""Rails that cover the others come first."""


def canonical(label: str) -> str:
    """Return a label as the tables spell it."""
    return label.strip().upper().replace(" ", "_")


def decide_total(rails: Sequence[Rail], board: str | None) -> Total:
    """Return which rails add up to the device's draw.

    Args:
        rails: every rail that was found, readable or not.
        board: the board's name from the device tree, where there is one.
    """
    if not rails:
        return Total(reason="no power sensor on this device")
    for family, decide in _DECIDERS:
        own = [rail for rail in rails if rail.family == family]
        if own:
            return decide(own, rails, board)
    return _nothing_covers(rails)


def _nothing_covers(rails: Sequence[Rail]) -> Total:
    names = ", ".join(rail.name for rail in rails[:8])
    return Total(reason=f"none of these rails is known to cover the device, and no table says which add up: {names}")


def _unreadable(rails: Sequence[Rail]) -> str:
    return "; ".join(f"{rail.name}: {rail.problem}" for rail in rails[:6] if rail.problem)


def _jetson_total(own: Sequence[Rail], rails: Sequence[Rail], board: str | None) -> Total:
    known = {canonical(rail.name) for rail in own} & FEEDS.keys()
    foreign = board is not None and not any(word in board.lower() for word in _NVIDIA)
    if foreign and len(known) < _SIGNATURE_N:
        return Total(reason=f"no table says which rails of {board} add up: {', '.join(rail.name for rail in own)}")
    own = [*own, *(rail for rail in rails if rail.family == CARRIER_FAMILY)]
    rules = _rules_for({canonical(rail.name) for rail in own})
    for rule in rules:
        chosen = [rail for name in rule.adds for rail in own if canonical(rail.name) == name]
        if len(chosen) > len(rule.adds):
            doubled = ", ".join(rail.sensor for rail in chosen)
            return Total(
                reason=f"rails of the same name on two chips: which is the {rule.board}'s is not known ({doubled})"
            )
        if len(chosen) == len(rule.adds):
            return _whole(chosen, rule)
    if rules:
        there = {canonical(rail.name) for rail in own}
        nearest = max(rules, key=lambda rule: (rule.only_with is not None, len(there & set(rule.adds))))
        missing = ", ".join(name for name in nearest.adds if name not in there)
        return Total(reason=f"no table fits; the nearest, {nearest.board}, needs what is not there: {missing}")
    return _nothing_covers(own)


def _rules_for(there: set[str]) -> list[BoardRule]:
    """Return the rules these rails may be meant by."""
    return [
        rule for rule in JETSON_RULES if (there & set(rule.adds) if rule.only_with is None else rule.only_with in there)
    ]


def _whole(chosen: Sequence[Rail], rule: BoardRule) -> Total:
    if bad := [rail for rail in chosen if rail.problem]:
        return Total(reason=f"the total needs rails that cannot be read: {_unreadable(bad)}")
    return Total(tuple(chosen), rule.scope, rule.rule, rule.leaves_out)


def _rapl_total(own: Sequence[Rail], rails: Sequence[Rail], _: str | None) -> Total:
    psys = [rail for rail in own if rail.scope == "platform"]
    packages = [rail for rail in own if rail.scope == "package"]
    gpus = [rail for rail in rails if rail.family == "nvml"]
    if len(psys) == 1 and not psys[0].problem and not gpus:
        rule = "psys covers the platform and contains the packages"
        return Total(tuple(psys), "platform", rule, "what hangs behind the platform's own supply, if anything")
    words = [rail.name.partition(" (")[0] for rail in packages]
    if len(set(words)) < len(words):
        return Total(reason=f"two zones have one package's name: which counts is not known ({', '.join(words)})")
    if not packages:
        return Total(reason=_unreadable(psys) or "RAPL tells no package: its other zones do not cover the processor")
    if bad := [rail for rail in packages if rail.problem]:
        return Total(reason=f"not every processor package can be read: {_unreadable(bad)}")
    if bad := [rail for rail in gpus if rail.problem]:
        return Total(reason=f"the GPU's draw cannot be read: {_unreadable(bad)}")
    memory = [rail for rail in own if rail.scope == "memory"]
    if any(rail.problem for rail in memory) or {rail.group for rail in memory} < {rail.group for rail in packages}:
        memory = []  # the memory of one socket without the other's adds up to nothing that has a name
    return _packages(packages, memory, gpus, aside=psys)


def _packages(packages: Sequence[Rail], memory: Sequence[Rail], gpus: Sequence[Rail], aside: Sequence[Rail]) -> Total:
    parts = ["processor packages", *(["memory"] if memory else []), *(["NVIDIA GPUs"] if gpus else [])]
    rule = "packages are disjoint, dram lies outside them, core and uncore inside"
    if gpus:
        rule += "; graphics cards have a supply of their own"
    if aside:
        rule += "; psys is left out: whether it covers all of these is not known"
    absent = "mainboard, storage, fans and losses of the power supply"
    return Total(
        (*packages, *memory, *gpus),
        " and ".join(parts),
        rule,
        absent if memory else f"memory, {absent}",
    )


def _nvml_total(own: Sequence[Rail], _: Sequence[Rail], __: str | None) -> Total:
    if bad := [rail for rail in own if rail.problem]:
        return Total(reason=f"the GPU's draw cannot be read: {_unreadable(bad)}")
    rule = "each graphics card has a supply of its own"
    reason = "only the graphics cards are seen: nothing here tells what the processor draws"
    return Total(tuple(own), "NVIDIA GPUs", rule, "processor, memory and everything else", modelled=True, reason=reason)


def _pmic_total(own: Sequence[Rail], _: Sequence[Rail], __: str | None) -> Total:
    good = [rail for rail in own if not rail.problem]
    if not good:
        return Total(reason=_unreadable(own))
    rule = "the PMIC's output rails are disjoint"
    left = "USB, the fan, HATs, the 5 V rail itself and the PMIC's own losses"
    reason = f"the PMIC measures only a part of the board: it leaves out {left}"
    return Total(tuple(good), "PMIC rails", rule, left, modelled=True, reason=reason)


def _whole_battery(found: Sequence[Rail]) -> tuple[list[Rail], str]:
    """Return the batteries to add and why; none, and why not, when they may be one battery seen twice."""
    rule = "on battery, the battery covers the whole device"
    if len(found) == 1:
        return [*found], rule
    if all(_LAPTOP_BATTERY.fullmatch(rail.name) for rail in found):
        return [*found], f"{rule}; a laptop's batteries add up"
    if main := [rail for rail in found if rail.name == "battery"]:
        return main, f"{rule}; the others are gauges of the same battery"
    names = ", ".join(rail.name for rail in found)
    return [], f"these may be one battery seen twice, so they are not added: {names}"


def _battery_total(own: Sequence[Rail], _: Sequence[Rail], __: str | None) -> Total:
    device = [rail for rail in own if rail.scope == "device"]
    if not device:
        return Total(reason="the power supplies found here do not feed the device: " + ", ".join(r.name for r in own))
    device, rule = _whole_battery(device)
    if not device:
        return Total(reason=rule)
    if bad := [rail for rail in device if rail.problem]:
        return Total(reason=_unreadable(bad))
    inferred = "; ".join(rail.inferred for rail in device if rail.inferred)
    return Total(tuple(device), "device", rule, None, modelled=bool(inferred), reason=inferred or None)


_DECIDERS = (
    ("ina3221", _jetson_total),
    ("rapl", _rapl_total),
    ("pmic", _pmic_total),
    ("battery", _battery_total),
    ("nvml", _nvml_total),
)
"""By trust: a table of the board, counters of the processor, partial rails, the battery, graphics cards alone."""
