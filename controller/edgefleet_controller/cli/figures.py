"""Figures as people read them, each in one short cell. Pure: values in, text out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefleet_contract.units import format_bytes, format_ms

if TYPE_CHECKING:
    from edgefleet_contract.evidence import EnergyResult, MemoryResult, ParityResult, Percentiles

NONE = "–"
"""Stands where there is no figure; an empty cell would read as a fault of the table."""

STATE_STYLES = {"active": "green", "refused": "red", "removed": "dim"}
VERDICT_STYLES = {
    "pass": "green", "qualified": "green", "valid": "green", "weak": "yellow", "contended": "yellow",
    "unsteady": "yellow", "throttled": "yellow", "inconclusive": "yellow",
}  # fmt: skip
SEVERITY_STYLES = {"info": "dim", "warning": "yellow", "critical": "red"}


def state_style(state: str) -> str:
    """Return the colour of a device state; yellow while it is on its way."""
    return STATE_STYLES.get(state, "yellow")


def verdict_style(verdict: str) -> str:
    """Return the colour of any verdict; red for whatever is not good or doubtful."""
    return VERDICT_STYLES.get(verdict, "red")


def metric_cells(parity: ParityResult | None) -> list[str]:
    """Return the task's metric of the source, of the artifact, and on how many labelled samples."""
    metric = parity.metric if parity is not None else None
    if metric is None:
        return [NONE] * 3
    return [f"{metric.reference:.3f}", f"{metric.measured:.3f}", str(metric.n)]


def memory_cell(memory: MemoryResult | None) -> str:
    """Return the peak, in a binary unit."""
    return NONE if memory is None else format_bytes(memory.peak_bytes)


def energy_cell(energy: EnergyResult | None) -> str:
    """Return energy per inference, or `unmeasured`; why stands in `energy_note`."""
    if energy is None:
        return NONE
    return energy.status.value if energy.per_inference_mj is None else f"{energy.per_inference_mj:.3g} mJ"


def energy_note(energy: EnergyResult | None) -> str | None:
    """Return `unmeasured (reason)` or `modelled (reason)`; None when energy was measured or never asked for."""
    if energy is None or energy.status.value == "measured":
        return None
    return f"{energy.status.value} ({energy.reason or 'no reason was given'})"


def interval_cell(interval_ms: tuple[float, float] | None) -> str:
    """Return a confidence interval; where none exists at this sample size, say that."""
    return "too few samples" if interval_ms is None else f"{format_ms(interval_ms[0])} … {format_ms(interval_ms[1])}"


def percentile_cells(figures: Percentiles | None) -> list[str]:
    """Return p50, p95, the interval of p95, p99 and n."""
    if figures is None:
        return [NONE] * 5
    return [
        format_ms(figures.p50_ms),
        format_ms(figures.p95_ms),
        interval_cell(figures.ci95_p95_ms),
        format_ms(figures.p99_ms),
        str(figures.n),
    ]


def tail_bar(latency: Percentiles, columns_n: int) -> str:
    """Return a picture of the tail on the row's own scale, 0 to p99: `█` to p50, `▓` to p95, `░` to p99."""
    if latency.p99_ms <= 0 or columns_n <= 0:
        return ""
    p50_n = round(columns_n * latency.p50_ms / latency.p99_ms)
    p95_n = round(columns_n * latency.p95_ms / latency.p99_ms)
    return "█" * p50_n + "▓" * (p95_n - p50_n) + "░" * (columns_n - p95_n)


def age(then_ns: int | None, now_ns: int) -> str:
    """Return how long ago something was, in its largest unit: `3 min ago`; clocks that disagree say `now`."""
    if then_ns is None:
        return "never"
    seconds = (now_ns - then_ns) / 1e9
    for unit, size_s in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size_s:
            return f"{int(seconds // size_s)} {unit} ago"
    return "now"


def short_digest(digest: str | None) -> str:
    """Return the first 12 hexadecimal digits; enough to tell artifacts apart by eye."""
    return NONE if digest is None else digest.removeprefix("sha256:")[:12]
