"""The search over recipes: variants × calibration × mixed precision, each built, compared and timed here.

Pure rules (what to try, the frontier, the choice) and, in `Tuner`, what runs them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter, ValidationError

from edgefleet_contract.artifact import ArtifactDocument, FileRole, HostCheck
from edgefleet_contract.base import canonical_json
from edgefleet_contract.child import ChildLimits, run_child
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.job import Answer, BenchAnswer, BenchJob, LatencyBudget
from edgefleet_contract.tuning import Recipe, TunedModel, TunedPoint
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile.steps import WORKER_ARGV
from edgefleet_controller.workbench import BuildRow, Wanted, Workbench

SUFFIX = ".tuned.json"
"""A search's result lies beside its source under this ending, where `fleet apply` finds it."""
MAX_TUNED_BYTES = 1024**2
KEEP_SHARES = (0.05, 0.1, 0.2)
METHODS = ("minmax", "entropy", "percentile", "mse")
_SEARCHED = frozenset({("ort", "int8")})
"""Runtimes and precisions whose builds follow recipes."""
_SIZE_MATTERS = 0.01
_EXACT_DB = 200.0
"""Stands for outputs equal to the last bit, whose ratio is infinite; above every measured one."""
_BENCH_TIMEOUT_S = 120.0
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)

Tell = Callable[[str, str, str, float, float], None]


@dataclass(frozen=True)
class TuneLimits:
    """What a point must keep to be chosen; None limits nothing.

    Attributes:
        max_bytes: size of the model file.
        min_agreement: share of samples whose decision is the source's.
        max_p50_ms: latency here.
    """

    max_bytes: int | None = None
    min_agreement: float | None = None
    max_p50_ms: float | None = None


def recipes_for(variant: str) -> tuple[Recipe, ...]:
    """Return the recipes worth trying for a variant; one, the default, where nothing can be chosen."""
    parts = parse_variant(variant)
    if (parts.runtime, parts.precision) not in _SEARCHED:
        return (Recipe(),)
    by_method = [Recipe(calibration=method) for method in METHODS]
    return (Recipe(), *by_method, *(Recipe(keep_share=share) for share in KEEP_SHARES))


def accuracy_of(check: HostCheck | None) -> tuple[float | None, str | None]:
    """Return how well a point does and in what: the metric, else agreement, else the worst sample's SQNR in dB."""
    if check is None or check.verdict is None:
        return None, None
    if check.metric_measured is not None:
        return check.metric_measured, "metric"
    if check.agreement is not None:
        return check.agreement, "agreement"
    return (check.worst_sqnr_db if check.worst_sqnr_db is not None else _EXACT_DB), "worst_sqnr_db"


def with_frontier(points: Sequence[TunedPoint]) -> tuple[TunedPoint, ...]:
    """Return the points with those marked that no other within the limits beats."""
    eligible = [point for point in points if _eligible(point)]
    return tuple(
        point.model_copy(update={"frontier": _eligible(point) and not any(_beats(other, point) for other in eligible)})
        for point in points
    )


def _eligible(point: TunedPoint) -> bool:
    return point.verdict in {"pass", "weak"} and point.within_limits and point.accuracy is not None


def _beats(one: TunedPoint, other: TunedPoint) -> bool:
    """Tell whether a point is at least as good in all that both have, and better in something."""
    if one.accuracy_is != other.accuracy_is or (one.p50_ms is None) != (other.p50_ms is None):
        return False
    ours, theirs = _costs(one), _costs(other)
    return all(a <= b for a, b in zip(ours, theirs, strict=True)) and ours != theirs


def _costs(point: TunedPoint) -> tuple[float, float, float]:
    return -(point.accuracy or 0.0), point.p50_ms or 0.0, float(point.size_bytes or 0)


def choose_recipes(points: Iterable[TunedPoint]) -> dict[str, Recipe]:
    """Return the recipe of each variant where one within the limits is better than the default.

    Better is: more accurate; or as accurate and faster, intervals of p50 apart; or as accurate and over 1 % smaller.
    """
    chosen: dict[str, TunedPoint] = {}
    for point in sorted(points, key=lambda each: not each.recipe.is_default):
        held = chosen.get(point.variant)
        if _eligible(point) and (held is None or _is_better(point, held)):
            chosen[point.variant] = point
    return {variant: point.recipe for variant, point in chosen.items() if not point.recipe.is_default}


def _is_better(point: TunedPoint, held: TunedPoint) -> bool:
    if (point.accuracy or 0.0) != (held.accuracy or 0.0):
        return (point.accuracy or 0.0) > (held.accuracy or 0.0)
    if point.ci95_p50_ms is not None and held.ci95_p50_ms is not None:
        if point.ci95_p50_ms[1] < held.ci95_p50_ms[0]:
            return True
        if held.ci95_p50_ms[1] < point.ci95_p50_ms[0]:
            return False
    return (point.size_bytes or 0) < (1 - _SIZE_MATTERS) * (held.size_bytes or 0)


class Tuner:
    """Runs a search on a workbench."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def search(self, wanted: Wanted, limits: TuneLimits, tell: Tell) -> TunedModel:
        """Build every recipe of every variant, time what runs here, and choose.

        Raises:
            UserInputError: the source or its samples cannot be used.
        """
        asked = [(variant, recipe) for variant in wanted.variants for recipe in recipes_for(variant)]
        with TemporaryDirectory(prefix="edgefleet-tune-") as folder:
            rows = self._bench.build_recipes(wanted, asked, tell, Path(folder))
            points = [self._point(row, recipe, limits, tell) for row, (_, recipe) in zip(rows, asked, strict=True)]
        source = self._bench.digest_of(wanted.files[wanted.spec.source])
        marked = with_frontier(points)
        return TunedModel(
            model=wanted.name,
            source=source,
            conditions=f"{platform.machine()}, {platform.system()} {platform.release()}, 1 thread",
            points=marked,
            recipes=choose_recipes(marked),
        )

    def _point(self, row: BuildRow, recipe: Recipe, limits: TuneLimits, tell: Tell) -> TunedPoint:
        accuracy, accuracy_is = accuracy_of(row.parity)
        timed = self._timed(row, tell)
        point = TunedPoint.model_validate(
            {
                "variant": row.variant,
                "recipe": recipe,
                "verdict": row.verdict,
                "reason": row.reason,
                "artifact": row.artifact,
                "size_bytes": row.bytes,
                "accuracy": accuracy,
                "accuracy_is": accuracy_is,
                "p50_ms": timed.latency.p50_ms if timed else None,
                "ci95_p50_ms": timed.latency.ci95_p50_ms if timed else None,
                "n": timed.latency.n if timed else 0,
            }
        )
        return point.model_copy(update={"within_limits": _within(point, row.parity, limits)})

    def _timed(self, row: BuildRow, tell: Tell) -> BenchAnswer | None:
        """Time an artifact where this machine ran the very variant; else None."""
        if row.file is None or row.parity is None or row.parity.ran_as != row.variant:
            return None
        tell("qualify", f"{row.model} {row.variant}", "timing it", 0.0, 1.0)
        folder = Path(row.file).parent
        document = ArtifactDocument.model_validate_json((folder / "artifact.json").read_bytes())
        samples = document.file(FileRole.SAMPLES)
        job = BenchJob.model_validate(
            {
                "model": row.file,
                "samples": str(folder / (samples.name if samples else "samples.npz")),
                "latency": LatencyBudget(min_n=100, min_duration_s=0.5, max_duration_s=3.0),
                "preprocess": document.io.preprocess,
                "input_map": document.io.input_map,
            }
        )
        outcome = run_child(WORKER_ARGV, job.model_dump_json().encode(), ChildLimits(timeout_s=_BENCH_TIMEOUT_S))
        tell("qualify", f"{row.model} {row.variant}", "timed", 1.0, 1.0)
        try:
            answer = _ANSWER.validate_json(outcome.answer or b"")
        except ValidationError:
            return None
        return answer if isinstance(answer, BenchAnswer) else None


def _within(point: TunedPoint, check: HostCheck | None, limits: TuneLimits) -> bool:
    agreement = check.agreement if check is not None else None
    return (
        (limits.max_bytes is None or (point.size_bytes is not None and point.size_bytes <= limits.max_bytes))
        and (limits.min_agreement is None or (agreement is not None and agreement >= limits.min_agreement))
        and (limits.max_p50_ms is None or (point.p50_ms is not None and point.p50_ms <= limits.max_p50_ms))
    )


def write_tuned(tuned: TunedModel, path: Path) -> None:
    """Write a search's result, beside and renamed. Raises UserInputError when the folder cannot be written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(canonical_json(tuned.model_dump(mode="json")) + b"\n")
        partial.replace(path)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise UserInputError(msg, next_step="name another place: --out FILE") from error


def read_tuned(path: Path) -> TunedModel:
    """Return a search's result from a file. Raises UserInputError when it is none."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_TUNED_BYTES + 1)
        if len(data) > MAX_TUNED_BYTES:
            msg = f"{path}: a search's result has at most {MAX_TUNED_BYTES} bytes"
            raise UserInputError(msg)
        return TunedModel.model_validate_json(data)
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise UserInputError(msg) from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        msg = f"{path}: not the result of a search: {problem}"
        raise UserInputError(msg, next_step="make it anew: fleet tune, or delete it") from error


def recipes_beside(source: Path, digest: str) -> tuple[dict[str, Recipe], str | None]:
    """Return the recipes found for a source, and a remark where a result is there but is not for this content.

    Raises:
        UserInputError: a file of that name is there and is no search's result.
    """
    path = source.with_name(source.name + SUFFIX)
    if not path.is_file():
        return {}, None
    tuned = read_tuned(path)
    if tuned.source != digest:
        return {}, f"{path} was found for another content of {source.name} and is not used; next: fleet tune {source}"
    return dict(tuned.recipes), None
