"""The port of an external power meter: a Joulescope, a bench supply, a meter on the rig.

The four verbs are those of labgrid's proposed `EnergyAnalyzerProtocol` (its pull request 1920), so that a labgrid
driver fits with a few lines. A meter on the device's input sees everything, so its rail is a total by itself.

A meter is somebody else's code: it is named as `module:factory`, loaded by the worker only, and called in a thread of
its own, so that one that hangs costs seconds and not the trial.
"""

from __future__ import annotations

import importlib
import math
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from edgefleet_agent.sensors.files import SensorFileError
from edgefleet_agent.sensors.rails import Call, Rail, Total
from edgefleet_contract.profile import RailKind

METER_VARIABLE = "EDGEFLEET_METER"
"""Names the meter's factory, for the worker."""
REFERENCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")
MAX_REFERENCE = 256
OPEN_LIMIT_S = 20.0
"""To import a meter's module and find it on its bus: Joulescopes take about three seconds."""
CALL_LIMIT_S = 2.0
"""For one call: a meter on a network answers in milliseconds, one that is gone never."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Accumulated:
    """What a meter added up between start and stop."""

    energy_j: float
    duration_s: float
    charge_c: float | None = None


@dataclass(frozen=True)
class Statistics:
    """A meter's latest figures. `energy_j` runs on from the meter's start; `power_w` is the mean of its last window."""

    power_w: float
    energy_j: float
    current_a: float | None = None
    voltage_v: float | None = None


class ExternalMeter(Protocol):
    """A meter outside the device. Every method raises SensorFileError when the meter does not answer."""

    @property
    def name(self) -> str:
        """Maker, model and serial number."""

    @property
    def refresh_s(self) -> float:
        """How often it renews its statistics; each end of a measurement may be this old. A Joulescope: 0.5."""

    def start(self) -> None:
        """Begin to add up charge and energy."""

    def stop(self) -> Accumulated:
        """End what `start` began and return it."""

    def capture(self, path: Path, *, duration_s: float, frequency_hz: float | None = None) -> None:
        """Write samples to a file for some time."""

    def get_statistics(self) -> Statistics:
        """Return the latest figures."""


SIMULATED = "the meter is simulated: its figures are made, not measured"


def is_simulated(meter: ExternalMeter) -> bool:
    """Tell whether a meter says of itself, by an attribute `simulated`, that it measures nothing."""
    return getattr(meter, "simulated", False) is True


def meter_total(meter: ExternalMeter) -> Total:
    """Return a meter on the device's input as the device's total: a counter of joules.

    What a simulated meter tells is `modelled`, whatever it is called.
    """

    def read() -> float:
        energy_j: object = meter.get_statistics().energy_j
        if isinstance(energy_j, bool) or not isinstance(energy_j, int | float) or not math.isfinite(energy_j):
            msg = f"the meter's energy_j is {energy_j!r:.80}, no number"
            raise SensorFileError(msg)
        return energy_j

    rail = Rail(
        name=meter.name,
        family="meter",
        scope="device",
        kind=RailKind.COUNTER,
        source=Call(read),
        sensor=f"external meter {meter.name}",
        feeds="everything behind the meter",
        refresh_s=meter.refresh_s,
    )
    simulated = is_simulated(meter)
    reason = SIMULATED if simulated else None
    return Total((rail,), "device", "the meter sits in the device's input", None, modelled=simulated, reason=reason)


@contextmanager
def opened_meter(
    reference: str, *, open_limit_s: float = OPEN_LIMIT_S, call_limit_s: float = CALL_LIMIT_S
) -> Iterator[ExternalMeter]:
    """Load and start a meter, and stop it at the end. Every call of it is bounded in time.

    Args:
        reference: `module:factory`; the factory takes nothing and returns an `ExternalMeter`.
        open_limit_s: the longest that importing, making and starting it may take together.
        call_limit_s: the longest any other call may take.

    Raises:
        SensorFileError: there is no such factory, it fails, what it returns is no meter, or it takes too long.
    """
    thread = _OwnThread()
    meter = thread.result(lambda: _started(reference), open_limit_s, "opening it")
    bounded = _BoundedMeter(meter, thread, call_limit_s)
    try:
        yield bounded
    finally:
        with suppress(SensorFileError):
            bounded.stop()


def _started(reference: str) -> ExternalMeter:
    module, _, factory = reference.partition(":")
    meter: ExternalMeter = getattr(importlib.import_module(module), factory)()
    lacks = [name for name in ("name", "refresh_s", "start", "stop", "get_statistics") if not hasattr(meter, name)]
    if lacks:
        msg = f"what it returns has no {', '.join(lacks)}"
        raise SensorFileError(msg)
    told: tuple[object, object] = (meter.name, meter.refresh_s)
    if not (isinstance(told[0], str) and isinstance(told[1], int | float) and told[1] >= 0):
        msg = "its name must be a text, its refresh_s seconds"
        raise SensorFileError(msg)
    meter.start()
    return meter


class _OwnThread:
    """A thread that calls what it is given, for a caller who does not wait for ever."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stuck: str | None = None
        threading.Thread(target=self._run, name="meter", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._work.get()()

    def result(self, call: Callable[[], _Value], limit_s: float, doing: str) -> _Value:
        """Return what a call returns. Raises SensorFileError when it fails, takes too long, or one before it did."""
        if self._stuck is not None:
            raise SensorFileError(self._stuck)
        answer: Future[_Value] = Future()

        def work() -> None:
            try:
                answer.set_result(call())
            except Exception as error:  # noqa: BLE001 - somebody else's code
                answer.set_exception(error)

        self._work.put(work)
        if not wait([answer], limit_s).done:
            self._stuck = f"{doing} took longer than {limit_s:g} s"
            raise SensorFileError(self._stuck)
        if (error := answer.exception()) is not None:
            told = str(error) if isinstance(error, SensorFileError) else f"{type(error).__name__}: {error}"
            msg = f"{doing} failed: {told}"
            raise SensorFileError(msg) from error
        return answer.result()


class _BoundedMeter:
    """A meter whose calls end. An `ExternalMeter`."""

    def __init__(self, meter: ExternalMeter, thread: _OwnThread, limit_s: float) -> None:
        self._meter, self._thread, self._limit_s = meter, thread, limit_s
        self.name, self.refresh_s = meter.name[:128], float(meter.refresh_s)
        self.simulated = is_simulated(meter)

    def start(self) -> None:
        """Begin to add up charge and energy. Raises SensorFileError, as every method."""
        self._thread.result(self._meter.start, self._limit_s, "starting")

    def stop(self) -> Accumulated:
        """End what `start` began and return it."""
        return self._thread.result(self._meter.stop, self._limit_s, "stopping")

    def capture(self, path: Path, *, duration_s: float, frequency_hz: float | None = None) -> None:
        """Write samples to a file for some time."""
        self._thread.result(
            lambda: self._meter.capture(path, duration_s=duration_s, frequency_hz=frequency_hz),
            duration_s + self._limit_s,
            "capturing",
        )

    def get_statistics(self) -> Statistics:
        """Return the latest figures."""
        return self._thread.result(self._meter.get_statistics, self._limit_s, "reading its statistics")


def statistics_from(told: Mapping[str, object]) -> Statistics:
    """Return a labgrid driver's `get_statistics()` dictionary as ours.

    Args:
        told: holds `power`, `current`, `voltage` (each with `avg`) and `energy_J`.

    Raises:
        SensorFileError: a figure is missing or no number.
    """
    energy_j = told.get("energy_J")
    power_w = _average(told, "power")
    if power_w is None or isinstance(energy_j, bool) or not isinstance(energy_j, int | float):
        msg = "the meter's statistics hold no power.avg or no energy_J"
        raise SensorFileError(msg)
    return Statistics(power_w, float(energy_j), _average(told, "current"), _average(told, "voltage"))


def _average(told: Mapping[str, object], name: str) -> float | None:
    part = told.get(name)
    value = part.get("avg") if isinstance(part, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
