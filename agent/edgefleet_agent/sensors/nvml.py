"""NVIDIA graphics cards by NVML. The module is injected; `load_pynvml` imports the real one where it is installed.

`nvmlDeviceGetTotalEnergyConsumption` (mJ since the driver was loaded; Volta and later) is preferred.
`nvmlDeviceGetPowerUsage` is an average over one second on Ampere and later (except GA100, where it is instant), by
NVML's documentation; it is taken as such an average everywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from edgefleet_agent.sensors.files import SensorFileError, exists
from edgefleet_agent.sensors.rails import Call, Found, Rail
from edgefleet_contract.profile import RailKind

MAX_GPUS = 16
_CONTROL = Path("/dev/nvidiactl")
"""There while NVIDIA's driver is loaded; without it NVML has nothing to say."""
ANSWER_S = 10.0
"""Waking a card that sleeps takes some seconds."""
_WINDOW_S = 1.0
_COUNTER_REFRESH_S = 0.1
"""Seen between 20 and 100 ms on data-centre cards (measurements published with Zeus and by Yang et al., 2024)."""
_MILLI = 1_000


Handle = Any
"""NVML's own handle of a card; opaque here."""


class Nvml(Protocol):
    """The names of NVML's Python module that are used here."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own names
        """Load the library and connect to the driver."""

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return the number of cards."""

    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Handle:  # noqa: N802
        """Return a card."""

    def nvmlDeviceGetName(self, handle: Handle, /) -> str | bytes:  # noqa: N802
        """Return a card's name."""

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Handle, /) -> int:  # noqa: N802
        """Return millijoules since the driver was loaded."""

    def nvmlDeviceGetPowerUsage(self, handle: Handle, /) -> int:  # noqa: N802
        """Return milliwatts."""


def load_pynvml() -> Nvml | None:
    """Return `pynvml` when it is installed (`pip install edgefleet[nvml]`) and the driver is loaded, else None."""
    if not exists(_CONTROL):
        return None
    try:
        import pynvml
    except ImportError:
        return None
    module: Nvml = pynvml
    return module


def find_nvml(nvml: Nvml | None) -> Found:
    """Return one rail a graphics card.

    Args:
        nvml: a module with NVML's names, or None.
    """
    if nvml is None:
        return Found()
    try:
        nvml.nvmlInit()
        number = min(int(nvml.nvmlDeviceGetCount()), MAX_GPUS)
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(number)]
    except nvml.NVMLError as error:
        return Found(notes=(f"NVML is installed and does not work: {error}",))
    return Found(tuple(_rail(nvml, index, handle) for index, handle in enumerate(handles)))


def find_nvml_within(nvml: Nvml | None, seconds: float = ANSWER_S) -> Found:
    """Return what `find_nvml` does, or a note when the driver does not answer: a broken one may hang for ever."""
    if nvml is None:
        return Found()
    answers: list[Found] = []
    thread = threading.Thread(target=lambda: answers.append(find_nvml(nvml)), name="nvml-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else Found(notes=(f"NVML did not answer within {seconds:g} s",))


def _rail(nvml: Nvml, index: int, handle: Handle) -> Rail:
    counter = _call(nvml, nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
    power = _call(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    counts = _problem(counter) is None
    return Rail(
        name=f"gpu{index}",
        family="nvml",
        scope="gpu",
        kind=RailKind.COUNTER if counts else RailKind.AVERAGE,
        source=Call(counter if counts else power, _MILLI),
        sensor=f"NVML GPU {index} {_name(nvml, handle)}"[:128],
        feeds="the whole graphics card",
        window_s=None if counts else _WINDOW_S,
        refresh_s=_COUNTER_REFRESH_S if counts else None,
        problem=None if counts else _problem(power),
    )


def _call(nvml: Nvml, function: Callable[[Handle], int], handle: Handle) -> Callable[[], float]:
    """Return a reader that turns NVML's errors into ours."""

    def read() -> float:
        try:
            return int(function(handle))
        except nvml.NVMLError as error:
            msg = f"NVML: {error}"
            raise SensorFileError(msg) from error

    return read


def _problem(read: Callable[[], float]) -> str | None:
    try:
        read()
    except SensorFileError as error:
        return str(error)
    return None


def _name(nvml: Nvml, handle: Handle) -> str:
    try:
        name = nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError:
        return ""
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
