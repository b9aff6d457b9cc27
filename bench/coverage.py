"""Every model × every variant: built or refused, and how it compares with its source here.

Models come from a manifest: `EDGEFLEET_MANIFEST`, or the quick-start's; `BENCH_MODELS` names some of them, and
`BENCH_VARIANTS` how the names of the variants begin, both parted by commas. Each model is printed when it is done, and
with `BENCH_HOME`, a folder, what an earlier run built is not built again. With `BENCH_WRITE=1` the table is written to
docs/coverage.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from bench.conditions import conditions
from edgefleet_contract.child import ChildLimits, ChildOutcome, run_child
from edgefleet_contract.errors import UserInputError
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
MAX_REASON_CHARS = 300


def main() -> None:
    """Build, measure and print."""
    manifest = Path(os.environ.get("EDGEFLEET_MANIFEST", ROOT / "manifests" / "examples" / "quickstart.yaml"))
    lines = []
    for each in table(manifest):
        lines.append(each)
        print(each, flush=True)
    if os.environ.get("BENCH_WRITE") == "1":
        PAGE.write_text("\n".join([TITLE, *lines, ""]), encoding="utf-8")


TITLE = """# What is built of which model

Made by `BENCH_WRITE=1 EDGEFLEET_MANIFEST=… python -m bench coverage`. Every row was built, run and compared with its
source on real samples, or refused with the reason given. Latency is of one thread on the machine named below, of an
artifact that ran there; where another engine stood in for the device's, it would say nothing and is left out.
"""


def table(manifest: Path) -> Iterator[str]:
    """Yield the lines of the table, and below it why what was refused was refused."""
    yield HEAD
    yield "|" + "---|" * (HEAD.count("|") - 1)
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(FleetHome(Path(os.environ.get("BENCH_HOME", folder), "home")))
        for wanted in models(manifest):
            try:
                rows = bench.build([wanted], lambda *_: None, Path(folder, "out")).builds
            except UserInputError as error:
                yield f"| {wanted.name} | every variant | refused | | | | | | |"
                refused.append(f"- `{wanted.name}`: {short(str(error))}")
                continue
            yield from map(line, rows)
            refused += reasons(rows)
    yield ""
    yield f"Conditions: {conditions()}, 1 thread."
    yield ""
    yield from refused


def models(manifest: Path) -> list[Wanted]:
    """Return the models of a manifest, or those of them that are asked for, each with its variants."""
    loaded = load_manifest(manifest)
    files = {text: found.path for text, found in resolve_files(loaded).items()}
    begins = tuple(os.environ.get("BENCH_VARIANTS", "").split(","))
    variants = tuple(variant for variant in all_buildable() if variant.startswith(begins))
    asked = os.environ.get("BENCH_MODELS", "")
    return [
        Wanted(name, spec, files, variants)
        for name, spec in loaded.manifest.models.items()
        if not asked or name in asked.split(",")
    ]


def reasons(rows: Sequence[BuildRow]) -> list[str]:
    """Return why each refused variant was refused, variants of one reason together."""
    by_reason: dict[str, list[BuildRow]] = {}
    for row in rows:
        if row.verdict in {"failed", "unsupported"}:
            by_reason.setdefault(row.reason or "", []).append(row)
    return [
        f"- `{alike[0].model}` {', '.join(f'`{row.variant}`' for row in alike)}: {short(reason)}"
        for reason, alike in by_reason.items()
    ]


def short(reason: str) -> str:
    """Return a reason as one line of bounded length."""
    words = " ".join(reason.split())
    return words if len(words) <= MAX_REASON_CHARS else f"{words[: MAX_REASON_CHARS - 1]}…"


def line(row: BuildRow) -> str:
    """Return one row of the table."""
    check = row.parity
    if check is None:
        return f"| {row.model} | {row.variant} | {row.verdict} | | | | | | |"
    size = "" if row.bytes is None else format_bytes(row.bytes)
    sqnr = "" if check.verdict is None else "exact" if check.worst_sqnr_db is None else f"{check.worst_sqnr_db:.1f}"
    agreement = "" if check.agreement is None else f"{check.agreement:.4f}"
    metric = ""
    if check.metric_reference is not None and check.metric_measured is not None:
        metric = f"{check.metric_reference:.4f} → {check.metric_measured:.4f}"
    return (
        f"| {row.model} | {row.variant} | {row.verdict} | {size} | {sqnr} | {agreement} | {metric} "
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
            "state": io.state,
            "bound": io.bound,
        }
    )
    outcome: ChildOutcome = run_child(WORKER, job.model_dump_json().encode(), ChildLimits(timeout_s=120.0))
    answer: object = TypeAdapter[Answer](Answer).validate_json(outcome.answer or b"")
    return f"{answer.latency.p50_ms:.3g}" if isinstance(answer, BenchAnswer) else ""


if __name__ == "__main__":
    main()
