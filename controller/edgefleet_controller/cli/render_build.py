"""Builds as a table: what was made of a model, how it compares with its source, and why the rest was not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgefleet_contract.units import format_bytes
from edgefleet_controller.cli import figures
from edgefleet_controller.cli.tables import Cell, draw

if TYPE_CHECKING:
    from rich.console import Console

    from edgefleet_contract.artifact import ArtifactDocument, HostCheck, TensorMap
    from edgefleet_contract.coverage import Coverage
    from edgefleet_controller.workbench import BuildReport, BuildRow

_STYLES = {"unsupported": "dim"}
_EVIDENCE = {
    "executed-on-device": "ran here", "emulated": "emulated here", "built-not-executed": "built, not run",
    "parsed-only": "parsed, not run", "table-only": "by table, not run",
}  # fmt: skip


def draw_builds(console: Console, report: BuildReport) -> None:
    """Draw a row for each variant, and below it the reasons and where to find a failed build.

    One model is named once, above the table: a column that says the same in every row leaves no room for the others.
    """
    models = {row.model for row in report.builds}
    if len(models) == 1:
        console.print(f"{models.pop()}\n", soft_wrap=True)
        named: list[str] = []
    else:
        named = ["model"]
    draw(
        console,
        [*named, "variant", "verdict", "size", "agreement", "SQNR dB", "metric", "evidence"],
        [[*([row.model] if named else []), *_cells(row)] for row in report.builds],
        right=["size", "agreement", "SQNR dB"],
        fixed=["variant", "verdict", "size", "agreement", "SQNR dB", "metric"],
    )
    for row in report.builds:
        if "speedup_vs_fp32" in row.notes:
            low, high = row.notes.get("speedup_vs_fp32_min"), row.notes.get("speedup_vs_fp32_max")
            speed = f"{row.notes['speedup_vs_fp32']} × as fast as its source here ({low} … {high})"
            console.print(f"\n{row.model} {row.variant}: {speed}", soft_wrap=True)
        if row.reason:
            console.print(f"\n{row.model} {row.variant}: {row.reason}", soft_wrap=True)
        if row.reproduce:
            console.print(f"  repeat it: sh {row.reproduce}/command.sh", soft_wrap=True)


def _cells(row: BuildRow) -> Sequence[Cell]:
    style = _STYLES.get(row.verdict, figures.verdict_style(row.verdict))
    size = figures.NONE if row.bytes is None else format_bytes(row.bytes)
    evidence = _EVIDENCE.get(row.evidence or "", row.evidence or figures.NONE)
    return [row.variant, (row.verdict, style), size, *_parity_cells(row.parity), evidence]


def _parity_cells(check: HostCheck | None) -> list[str]:
    if check is None or check.verdict is None:
        return [figures.NONE] * 3
    agreement = figures.NONE if check.agreement is None else f"{check.agreement:.3f}"
    sqnr = "exact" if check.worst_sqnr_db is None else f"{check.worst_sqnr_db:.1f}"
    if check.metric_measured is None or check.metric_reference is None:
        return [agreement, sqnr, figures.NONE]
    return [agreement, sqnr, f"{check.metric_reference:.3f} → {check.metric_measured:.3f}"]


_PLACED_STYLES = {"accelerator": "green", "cpu": "yellow", "unsupported": "red"}


def draw_coverage(console: Console, coverage: Coverage) -> None:
    """Draw every operator with its place, and below it the sums and who says so."""
    draw(
        console,
        ["#", "operator", "type", "placed", "why not on the accelerator", "would help"],
        [
            [str(each.index), each.name, each.type, (each.placed.value, _PLACED_STYLES[each.placed.value]),
             each.reason or figures.NONE, each.rewrite or figures.NONE]
            for each in coverage.operators
        ],
        right=["#"],
        fixed=["placed"],
    )  # fmt: skip
    counts, total_n = coverage.counts, len(coverage.operators)
    console.print(
        f"\n{coverage.target}: {counts['accelerator']} of {total_n} operators on the accelerator, "
        f"{counts['cpu']} on the CPU, {counts['unsupported']} unsupported "
        f"(told by {coverage.source.value}, {coverage.source_version})",
        soft_wrap=True,
    )


def draw_artifact(console: Console, document: ArtifactDocument) -> None:
    """Draw what an artifact is: identity, files, inputs and outputs, how it was made and checked."""
    console.print(f"{document.variant} of {document.model}, {document.digest}\n", soft_wrap=True)
    draw(
        console,
        ["file", "role", "size", "content"],
        [
            [file.name, file.role.value, format_bytes(file.size_bytes), figures.short_digest(file.digest)]
            for file in document.files
        ],
        right=["size"],
    )
    console.print()
    draw(console, ["tensor", "is", "dtype", "shape", "in the file"], _tensor_rows(document))
    console.print()
    draw(console, ["how it was made", ""], [[name, str(value)] for name, value in _facts(document)])


def _tensor_rows(document: ArtifactDocument) -> list[Sequence[Cell]]:
    io = document.io
    return [
        [spec.name, kind, spec.dtype, ", ".join(map(str, spec.shape)), _in_file(maps.get(spec.name))]
        for kind, specs, maps in (("input", io.inputs, io.input_map), ("output", io.outputs, io.output_map))
        for spec in specs
    ]


def _in_file(mapped: TensorMap | None) -> str:
    if mapped is None:
        return "the same"
    return mapped.name + (f", axes {list(mapped.axes)}" if mapped.axes else "")


def _facts(document: ArtifactDocument) -> list[tuple[str, object]]:
    check, coverage = document.host_check, document.coverage
    facts: list[tuple[str, object]] = [("source", document.source), ("build key", document.build_key)]
    facts += [("calibration samples", document.calibration)] if document.calibration else []
    facts += list(document.options.items())
    facts += [("rewrites", ", ".join(document.rewrites))] if document.rewrites else []
    if check is not None:
        told = check.verdict or "not run"
        facts.append(
            ("checked on the builder", f"{told} ({check.level.value}){': ' + check.reason if check.reason else ''}")
        )
    if coverage is not None:
        counted = (
            f"{coverage.accelerator_n} on the accelerator, {coverage.cpu_n} on the CPU, "
            f"{coverage.unsupported_n} unsupported, by {coverage.source.value} {coverage.source_version}"
        )
        facts.append(("coverage", counted))
    facts += [(f"needs {name}", f"{least} or newer") for name, least in document.min_runtime.items()]
    facts += [(name, found) for name, found in document.toolchain.items()]
    license_name = document.provenance.license if document.provenance else None
    return [*facts, ("licence of the model", license_name or "not stated in its manifest")]
