"""Every model × every variant: built or refused, and how it compares with its source here.

Models come from a manifest: `EDGEFLEET_MANIFEST`, or the quick-start's. With `BENCH_WRITE=1` the table is written to
docs/coverage.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from bench.conditions import conditions
from edgefleet_contract.child import ChildLimits, ChildOutcome, run_child
from edgefleet_contract.job import Answer, BenchAnswer, BenchJob, LatencyBudget
from edgefleet_contract.units import format_bytes
from edgefleet_controller.compile.registry import all_buildable
from edgefleet_controller.load import load_manifest
from edgefleet_controller.resolve import resolve_files
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.workbench import BuildRow, Wanted, Workbench, read_document

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "coverage.md"
HEAD = "| model | variant | verdict | size | worst SQNR dB | agreement | metric | p50 here ms | ran as |"
WORKER = (sys.executable, "-m", "edgefleet_agent.worker")
MAX_REASON_CHARS = 220


def main() -> None:
    """Build, measure and print."""
    manifest = Path(os.environ.get("EDGEFLEET_MANIFEST", ROOT / "manifests" / "examples" / "quickstart.yaml"))
    lines = list(table(manifest))
    print("\n".join(lines))
    if os.environ.get("BENCH_WRITE") == "1":
        PAGE.write_text("\n".join([TITLE, *lines, ""]), encoding="utf-8")


TITLE = """# What is built of which model

Made by `BENCH_WRITE=1 EDGEFLEET_MANIFEST=… python -m bench coverage`. Every row was built, run and compared with its
source on real samples, or refused with the reason given. Latency is of one thread on the machine named below, of an
artifact that ran there; where another engine stood in for the device's, it would say nothing and is left out.
"""


def table(manifest: Path) -> Iterator[str]:
    """Yield the lines of the table, and below it why what was refused was refused."""
    loaded = load_manifest(manifest)
    files = {text: found.path for text, found in resolve_files(loaded).items()}
    variants = tuple(variant for variant in all_buildable() if not os.environ.get("BENCH_VARIANTS") or any(
        variant.startswith(part) for part in os.environ["BENCH_VARIANTS"].split(",")
    ))  # fmt: skip
    wanted = [Wanted(name, spec, files, variants) for name, spec in loaded.manifest.models.items()]
    with tempfile.TemporaryDirectory() as folder:
        report = Workbench(FleetHome(Path(folder, "home"))).build(wanted, lambda *_: None, Path(folder, "out"))
        yield HEAD
        yield "|" + "---|" * (HEAD.count("|") - 1)
        for row in report.builds:
            yield line(row)
        yield ""
        yield f"Conditions: {conditions()}, 1 thread."
    yield ""
    for row in report.builds:
        if row.verdict in {"failed", "unsupported"}:
            yield f"- `{row.model}` `{row.variant}`: {(row.reason or '')[:MAX_REASON_CHARS]}"


def line(row: BuildRow) -> str:
    """Return one row of the table."""
    check = row.parity
    if check is None or row.bytes is None:
        return f"| {row.model} | {row.variant} | {row.verdict} | | | | | | |"
    sqnr = "" if check.verdict is None else "exact" if check.worst_sqnr_db is None else f"{check.worst_sqnr_db:.1f}"
    agreement = "" if check.agreement is None else f"{check.agreement:.4f}"
    metric = ""
    if check.metric_reference is not None and check.metric_measured is not None:
        metric = f"{check.metric_reference:.4f} → {check.metric_measured:.4f}"
    return (
        f"| {row.model} | {row.variant} | {row.verdict} | {format_bytes(row.bytes)} | {sqnr} | {agreement} | {metric} "
        f"| {p50_ms(row)} | {check.ran_as or check.level.value} |"
    )


def p50_ms(row: BuildRow) -> str:
    """Return the artifact's p50 in ms, where the machine ran the very variant; else nothing."""
    if row.parity is None or row.parity.ran_as != row.variant or row.file is None:
        return ""
    samples, io = Path(row.file).with_name("samples.npz"), read_document(Path(row.file).with_name("artifact.json")).io
    budget = LatencyBudget(min_n=50, min_duration_s=0.5, max_duration_s=2.0)
    job = BenchJob.model_validate(
        {
            "model": row.file,
            "samples": str(samples),
            "latency": budget,
            "preprocess": io.preprocess,
            "input_map": io.input_map,
        }
    )
    outcome: ChildOutcome = run_child(WORKER, job.model_dump_json().encode(), ChildLimits(timeout_s=120.0))
    answer: object = TypeAdapter[Answer](Answer).validate_json(outcome.answer or b"")
    return f"{answer.latency.p50_ms:.3g}" if isinstance(answer, BenchAnswer) else ""


if __name__ == "__main__":
    main()
