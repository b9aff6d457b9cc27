"""The search over recipes: variants × calibration × mixed precision, each built, compared and timed here."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter, ValidationError

from edgefleet_contract.artifact import ArtifactDocument, FileRole, HostCheck
from edgefleet_contract.base import clip_reason
from edgefleet_contract.child import ChildLimits, ChildOutcome, run_child
from edgefleet_contract.job import Answer, BenchAnswer, BenchJob, ErrorAnswer, LatencyBudget
from edgefleet_contract.tuning import Recipe, TunedModel, TunedPoint
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile.steps import WORKER_ARGV
from edgefleet_controller.frontier import Noise, accuracy_of, choose_recipes, with_frontier
from edgefleet_controller.paired import Outcomes, outcomes
from edgefleet_controller.workbench import DOCUMENT, BuildRow, Wanted, Workbench, read_document

KEEP_SHARES = (0.05, 0.1, 0.2)
METHODS = ("minmax", "entropy", "percentile", "mse")
_TFLITE_METHODS = ("minmax", "smoothed")
_TFLITE_TRANSFORMER_METHODS = ("minmax-products", "minmax-layers", "layers-as-they-come")
_ATTENTION = frozenset({"Attention", "LayerNormalization", "MultiHeadAttention", "SkipLayerNormalization", "Softmax"})
_SAME_ACCURACY = 1e-6
_DEFAULT = Recipe()
_BENCH_LIMITS = ChildLimits(timeout_s=120.0)
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)

Tell = Callable[[str, str, str, float, float], None]


@dataclass(frozen=True)
class TuneLimits:
    """What a point must keep to be chosen; None limits nothing.

    Attributes:
        max_bytes: size of the model file.
        min_agreement: share of samples whose decision is the source's.
        max_p50_ms: latency here.
        min_sqnr_db: signal to noise of the worst sample.
    """

    max_bytes: int | None = None
    min_agreement: float | None = None
    max_p50_ms: float | None = None
    min_sqnr_db: float | None = None


def recipes_for(variant: str, operators: Collection[str] = ()) -> tuple[Recipe, ...]:
    """Return the recipes worth trying for a variant; one, the default, where nothing can be chosen.

    Args:
        variant: what is built.
        operators: the source's types of operators, which tell whether there are products between norms.
    """
    parts = parse_variant(variant)
    attends = "MatMul" in operators and not _ATTENTION.isdisjoint(operators)
    if (parts.runtime, parts.precision) == ("ort", "int8"):
        off = [Recipe(smoothquant="off")] if attends else []
        by_method = [Recipe(calibration=method) for method in METHODS]
        return (Recipe(), *by_method, *(Recipe(keep_share=share) for share in KEEP_SHARES), *off)
    if parts.runtime == "tflite" and parts.precision in {"int8", "int16x8"}:
        on_cpu, int8 = parts.engine in {"cpu", "xnnpack"}, parts.precision == "int8"
        of_transformers = _TFLITE_TRANSFORMER_METHODS if int8 else _TFLITE_TRANSFORMER_METHODS[:1]
        methods = (*_TFLITE_METHODS, *(of_transformers if attends and on_cpu else ()))
        shares = KEEP_SHARES if int8 and on_cpu else ()
        by_method = [Recipe.model_validate({"calibration": method}) for method in methods]
        return (Recipe(), *by_method, *(Recipe(keep_share=share) for share in shares))
    return (Recipe(),)


class Tuner:
    """Runs a search on a workbench."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._timings: dict[tuple[str, str], BenchAnswer | str] = {}
        """Variant and digest of the model file → its timing: one file is timed once, whatever recipes came to it."""

    def search(self, wanted: Wanted, limits: TuneLimits, tell: Tell) -> TunedModel:
        """Build every variant by default, then by every other recipe; time what runs here, and choose.

        Recipes of what a variant is refused for, and the one its default came to by itself, are left out. What was
        built before is found again, so a search that was interrupted goes on where it stopped.

        Raises:
            UserInputError: the source or its samples cannot be used.
        """
        with TemporaryDirectory(prefix="edgefleet-tune-") as folder:
            first = [(variant, Recipe()) for variant in wanted.variants]
            built = self._bench.build_recipes(wanted, first, tell, Path(folder, "default"))
            operators = self._bench.operators_of(wanted)
            more = [(row.variant, recipe) for row in built for recipe in _alternatives(row, operators)]
            rows = [*built, *self._bench.build_recipes(wanted, more, tell, Path(folder, "recipes"))]
            asked = [*first, *more]
            points = [self._point(row, recipe, limits, tell) for row, (_, recipe) in zip(rows, asked, strict=True)]
            noise = Noise(_outcomes(rows, points), tests_n=max(1, len(points) - 1))
        marked = with_frontier(points, noise)
        return TunedModel(
            model=wanted.name,
            source=self._bench.digest_of(wanted.files[wanted.spec.source]),
            conditions=f"{platform.machine()}, {platform.system()} {platform.release()}, 1 thread",
            points=marked,
            recipes=choose_recipes(marked, noise),
        )

    def _point(self, row: BuildRow, recipe: Recipe, limits: TuneLimits, tell: Tell) -> TunedPoint:
        accuracy, accuracy_is = accuracy_of(row.parity)
        timed = self._timed(row, tell)
        latency = timed.latency if isinstance(timed, BenchAnswer) else None
        point = TunedPoint.model_validate(
            {
                "variant": row.variant,
                "recipe": recipe,
                "verdict": row.verdict,
                "reason": row.reason or (timed if isinstance(timed, str) else None),
                "artifact": row.artifact,
                "size_bytes": row.bytes,
                "accuracy": accuracy,
                "accuracy_is": accuracy_is,
                "samples_n": row.parity.n_samples if row.parity else 0,
                "p50_ms": latency.p50_ms if latency else None,
                "ci95_p50_ms": latency.ci95_p50_ms if latency else None,
                "n": latency.n if latency else 0,
            }
        )
        return point.model_copy(update={"within_limits": _within(point, row.parity, limits)})

    def _timed(self, row: BuildRow, tell: Tell) -> BenchAnswer | str | None:
        """Time an artifact; return why that failed, or None where this machine did not run the very variant."""
        if row.file is None or row.parity is None or row.parity.ran_as != row.variant:
            return None
        folder = Path(row.file).parent
        document = read_document(folder / DOCUMENT)
        model = document.file(FileRole.MODEL)
        key = (row.variant, model.digest if model else "")
        if key not in self._timings:
            tell("qualify", f"{row.model} {row.variant}", "timing it", 0.0, 1.0)
            self._timings[key] = _bench(row.file, document)
            tell("qualify", f"{row.model} {row.variant}", "timed", 1.0, 1.0)
        return self._timings[key]


def _bench(file: str, document: ArtifactDocument) -> BenchAnswer | str:
    """Return what timing a model file measured, or why that failed."""
    folder = Path(file).parent
    samples = document.file(FileRole.SAMPLES)
    job = BenchJob.model_validate(
        {
            "model": file,
            "samples": str(folder / (samples.name if samples else "samples.npz")),
            "latency": LatencyBudget(min_n=100, min_duration_s=0.5, max_duration_s=3.0),
            "preprocess": document.io.preprocess,
            "input_map": document.io.input_map,
            "state": document.io.state,
            "bound": document.io.bound,
        }
    )
    return _bench_answer(run_child(WORKER_ARGV, job.model_dump_json().encode(), _BENCH_LIMITS))


def _bench_answer(outcome: ChildOutcome) -> BenchAnswer | str:
    """Return what a bench child measured, or why it did not."""
    if outcome.answer is None:
        return clip_reason(f"not timed: its process {outcome.reason}")
    try:
        answer = _ANSWER.validate_json(outcome.answer)
    except ValidationError:
        return "not timed: its process answered what is no answer"
    if isinstance(answer, BenchAnswer):
        return answer
    return clip_reason(f"not timed: {answer.reason if isinstance(answer, ErrorAnswer) else answer.kind}")


def _alternatives(row: BuildRow, operators: Collection[str]) -> list[Recipe]:
    """Return the recipes to try besides the default, which came to this row."""
    if row.verdict == "unsupported":
        return []
    method = read_document(Path(row.file).parent / DOCUMENT).options.get("calibration") if row.file else None
    found = recipes_for(row.variant, operators)[1:]
    return [each for each in found if method is None or each != _DEFAULT.model_copy(update={"calibration": method})]


def _outcomes(rows: Sequence[BuildRow], points: Sequence[TunedPoint]) -> dict[tuple[str, Recipe], Outcomes]:
    """Return the outcomes of all points whose files tell what their accuracy says."""
    found: dict[tuple[str, Recipe], Outcomes] = {}
    for row, point in zip(rows, points, strict=True):
        if row.file is None or point.accuracy is None or point.accuracy_is in {None, "worst_sqnr_db"}:
            continue
        each = outcomes(Path(row.file).parent, "metric" if point.accuracy_is == "metric" else "agreement")
        if each and abs(sum(each) / len(each) - point.accuracy) < _SAME_ACCURACY:
            found[point.variant, point.recipe] = each
    return found


def _within(point: TunedPoint, check: HostCheck | None, limits: TuneLimits) -> bool:
    agreement = check.agreement if check is not None else None
    return _exact_enough(check, limits.min_sqnr_db) and (
        (limits.max_bytes is None or (point.size_bytes is not None and point.size_bytes <= limits.max_bytes))
        and (limits.min_agreement is None or (agreement is not None and agreement >= limits.min_agreement))
        and (limits.max_p50_ms is None or (point.p50_ms is not None and point.p50_ms <= limits.max_p50_ms))
    )


def _exact_enough(check: HostCheck | None, min_sqnr_db: float | None) -> bool:
    """Tell whether the worst sample reaches a limit; one that is equal to the last bit reaches any."""
    if min_sqnr_db is None:
        return True
    if check is None or check.verdict is None:
        return False
    return check.worst_sqnr_db is None or check.worst_sqnr_db >= min_sqnr_db
