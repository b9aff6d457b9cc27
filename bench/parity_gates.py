"""Our parity verdict beside the gates others use, on one corpus: false alarms on honest pairs, misses on broken ones.

No gate is tuned to the corpus: thresholds are those of the tools' documentation or of common practice, and each gate
is given its best chance with a threshold by precision where there is one.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.conditions import conditions
from bench.parity_corpus import Case, corpus
from edgefleet_agent.qualify.parity.compare import compare_outputs
from edgefleet_contract.evidence import ParityVerdict, Task

Gate = Callable[[Case], bool]
"""True: the gate accepts the pair."""
Array = NDArray[Any]

_COARSE = frozenset({"int8", "int8-dynamic", "int16x8", "int4"})
_DB_BY_PRECISION = {
    "fp32": 90.0,
    "fp16": 50.0,
    "bf16": 30.0,
    "int8": 25.0,
    "int8-dynamic": 25.0,
    "int16x8": 40.0,
    "int4": 15.0,
}


def ours(case: Case) -> bool:
    """Judge as `fleet compare --precision … --task …` does."""
    return _verdict(case, Task(case.task)) is not ParityVerdict.FAIL


def ours_without_task(case: Case) -> bool:
    """Judge as `fleet compare --precision …` does."""
    return _verdict(case, None) is not ParityVerdict.FAIL


def _verdict(case: Case, task: Task | None) -> ParityVerdict:
    return compare_outputs(
        case.reference, case.candidate, precision=case.precision, task=task, same_artifact=case.same_artifact
    ).verdict


def allclose(rtol: float, atol: float) -> Gate:
    """Return numpy's allclose on every output."""
    return lambda case: all(np.allclose(right, left, rtol, atol) for left, right in _pairs(case))


def allclose_by_precision(case: Case) -> bool:
    """Return allclose at 1e-5 for fp32, 1e-3 for half and 1e-1 for coarser precisions."""
    tolerance = 1e-5 if case.precision == "fp32" else 1e-1 if case.precision in _COARSE else 1e-3
    return all(np.allclose(right, left, tolerance, tolerance) for left, right in _pairs(case))


def cosine(least: float) -> Gate:
    """Return cosine similarity of every flattened output."""
    return lambda case: all(_cosine(left, right) >= least for left, right in _pairs(case))


def snr_by_precision(case: Case) -> bool:
    """Return the worst sample's SNR in dB: 90 for fp32, 50 for fp16, 25 for int8."""
    least_db = _DB_BY_PRECISION[case.precision]
    return all(_snr_db(left[i], right[i]) >= least_db for left, right in _pairs(case) for i in range(len(left)))


def psnr(least_db: float) -> Gate:
    """Return the peak signal-to-noise ratio in dB of every output."""
    return lambda case: all(_psnr_db(left, right) >= least_db for left, right in _pairs(case))


def top1(least: float) -> Gate:
    """Return the share of equal arg-maxima along the last axis of every output."""
    return lambda case: all(
        float((left.argmax(axis=-1) == right.argmax(axis=-1)).mean()) >= least for left, right in _pairs(case)
    )


def polygraphy(kind: str = "SimpleCompareFunc", **options: object) -> Gate:
    """Return one of Polygraphy's comparators with its own options and defaults."""
    from polygraphy import comparator

    compare = getattr(comparator, kind)(**options)

    def accepts(case: Case) -> bool:
        left, right = (
            comparator.IterationResult({n: np.ascontiguousarray(a) for n, a in side.items()}, runner_name=runner)
            for side, runner in ((case.reference, "reference"), (case.candidate, "candidate"))
        )
        return all(bool(found) for found in compare(left, right).values())

    return accepts


def _pairs(case: Case) -> Iterable[tuple[Array, Array]]:
    return ((case.reference[n].astype(np.float64), case.candidate[n].astype(np.float64)) for n in case.reference)


def _cosine(left: Array, right: Array) -> float:
    return float(np.dot(left.ravel(), right.ravel()) / (np.linalg.norm(left) * np.linalg.norm(right)))


def _snr_db(signal: Array, other: Array) -> float:
    noise = float(np.square(other - signal).sum())
    return np.inf if noise == 0.0 else float(10 * np.log10(np.square(signal).sum() / noise))


def _psnr_db(left: Array, right: Array) -> float:
    noise = float(np.square(right - left).mean())
    return np.inf if noise == 0.0 else float(10 * np.log10(np.ptp(left) ** 2 / noise))


def gates() -> dict[str, Gate]:
    """Return every gate by name, ours first."""
    return {
        "edgefleet, task given": ours,
        "edgefleet, no task": ours_without_task,
        "numpy allclose, defaults": allclose(1e-5, 1e-8),
        "numpy allclose 1e-3": allclose(1e-3, 1e-3),
        "numpy allclose 1e-1": allclose(1e-1, 1e-1),
        "numpy allclose by precision": allclose_by_precision,
        "polygraphy simple, defaults": polygraphy(),
        "polygraphy simple, max, 1e-2": polygraphy(rtol=1e-2, atol=1e-2, check_error_stat="max"),
        "polygraphy simple, mean, 1e-2": polygraphy(rtol=1e-2, atol=1e-2, check_error_stat="mean"),
        "polygraphy simple, median, 1e-2": polygraphy(rtol=1e-2, atol=1e-2, check_error_stat="median"),
        "polygraphy simple, quantile 0.99, 1e-1": polygraphy(
            rtol=1e-1, atol=1e-1, check_error_stat="quantile", error_quantile=0.99
        ),
        "polygraphy cosine, default 0.997": polygraphy("CosineSimilarityCompareFunc"),
        "polygraphy L2, default": polygraphy("L2CompareFunc"),
        "polygraphy PSNR, default": polygraphy("PsnrCompareFunc"),
        "polygraphy SNR, default": polygraphy("SnrCompareFunc"),
        "cosine 0.99": cosine(0.99),
        "cosine 0.999": cosine(0.999),
        "SNR of the worst sample, by precision": snr_by_precision,
        "PSNR 30 dB": psnr(30.0),
        "PSNR 50 dB": psnr(50.0),
        "top-1 agreement 0.98": top1(0.98),
    }


def counts(gate: Gate, cases: Iterable[Case]) -> tuple[list[str], list[str]]:
    """Return names of (false alarms, misses). A gate that raises rejects the pair."""
    alarms, misses = [], []
    for case in cases:
        accepted = _accepts(gate, case)
        if case.honest and not accepted:
            alarms.append(case.name)
        if not case.honest and accepted:
            misses.append(case.name)
    return alarms, misses


def _quiet() -> None:
    """Keep Polygraphy from explaining every comparison."""
    from polygraphy.logger import G_LOGGER

    G_LOGGER.severity = G_LOGGER.CRITICAL


def _accepts(gate: Gate, case: Case) -> bool:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return bool(gate(case))
        except (ValueError, TypeError, ArithmeticError):
            return False


def main() -> None:
    """Print false alarms and misses of every gate."""
    _quiet()
    cases = list(corpus())
    honest_n = sum(case.honest for case in cases)
    print(f"{len(cases)} pairs of outputs of fourteen models: {honest_n} honest, {len(cases) - honest_n} broken")
    print(conditions())
    print(f"{'gate':42} {'false alarms':>14} {'misses':>10}")
    for name, gate in gates().items():
        alarms, misses = counts(gate, cases)
        print(f"{name:42} {len(alarms):>8} of {honest_n:<3} {len(misses):>4} of {len(cases) - honest_n}")
