"""The best artifact built here against the plain fp32 default of ONNX Runtime, and against int8 recipes of others.

Every precision of `ort/cpu` and `tflite/xnnpack` is built. Candidates are those whose check against the source passed,
run as the very variant. All files of a model are then timed in one process, in short blocks that take turns in a seeded
order, on the same samples with one thread, each with a block of the source right beside it. A speed is the median over
such pairs of (source's p50 / file's p50), so that what disturbs the machine disturbs both sides. Even blocks choose,
odd blocks are reported; the source's own row, paired with itself, shows the noise that is left. Calls are the agent's
bound ones for every file, so what Python adds to a call is on neither side.

`EDGEFLEET_MANIFEST` names a manifest with more models. `BENCH_OLIVE_PYTHON` names an interpreter with olive-ai, which
no lock here holds. `BENCH_HOME` keeps the builds. `BENCH_BLOCKS` is the number of blocks, default 60.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.conditions import conditions
from bench.side_by_side import Contender, Measured, Request, measure
from edgefleet_agent.outputs import make_feeder
from edgefleet_agent.samples import load_samples, save_arrays
from edgefleet_contract.artifact import ArtifactDocument, FileRole
from edgefleet_contract.errors import EdgefleetError
from edgefleet_contract.manifest import metric_accept
from edgefleet_controller.api import FileRef
from edgefleet_controller.blobs import BlobStore
from edgefleet_controller.cli.tuning import DEFAULT_TARGETS, targets_of
from edgefleet_controller.compile.check import Checker
from edgefleet_controller.compile.steps import ChildSteps
from edgefleet_controller.load import load_manifest
from edgefleet_controller.resolve import resolve_files
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.workbench import BuildRow, Wanted, Workbench, read_document

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "manifests" / "examples" / "quickstart.yaml"
BLOCKS_N = int(os.environ.get("BENCH_BLOCKS", "60"))
SEED, DRAWS_N = 7, 2000
REFERENCE = "ORT default, the source"
ORT_RECIPE, OLIVE_RECIPE = "ORT quantize_static defaults", "Olive OnnxStaticQuantization"
PEERS = {"ort": ORT_RECIPE, "olive": OLIVE_RECIPE}
MAX_CALIBRATION_N = 256
RECIPE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        speeds: of each reported block, source's p50 / this file's p50.
    """

    model: str
    what: str
    size_bytes: int
    measured: Measured
    speeds: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether its outputs may stand for the source's, by our parity."""
        return self.measured.parity is not None and self.measured.parity.verdict.value == "pass"


@dataclass(frozen=True)
class Files:
    """What is to be timed for one model: name → file, and what feeds it."""

    contenders: tuple[Contender, ...]
    candidates: frozenset[str]
    samples: Path
    document: ArtifactDocument


def main() -> None:
    """Measure and print."""
    peers = {recipe: python for recipe, python in interpreters().items() if python is not None}
    lines: list[tuple[str, list[Line]]] = []
    with tempfile.TemporaryDirectory() as folder:
        home = FleetHome(Path(os.environ.get("BENCH_HOME", folder)) / "home")
        for where, wanted in models():
            try:
                found = one_model(wanted, home, Path(folder) / f"{where}-{wanted.name}", peers)
            except (EdgefleetError, RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{wanted.name}: left out: {error}", flush=True)
                continue
            show(found)
            lines.append((where, found))
    summary(lines)
    print(f"conditions: one thread, {BLOCKS_N // 2} blocks reported, seed {SEED}; {conditions()}")


def models() -> list[tuple[str, Wanted]]:
    """Return the bundled models, and those of the manifest in the environment that are not among them."""
    given = os.environ.get("EDGEFLEET_MANIFEST")
    found: dict[bytes, tuple[str, Wanted]] = {}
    for where, path in (("bundled", BUNDLED), *([("given", Path(given))] if given else [])):
        loaded = load_manifest(path)
        files = {text: place.path for text, place in resolve_files(loaded).items()}
        for name, spec in loaded.manifest.models.items():
            wanted = Wanted(name, spec, files, targets_of(DEFAULT_TARGETS))
            found.setdefault(files[spec.source].read_bytes(), (where, wanted))
    return list(found.values())


def interpreters() -> dict[str, str | None]:
    """Return for each recipe of others the interpreter that has it, and say which there are."""
    asked = {"ort": sys.executable, "olive": os.environ.get("BENCH_OLIVE_PYTHON", sys.executable)}
    found: dict[str, str | None] = {}
    for recipe, python in asked.items():
        done = _recipe(python, recipe)
        found[recipe] = python if done.returncode == 0 else None
        said = done.stdout.strip() if found[recipe] else f"{_last(done.stderr)}: skipped"
        print(f"{PEERS[recipe]}: {said}", flush=True)
    return found


def _last(words: str) -> str:
    return (words.strip().splitlines() or ["no word"])[-1][:200]


def _recipe(python: str, *argv: str) -> subprocess.CompletedProcess[str]:
    quiet = {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    command = [python, str(ROOT / "bench" / "peer_recipes.py"), *argv]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=RECIPE_TIMEOUT_S, check=False, env={**os.environ, **quiet}
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"it took longer than {RECIPE_TIMEOUT_S:g} s")


def one_model(wanted: Wanted, home: FleetHome, folder: Path, peers: Mapping[str, str]) -> list[Line]:
    """Build, have the others quantise, time and judge one model. Raises EdgefleetError and RuntimeError."""
    folder.mkdir(parents=True)
    report = Workbench(home).build([wanted], lambda *_: None, folder)
    qualified = [row for row in report.builds if row.file and qualifies(row)]
    tally = {verdict: sum(row.verdict == verdict for row in report.builds) for verdict in ("pass", "weak", "failed")}
    print(f"{wanted.name}: of {len(report.builds)} variants {tally}, {len(qualified)} candidates", flush=True)
    if not qualified:
        words = next((f"; {row.variant} is {row.verdict}: {row.reason}" for row in report.builds if row.reason), "")
        msg = f"nothing qualified{words}"
        raise RuntimeError(msg)
    files = ours(wanted, qualified)
    theirs = others(files.contenders[0], calibration(wanted, home, folder), folder, peers)
    request = Request(
        contenders=(*files.contenders, *theirs),
        samples=str(files.samples),
        preprocess=files.document.io.preprocess,
        task=wanted.spec.task,
        metric=metric_accept(wanted.spec.metric),
        blocks_n=BLOCKS_N,
        seed=SEED,
    )
    return chosen(wanted.name, request, files.candidates)


def qualifies(row: BuildRow) -> bool:
    """Tell whether the builder ran the very variant and its outputs passed."""
    return row.verdict == "pass" and row.parity is not None and row.parity.ran_as == row.variant


def ours(wanted: Wanted, rows: Sequence[BuildRow]) -> Files:
    """Return the source and the qualified artifacts as contenders, the source first, and what feeds them."""
    places = [Path(row.file or "") for row in rows]
    documents = [read_document(place.parent / "artifact.json") for place in places]
    source = Contender(name=REFERENCE, model=str(wanted.files[wanted.spec.source]), variant="ort/cpu/fp32")
    made = [
        Contender(
            name=document.variant,
            model=str(place),
            variant=document.variant,
            input_map=document.io.input_map,
            output_map=document.io.output_map,
        )
        for place, document in zip(places, documents, strict=True)
    ]
    samples = documents[0].file(FileRole.SAMPLES)
    assert samples is not None
    names = frozenset(each.name for each in made)
    return Files((source, *made), names, places[0].parent / samples.name, documents[0])


def calibration(wanted: Wanted, home: FleetHome, folder: Path) -> Path:
    """Write the samples that our int8 builds are calibrated with, as the model takes them. Return the file."""
    blobs, spec = BlobStore(home.blobs), wanted.spec
    paths = [spec.source, spec.samples.file, *([spec.calibration.file] if spec.calibration else [])]
    digests = {path: blobs.put_file(wanted.files[path]) for path in paths}
    files = {path: FileRef(digest=each, size_bytes=blobs.size_bytes(each)) for path, each in digests.items()}
    checked = Checker(blobs, home.work, ChildSteps()).check(wanted.name, spec, files)
    given = folder / "calibration.npz"
    blobs.materialise(checked.calibration, given)
    feeder = make_feeder(load_samples(given), checked.model.inputs, checked.preprocess)
    starts = range(0, min(feeder.samples.n, MAX_CALIBRATION_N * feeder.batch_n), feeder.batch_n)
    feeds = [feeder.feeds(start) for start in starts]
    out = folder / "feeds.npz"
    save_arrays(out, {name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    return out


def others(source: Contender, feeds: Path, folder: Path, peers: Mapping[str, str]) -> list[Contender]:
    """Return what the recipes of others make of the source; those that fail are named with their last words."""
    made = []
    for recipe, python in peers.items():
        out = folder / f"{recipe}.onnx"
        done = _recipe(python, recipe, source.model, str(feeds), str(out))
        if done.returncode != 0 or not out.exists():
            print(f"  {PEERS[recipe]}: failed: {_last(done.stderr)}")
            continue
        made.append(Contender(name=PEERS[recipe], model=str(out), variant="ort/cpu/int8"))
    return made


def chosen(model: str, request: Request, candidates: frozenset[str]) -> list[Line]:
    """Return the rows of the source, our fastest, our smallest, and the others."""
    found = measure(request)
    for each in found.values():
        if each.refused:
            print(f"  {each.name}: does not run: {each.refused}")
    running = {name: each for name, each in found.items() if not each.refused}
    sizes = {each.name: Path(each.model).stat().st_size for each in request.contenders}
    early = {name: speeds(each)[::2] for name, each in running.items()}
    fastest = max(candidates & set(running), key=lambda name: median(early[name]))
    smallest = min(candidates & set(running), key=lambda name: (sizes[name], name))
    titles = {REFERENCE: REFERENCE, fastest: f"best: {fastest}"}
    titles |= {smallest: f"smallest: {smallest}"} if smallest != fastest else {}
    titles |= {name: name for name in PEERS.values() if name in running}
    return [
        Line(model, title, sizes[name], running[name], speeds(running[name])[1::2]) for name, title in titles.items()
    ]


def speeds(each: Measured) -> tuple[float, ...]:
    """Return of each block the p50 of the source's block beside it / this file's p50: above 1 is faster."""
    return tuple(a / b for a, b in zip(each.beside_p50_ns, each.block_p50_ns, strict=True))


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(np.median(values))


def interval(draws: Sequence[float]) -> tuple[float, float]:
    """Return where 95 % of bootstrap draws lie."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def medians_drawn(values: Sequence[float], seed: int) -> list[float]:
    """Return medians of `DRAWS_N` samples drawn with replacement: the bootstrap of the median."""
    generator = np.random.default_rng(seed)
    given = np.asarray(values)
    return [float(np.median(generator.choice(given, len(given)))) for _ in range(DRAWS_N)]


def show(lines: Sequence[Line]) -> None:
    """Print one model's rows."""
    title = f"  {'':44} {'KiB':>8} {'p50 ms':>8} {'speed':>7} {'95 %':>15}"
    print(f"{title} {'metric':>7} {'agree':>7} {'SQNR dB':>8}  parity")
    for line in lines:
        parity = line.measured.parity
        assert parity is not None
        low, high = interval(medians_drawn(line.speeds, SEED))
        p50_ms = median(line.measured.block_p50_ns[1::2]) / 1e6
        metric = parity.metric.measured if parity.metric is not None else None
        failed = f"{parity.verdict.value}" + (f" ({parity.failed_check.value})" if parity.failed_check else "")
        print(
            f"  {line.what:44} {line.size_bytes / 1024:8.0f} {p50_ms:8.3f} {median(line.speeds):6.2f}x "
            f"{f'[{low:.2f}, {high:.2f}]':>15} {_cell(metric, '.3f')} {_cell(parity.agreement, '.3f')} "
            f"{_cell(parity.worst_sqnr_db, '.1f'):>8}  {failed}",
            flush=True,
        )


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>7}"


def summary(found: Sequence[tuple[str, list[Line]]]) -> None:
    """Print geometric means over the bundled models and over all."""
    groups = {"bundled models": [lines for where, lines in found if where == "bundled"]}
    if len(groups["bundled models"]) < len(found):
        groups["all models"] = [lines for _, lines in found]
    for group, models_ in groups.items():
        for kind in ("best: ", "smallest or best", ORT_RECIPE, OLIVE_RECIPE):
            pairs = [(lines[0], line) for lines in models_ if (line := pick(lines, kind)) is not None]
            if pairs:
                print(f"{group}, {kind.strip(': ')}: {means(pairs)}")


def pick(lines: Sequence[Line], kind: str) -> Line | None:
    """Return a model's row of a kind."""
    if kind == "smallest or best":
        return min((line for line in lines if line.what.startswith(("best", "smallest"))), key=lambda x: x.size_bytes)
    return next((line for line in lines if line.what.startswith(kind)), None)


def means(pairs: Sequence[tuple[Line, Line]]) -> str:
    """Return geometric means of speed (with its 95 % interval: blocks drawn anew, models as they are) and size."""
    drawn = np.log([medians_drawn(line.speeds, SEED + at) for at, (_, line) in enumerate(pairs)]).mean(axis=0)
    low, high = interval([math.exp(each) for each in drawn])
    speed = geometric([median(line.speeds) for _, line in pairs])
    size = geometric([line.size_bytes / source.size_bytes for source, line in pairs])
    passed_n = sum(line.passed for _, line in pairs)
    return (
        f"{speed:.2f} times as fast [{low:.2f}, {high:.2f}] (p50 ratio {1 / speed:.3f}), {size:.2f} of the size, "
        f"parity passed on {passed_n} of {len(pairs)} models"
    )


def geometric(values: Sequence[float]) -> float:
    """Return the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


if __name__ == "__main__":
    main()
