"""Ports through which a measurement reads time and the kernel's accounts, so tests can script them."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_NS_PER_S = 1_000_000_000
_SPIN_NS = 200_000


@dataclass(frozen=True)
class CpuAccounts:
    """The kernel's running totals, in nanoseconds of CPU time.

    Attributes:
        steal_ns: time the hypervisor gave to others, over all CPUs.
        busy_ns: time all CPUs worked, for any process.
        own_ns: time this process worked.
        run_delay_ns: time this thread was ready and waited for a CPU.
    """

    steal_ns: int = 0
    busy_ns: int = 0
    own_ns: int = 0
    run_delay_ns: int = 0


def read_accounts(proc: Path = Path("/proc")) -> CpuAccounts:
    """Return the kernel's totals; what the kernel does not tell stays 0."""
    tick_ns = _NS_PER_S // os.sysconf("SC_CLK_TCK")
    fields = _integers(proc / "stat", first_line=True)
    # user nice system idle iowait irq softirq steal (proc_stat(5))
    busy = sum(fields[0:3]) + sum(fields[5:7]) if len(fields) >= 8 else 0
    steal = fields[7] if len(fields) >= 8 else 0
    delay = _integers(proc / "thread-self" / "schedstat", first_line=True)
    return CpuAccounts(
        steal_ns=steal * tick_ns,
        busy_ns=busy * tick_ns,
        own_ns=time.process_time_ns(),
        run_delay_ns=delay[1] if len(delay) >= 2 else 0,
    )


def _integers(path: Path, *, first_line: bool) -> list[int]:
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return []
    line = text.partition("\n")[0] if first_line else text
    return [int(field) for field in line.split() if field.isdecimal()]


def _thread_switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _process_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _no_delay() -> int:
    return 0


def wait_until(due_ns: int) -> None:
    """Return when the clock reads `due_ns`, or at once when that has passed: sleep, and spin for the last 0.2 ms.

    Sleeping alone ends some 60 µs late and lets the CPU cool down; spinning alone would heat it between queries.
    """
    now_ns = time.perf_counter_ns
    while (left_ns := due_ns - now_ns()) > _SPIN_NS:
        time.sleep((left_ns - _SPIN_NS) / _NS_PER_S)
    while now_ns() < due_ns:
        pass


@dataclass(frozen=True)
class Clocks:
    """What a latency run reads.

    Attributes:
        now_ns: a monotonic clock, in nanoseconds.
        switches: involuntary context switches so far; reading it costs about 0.6 µs.
        accounts: the kernel's totals.
        run_delay_ns: for how long this thread was ready and waited for a CPU, so far; costs about 1.1 µs.
        wait_until: returns when `now_ns` reads at least its argument.
    """

    now_ns: Callable[[], int]
    switches: Callable[[], int]
    accounts: Callable[[], CpuAccounts]
    run_delay_ns: Callable[[], int] = _no_delay
    wait_until: Callable[[int], object] = wait_until


def real_clocks(threads: int) -> Clocks:
    """Return the machine's clocks, for the thread that asks. With several threads, switches of the process count."""
    switches = _thread_switches if threads == 1 else _process_switches
    return Clocks(time.perf_counter_ns, switches, read_accounts, run_delay_reader())


def run_delay_reader(proc: Path = Path("/proc")) -> Callable[[], int]:
    """Return a reader of this thread's run delay in nanoseconds, on a file kept open; it reads 0 where there is none.

    The second field of schedstat (Documentation/scheduler/sched-stats in the kernel).
    """
    try:
        # Closed when the worker process ends; the link leads to the thread that opens it.
        opened = os.open(proc / "thread-self" / "schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return _no_delay
    pread = os.pread

    def read() -> int:
        fields = pread(opened, 96, 0).split()
        return int(fields[1]) if len(fields) > 1 else 0

    return read
