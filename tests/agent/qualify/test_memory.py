"""Memory of this process, on the real kernel and on scripted files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefleet_agent.qualify.memory import MemoryMeter

MIB = 1024**2


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    set_kib(tmp_path, rss=1000, peak=5000)
    (tmp_path / "smaps_rollup").write_text("Rss: 1000 kB\nPss:  700 kB\n")
    (tmp_path / "clear_refs").write_text("")
    return tmp_path


def set_kib(proc: Path, *, rss: int, peak: int) -> None:
    (proc / "status").write_text(f"Name:\tworker\nVmHWM:\t {peak} kB\nVmRSS:\t {rss} kB\n")


def test_an_allocation_that_is_gone_again_is_in_the_peak() -> None:
    meter = MemoryMeter()
    meter.start()
    assert len(b"x" * (64 * MIB)) == 64 * MIB
    result = meter.result()
    assert result is not None
    assert result.peak_bytes - result.baseline_bytes > 48 * MIB


def test_what_happens_while_paused_is_not_in_the_peak() -> None:
    meter = MemoryMeter()
    meter.start()
    meter.pause()
    assert len(b"x" * (64 * MIB)) == 64 * MIB
    meter.resume()
    result = meter.result()
    assert result is not None
    assert result.peak_bytes - result.baseline_bytes < 32 * MIB


def test_the_peak_is_the_highest_of_all_phases(proc: Path) -> None:
    meter = MemoryMeter(proc)
    meter.start()
    set_kib(proc, rss=2000, peak=3000)
    meter.pause()
    meter.resume()
    set_kib(proc, rss=1500, peak=1600)
    result = meter.result()
    assert result is not None
    assert (result.peak_bytes, result.baseline_bytes, result.pss_bytes) == (3000 * 1024, 1000 * 1024, 700 * 1024)
    assert (proc / "clear_refs").read_text() == "5"


def test_a_peak_that_cannot_be_reset_is_told(proc: Path) -> None:
    (proc / "clear_refs").unlink()
    (proc / "clear_refs").mkdir()
    meter = MemoryMeter(proc)
    meter.start()
    assert meter.warning is not None
    assert "includes earlier use" in meter.warning


def test_a_system_that_tells_nothing_gives_no_figure(tmp_path: Path) -> None:
    meter = MemoryMeter(tmp_path / "none")
    meter.start()
    assert meter.result() is None


def test_proportional_size_is_left_out_where_the_kernel_does_not_tell(proc: Path) -> None:
    (proc / "smaps_rollup").unlink()
    meter = MemoryMeter(proc)
    meter.start()
    result = meter.result()
    assert result is not None
    assert result.pss_bytes is None


def test_figures_are_taken_once_the_runtime_has_its_memory_and_what_the_harness_keeps_is_left_out(proc: Path) -> None:
    meter = MemoryMeter(proc)
    meter.start()
    calls: list[int] = []

    def infer() -> None:
        calls.append(1)
        set_kib(proc, rss=2000, peak=2000 + len(calls))

    result = meter.result_after(infer)
    set_kib(proc, rss=9000, peak=9000)
    assert result is not None
    assert (len(calls), result.peak_bytes) == (3, 2003 * 1024)
    assert meter.growth() is None


def test_a_process_that_goes_on_growing_is_told_of(proc: Path) -> None:
    meter = MemoryMeter(proc)
    meter.start()
    meter.result_after(lambda: None)
    set_kib(proc, rss=1000 + 40 * 1024, peak=90_000)
    growth = meter.growth()
    assert growth is not None
    assert "grew by 40.0 MiB" in growth
