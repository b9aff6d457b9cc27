"""The result of an apply: what is active with its figures, what was tried and not taken, what failed and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import DeviceState
from edgefleet_contract.units import format_share
from edgefleet_controller.api import DeviceModelRow, Phase, RevisionStatus
from edgefleet_controller.cli import figures
from edgefleet_controller.cli.tables import Cell, draw

if TYPE_CHECKING:
    from rich.console import Console

    from edgefleet_contract.evidence import EnergyResult
    from edgefleet_contract.report import Tried

_ENERGY_COLUMNS = 90
_LATENCY_COLUMNS = 80
"""What the tables need with energy and without a picture, for names of usual length."""
_MIN_BAR = 8
_MAX_BAR = 24


def draw_result(console: Console, status: RevisionStatus) -> None:
    """Draw the whole result: a headline, models, latencies, what was not taken, and notes."""
    console.print(headline(status), soft_wrap=True, style=_headline_style(status))
    if status.devices:
        draw_rows(console, status.devices)
    if status.left_over:
        console.print(f"\n{left_over_note(status.left_over)}", soft_wrap=True)


def draw_rows(console: Console, rows: Sequence[DeviceModelRow]) -> None:
    """Draw models, latencies, what was not taken, and notes; a part with nothing in it is left out."""
    console.print()
    draw_models(console, rows)
    measured = [row for row in rows if row.latency is not None]
    if measured:
        console.print()
        draw_latencies(console, measured)
    draw_not_taken(console, rows)
    found = notes(rows)
    if found:
        console.print()
    for note in found:
        console.print(note, soft_wrap=True)


def headline(status: RevisionStatus) -> str:
    """Return one line that says how it went."""
    devices_n = len({row.device for row in status.devices})
    if not status.changed and status.phase is Phase.COMPLETE:
        return f"no change: revision {status.revision} is already active on {devices_n} device(s)"
    reason = f": {status.reason}" if status.reason else ""
    where = f" on {devices_n} device(s)" if devices_n else ""
    return f"revision {status.revision} {status.phase.value}{where}{reason}"


def left_over_note(rows: Iterable[DeviceModelRow]) -> str:
    """Return one line that says what devices keep of earlier manifests, and how to be rid of it."""
    kept = ", ".join(f"{row.model} ({row.state.value} on {row.device})" for row in rows)
    return f"not in this manifest: {kept}; `fleet apply --prune` removes what it does not name"


def _headline_style(status: RevisionStatus) -> str:
    if status.phase is Phase.COMPLETE:
        return "bold green"
    return "bold red" if status.phase.final else "bold yellow"


def draw_models(console: Console, rows: Sequence[DeviceModelRow]) -> None:
    """Draw one row a device and model: what is active, how right and how large it is.

    The energy column is left out where it is narrow and nothing was measured: the notes say why.
    """
    with_energy = console.width >= _ENERGY_COLUMNS or any(_measured(row.energy) for row in rows)
    figures_of = [
        "parity",
        "top-1\nsource",
        "top-1\nartifact",
        "n",
        "peak\nmemory",
        *(["energy"] if with_energy else []),
    ]
    draw(
        console,
        ["device", "model", "variant", "state", *figures_of],
        [_model_cells(row, with_energy=with_energy) for row in rows],
        right=["top-1\nsource", "top-1\nartifact", "n", "peak\nmemory"],
        fixed=["state", *figures_of],
    )


def _measured(energy: EnergyResult | None) -> bool:
    return energy is not None and energy.per_inference_mj is not None


def _model_cells(row: DeviceModelRow, *, with_energy: bool) -> Sequence[Cell]:
    parity = row.parity.verdict.value if row.parity else figures.NONE
    return [
        row.device,
        row.model,
        row.variant or figures.NONE,
        (row.state.value, figures.state_style(row.state.value)),
        (parity, figures.verdict_style(parity) if row.parity else ""),
        *figures.metric_cells(row.parity),
        figures.memory_cell(row.memory),
        *([figures.energy_cell(row.energy)] if with_energy else []),
    ]


def draw_latencies(console: Console, rows: Sequence[DeviceModelRow]) -> None:
    """Draw the percentiles with the 95 % interval of p95, and a picture of the tail where there is room."""
    bar_n = min(_MAX_BAR, console.width - _LATENCY_COLUMNS)
    headers = ["latency of", "p50", "p95", "95 % of p95", "p99", "n", "verdict"]
    pictured = bar_n >= _MIN_BAR
    draw(
        console,
        [*headers, "0 to p99"] if pictured else headers,
        [_latency_cells(row, bar_n if pictured else 0) for row in rows],
        right=["p50", "p95", "p99", "n"],
        fixed=headers[1:],
    )


def _latency_cells(row: DeviceModelRow, bar_n: int) -> Sequence[Cell]:
    cells: list[Cell] = [_place(row), *figures.percentile_cells(row.latency)]
    if row.latency is None:
        return [*cells, figures.NONE]
    verdict = row.latency.verdict.value
    cells.append((verdict, figures.verdict_style(verdict)))
    if bar_n:
        cells.append((figures.tail_bar(row.latency, bar_n), "cyan"))
    return cells


def draw_not_taken(console: Console, rows: Iterable[DeviceModelRow]) -> None:
    """Draw which variants were tried and not taken, and why; nothing when there are none."""
    tried = [_tried_cells(row, one) for row in rows for one in row.tried]
    if tried:
        console.print()
        draw(console, ["tried and not taken", "variant", "verdict", "reason"], tried, fixed=["variant", "verdict"])


def _tried_cells(row: DeviceModelRow, one: Tried) -> Sequence[Cell]:
    verdict = one.verdict.value
    return [_place(row), one.variant, (verdict, figures.verdict_style(verdict)), one.reason]


def notes(rows: Iterable[DeviceModelRow]) -> list[str]:
    """Return what needs words: why energy is unmeasured, why parity is weak, why a latency is not `valid`."""
    by_text: dict[str, list[str]] = {}
    for row in rows:
        for text in _row_notes(row):
            by_text.setdefault(text, []).append(_place(row))
    return [f"{text}: {', '.join(places)}" for text, places in by_text.items()]


def _row_notes(row: DeviceModelRow) -> Iterable[str]:
    if row.parity is not None and row.parity.metric is None and row.parity.agreement is not None:
        yield f"no labels; {format_share(row.parity.agreement)} of decisions agree with the source"
    if (energy := figures.energy_note(row.energy)) is not None:
        yield f"energy {energy}"
    if row.parity is not None and row.parity.verdict.value == "weak":
        yield f"parity weak ({row.parity.reason or 'the samples prove little'})"
    if row.latency is not None and row.latency.verdict.value != "valid":
        yield f"latency {row.latency.verdict.value} ({row.latency.reason or 'see fleet evidence'})"


def failure_lines(status: RevisionStatus) -> list[str]:
    """Return what failed, for stderr: device, model, each variant with its gate's words, and the next command."""
    lines: list[str] = []
    for row in status.devices:
        if row.state is DeviceState.REFUSED:
            lines += _refusal(row)
    if status.phase is Phase.ERROR:
        lines.append(f"error: revision {status.revision}: {status.reason or 'no reason was given'}")
    return lines


def _refusal(row: DeviceModelRow) -> list[str]:
    return [
        f"{_place(row)}: refused: {row.reason or 'no variant of the chain qualified'}",
        *[f"  {one.variant}: {one.verdict.value}: {one.reason}" for one in row.tried],
        f"  next: {_where_to_look(row)}",
    ]


def _where_to_look(row: DeviceModelRow) -> str:
    """Return the command that says more: of trials there is evidence; before one, of builds or of the device."""
    verdicts = {one.verdict for one in row.tried}
    if not row.tried or verdicts - {Verdict.UNSUPPORTED, Verdict.BUILD_FAILED}:
        return f"fleet evidence --device {row.device} --model {row.model}"
    return "fleet query builds" if Verdict.BUILD_FAILED in verdicts else f"fleet devices show {row.device}"


def _place(row: DeviceModelRow) -> str:
    return f"{row.device}/{row.model}"
