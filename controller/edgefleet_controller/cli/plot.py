"""The accuracy-latency-size picture of a search, as a page or a picture."""

from __future__ import annotations

import html
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefleet_contract.errors import UserInputError
from edgefleet_contract.units import format_bytes, format_ms
from edgefleet_controller.cli.render_tune import verdict_of

if TYPE_CHECKING:
    from edgefleet_contract.tuning import TunedModel, TunedPoint

_SIZE_INCHES = (9.0, 5.5)
_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(1 + 0.1 * step for step in range(90)))
"""Marks within a decade, coarse to fine."""
_MARKS_MIN_N = 4
_SMALLEST_POINTS, _LARGEST_POINTS = 40.0, 600.0
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font-family:system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ccc}}
tr.frontier{{font-weight:600}}svg{{max-width:100%;height:auto}}</style></head>
<body><h1>{title}</h1><p>{conditions}</p>{picture}
<table><thead><tr><th>variant</th><th>recipe</th><th>verdict</th><th>accuracy</th><th>p50</th><th>size</th></tr></thead>
<tbody>{rows}</tbody></table><p>Bold rows are on the frontier: no other there is as accurate, as fast and as small, and
better in one; accuracies that these samples cannot tell apart count as equal.
The area of a dot is the size of the model file; a dark ring marks the
frontier.</p></body></html>
"""


def write_plot(tuned: TunedModel, path: Path) -> None:
    """Write the picture: a PNG, or an HTML page that needs nothing else.

    Raises:
        UserInputError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        data = _draw(tuned, "png") if path.suffix == ".png" else _page(tuned).encode()
        path.write_bytes(data)
    except ImportError as error:
        msg = f"--plot needs matplotlib: {error}"
        raise UserInputError(msg, next_step="pip install 'edgefleet[compress]'") from error
    except OSError as error:
        msg = f"--plot {path}: cannot be written: {error.strerror or error}"
        raise UserInputError(msg) from error


def _draw(tuned: TunedModel, form: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = [point for point in tuned.points if point.p50_ms is not None and point.accuracy is not None]
    _scatter(axes, shown)
    kinds = {point.accuracy_is for point in shown}
    axes.set_xlabel("p50 here (logarithmic)")
    axes.set_ylabel(", ".join(sorted(str(kind) for kind in kinds)) or "accuracy")
    axes.set_title(f"{tuned.model}: accuracy, latency and size")
    if shown:
        _latency_axis(axes, [point.p50_ms or 0.0 for point in shown])
        axes.grid(alpha=0.25)
        axes.margins(0.08)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, markerscale=0.4, frameon=False)
        axes.annotate(_key(shown), (0.0, -0.13), xycoords="axes fraction", fontsize=8, va="top")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=120, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _latency_axis(axes: Any, p50s_ms: list[float]) -> None:  # noqa: ANN401 - matplotlib's axes
    """Set a logarithmic axis whose marks are durations as people write them, at least two of them in sight."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(p50s_ms) / 1.3, max(p50s_ms) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    marks: list[float] = []
    for steps in _STEPS:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        marks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(marks) >= _MARKS_MIN_N:
            break
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value_ms, _: format_ms(value_ms)))
    axes.xaxis.set_minor_locator(NullLocator())


def _key(shown: list[TunedPoint]) -> str:
    sizes_bytes = [point.size_bytes for point in shown if point.size_bytes is not None]
    span = f": {format_bytes(min(sizes_bytes))} to {format_bytes(max(sizes_bytes))}" if sizes_bytes else ""
    return f"area: size of the model file{span}; dark ring: on the frontier"


def _scatter(axes: Any, shown: list[TunedPoint]) -> None:  # noqa: ANN401 - matplotlib's axes
    largest = max((point.size_bytes or 1 for point in shown), default=1)
    for variant in dict.fromkeys(point.variant for point in shown):
        mine = [point for point in shown if point.variant == variant]
        areas = [_SMALLEST_POINTS + _LARGEST_POINTS * (point.size_bytes or 0) / largest for point in mine]
        axes.scatter(
            [point.p50_ms for point in mine],
            [point.accuracy for point in mine],
            s=areas,
            alpha=0.6,
            edgecolors="black",
            linewidths=[1.5 if point.frontier else 0.0 for point in mine],
            label=variant,
        )
    front = sorted((point for point in shown if point.frontier), key=lambda point: point.p50_ms or 0.0)
    axes.plot([p.p50_ms for p in front], [p.accuracy for p in front], color="black", linewidth=0.8, linestyle=":")


def _page(tuned: TunedModel) -> str:
    picture = _draw(tuned, "svg").decode()
    return _PAGE.format(
        title=html.escape(f"{tuned.model}: accuracy, latency and size"),
        conditions=html.escape(tuned.conditions),
        picture=picture[picture.index("<svg") :],
        rows="".join(_row(point) for point in tuned.points),
    )


def _row(point: TunedPoint) -> str:
    cells = (
        point.variant,
        point.recipe.words or "default",
        verdict_of(point),
        "–" if point.accuracy is None else f"{point.accuracy:.4g} {point.accuracy_is}",
        "–" if point.p50_ms is None else format_ms(point.p50_ms),
        "–" if point.size_bytes is None else format_bytes(point.size_bytes),
    )
    columns = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f"<tr{' class=frontier' if point.frontier else ''}>{columns}</tr>"
