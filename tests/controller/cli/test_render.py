from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from edgefleet_contract.evidence import (
    EnergyResult,
    EnergyStatus,
    LatencyResult,
    LatencyVerdict,
    ParityResult,
    ParityVerdict,
    Percentiles,
)
from edgefleet_controller import api
from edgefleet_controller.api import DeviceModelRow, RevisionStatus
from edgefleet_controller.cli import figures
from edgefleet_controller.cli.render_apply import draw_result, failure_lines, headline, notes


def drawn(status: api.RevisionStatus, columns: int, *, terminal: bool = False) -> str:
    stream = io.StringIO()
    draw_result(
        Console(file=stream, width=columns, highlight=False, markup=False, force_terminal=terminal or None), status
    )
    return stream.getvalue()


@pytest.fixture
def mixed(
    complete: RevisionStatus, active_row: DeviceModelRow, refused_row: DeviceModelRow, latency: LatencyResult
) -> RevisionStatus:
    slow = latency.model_copy(
        update={"p50_ms": 14.2, "p95_ms": 18.1, "p99_ms": 25.3, "ci95_p95_ms": (17.2, 19.3), "n": 20000}
    )
    second = active_row.model_copy(update={"model": "lite0", "variant": "ort/cpu/int8-dynamic", "latency": slow})
    rows = (active_row, second, refused_row)
    return complete.model_copy(update={"phase": api.Phase.FAILED, "devices": rows, "reason": "1 of 3 refused"})


@pytest.mark.parametrize("columns", [80, 100, 160])
def test_tables_stay_within_the_width(mixed: RevisionStatus, columns: int) -> None:
    tables = [line for line in drawn(mixed, columns).splitlines() if "unmeasured (" not in line]
    assert max(cell_len(line) for line in tables) <= columns


@pytest.mark.parametrize("columns", [80, 100])
def test_every_figure_is_readable_unbroken(mixed: RevisionStatus, columns: int) -> None:
    out = drawn(mixed, columns)
    for text in ("ort/cpu/int8 ", "0.982", "0.981", "1000", "30.0 MiB", "49 µs … 52 µs", "17.2 ms … 19.3 ms", "20000"):
        assert text in out
    assert "energy unmeasured (no power sensor on this device): local/digits, local/lite0" in out


def test_the_tail_is_pictured_where_there_is_room(mixed: RevisionStatus) -> None:
    assert "█" in drawn(mixed, 100)
    assert "█" not in drawn(mixed, 80)


def test_the_energy_column_stays_on_a_narrow_screen_when_something_was_measured(
    mixed: RevisionStatus, active_row: DeviceModelRow
) -> None:
    energy = EnergyResult(status=EnergyStatus.MEASURED, per_inference_mj=12.34)
    row = active_row.model_copy(update={"energy": energy})
    assert "12.3 mJ" in drawn(mixed.model_copy(update={"devices": (row,)}), 80)
    assert "energy unmeasured" not in drawn(mixed.model_copy(update={"devices": (row,)}), 80)


def test_what_was_not_taken_is_listed_with_verdict_and_reason(mixed: RevisionStatus) -> None:
    out = drawn(mixed, 100)
    assert "tried and not taken" in out
    assert "unsupported  no Edge TPU found" in out


def test_colours_go_with_no_color(mixed: RevisionStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in drawn(mixed, 100, terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in drawn(mixed, 100, terminal=True)


def test_a_revision_without_devices_is_its_headline(complete: RevisionStatus) -> None:
    status = complete.model_copy(update={"devices": (), "phase": api.Phase.ERROR, "reason": "build-failed"})
    assert drawn(status, 80) == "revision 3 error: build-failed\n"
    assert failure_lines(status) == ["error: revision 3: build-failed"]


def test_what_devices_keep_of_earlier_manifests_is_a_note_and_no_failure(
    complete: RevisionStatus, refused_row: DeviceModelRow
) -> None:
    status = complete.model_copy(update={"left_over": (refused_row,)})
    assert "not in this manifest: lite0 (refused on kiosk-1); `fleet apply --prune` removes" in drawn(status, 100)
    assert failure_lines(status) == []


def test_no_change_is_said_only_once_everything_is_active(complete: RevisionStatus) -> None:
    unchanged = complete.model_copy(update={"changed": False})
    assert headline(unchanged) == "no change: revision 3 is already active on 1 device(s)"
    assert headline(unchanged.model_copy(update={"phase": api.Phase.BUILDING})).startswith("revision 3 building")


def test_doubtful_figures_are_explained_once_for_all_rows_alike(
    active_row: DeviceModelRow, latency: LatencyResult, parity: ParityResult
) -> None:
    doubtful = active_row.model_copy(
        update={
            "latency": latency.model_copy(update={"verdict": LatencyVerdict.CONTENDED, "reason": "40 % stolen"}),
            "parity": parity.model_copy(update={"verdict": ParityVerdict.WEAK, "metric": None, "reason": "random"}),
        }
    )
    other = doubtful.model_copy(update={"device": "kiosk-1"})
    found = notes([doubtful, other])
    assert "latency contended (40 % stolen): local/digits, kiosk-1/digits" in found
    assert "parity weak (random): local/digits, kiosk-1/digits" in found
    assert any(note.startswith("no labels; 99.9% of decisions agree") for note in found)


def test_a_missing_interval_is_said_and_not_left_empty() -> None:
    assert figures.interval_cell(None) == "too few samples"


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), st.integers(0, 60))
def test_the_tail_bar_is_never_longer_or_shorter_than_asked(figures_ms: list[float], columns_n: int) -> None:
    p50_ms, p95_ms, p99_ms = sorted(figures_ms)
    bar = figures.tail_bar(Percentiles(n=1, n_eff=1, p50_ms=p50_ms, p95_ms=p95_ms, p99_ms=p99_ms), columns_n)
    assert len(bar) == (columns_n if p99_ms > 0 else 0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "now"), (0.4, "now"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, text: str) -> None:
    assert figures.age(10**18, 10**18 + int(seconds * 1e9)) == text


def test_what_was_never_seen_says_never() -> None:
    assert figures.age(None, 0) == "never"


def test_modelled_energy_is_shown_with_what_it_leaves_out(active_row: DeviceModelRow, mixed: RevisionStatus) -> None:
    reason = "the PMIC measures only a part of the board"
    energy = EnergyResult(status=EnergyStatus.MODELLED, per_inference_mj=12.34, reason=reason)
    row = active_row.model_copy(update={"energy": energy})
    out = drawn(mixed.model_copy(update={"devices": (row,)}), 200)
    assert "12.3 mJ" in out
    assert f"energy modelled ({reason})" in out
