"""Memory of this process: its peak over chosen phases, and its share at rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgefleet_contract.evidence import MemoryResult
from edgefleet_contract.units import format_bytes

_KIB = 1024
_RESET_PEAK = "5"
"""What resets VmHWM when written to clear_refs (proc(5), since Linux 4.0)."""


SETTLE_N = 3
"""The first inference allocates, the second reuses; a third shows that it does."""
MAX_GROWTH_BYTES = 32 * 1024**2
"""Sampling, statistics and what they import leave 5 to 15 MB behind."""


class MemoryMeter:
    """Measures the peak resident size between `start` and `result`, leaving out what happens while paused.

    The kernel keeps the peak itself (VmHWM), so nothing is sampled and nothing is missed. Comparing outputs is not
    the model's memory: the meter is paused for it. Where the kernel does not let the peak be reset, `warning` says
    that the peak includes what came before.
    """

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._proc = proc
        self._baseline_bytes = 0
        self._peak_bytes = 0
        self._settled_bytes = 0
        self.warning: str | None = None

    def start(self) -> None:
        """Take the baseline and begin."""
        self._baseline_bytes = self._status_bytes("VmRSS")
        self.resume()

    def pause(self) -> None:
        """Keep the peak so far; what follows does not count."""
        self._peak_bytes = max(self._peak_bytes, self._status_bytes("VmHWM"))

    def resume(self) -> None:
        """Count again from the present size."""
        try:
            (self._proc / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
        except OSError as error:
            self.warning = f"the memory peak could not be reset ({error.strerror}), so it includes earlier use"

    def result_after(self, call: Callable[[], object]) -> MemoryResult | None:
        """Infer until a runtime's arena has its size, and return the figures; what follows does not count.

        What a measurement of latency keeps and computes is the harness's memory, not the model's: 11 MB for 55,000
        samples.
        """
        for _ in range(SETTLE_N):
            call()
        result = self.result()
        self._settled_bytes = self._status_bytes("VmRSS")
        return result

    def growth(self) -> str | None:
        """Return by how much the process has grown since, in words, where that is more than the harness needs."""
        grown_bytes = self._status_bytes("VmRSS") - self._settled_bytes
        if not self._settled_bytes or grown_bytes <= MAX_GROWTH_BYTES:
            return None
        return f"the process grew by {format_bytes(grown_bytes)} while latency was measured: the runtime may leak"

    def result(self) -> MemoryResult | None:
        """Return the figures; None where the system does not tell."""
        self.pause()
        if not self._peak_bytes:
            return None
        return MemoryResult(
            peak_bytes=self._peak_bytes,
            baseline_bytes=self._baseline_bytes,
            pss_bytes=self._field_bytes("smaps_rollup", "Pss"),
        )

    def _status_bytes(self, field: str) -> int:
        return self._field_bytes("status", field) or 0

    def _field_bytes(self, file: str, field: str) -> int | None:
        try:
            text = (self._proc / file).read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name == field and value.split()[:1] and value.split()[0].isdecimal():
                return int(value.split()[0]) * _KIB
        return None
