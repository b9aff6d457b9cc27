"""What a quantised file must meet: little of the metric lost, and the trial every device will hold passed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.artifact import ClaimedPrecision
from edgefleet_contract.evidence import ParityVerdict, Task
from edgefleet_contract.job import CompareJob
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.ingest.samples import LABELS
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.quantise.judge import Judge, Score
from edgefleet_controller.compile.steps import ChildSteps

MAX_DROP = 0.01
"""Largest loss of top-1 that is accepted without more float layers; one sample may always be lost."""


EXACT_DB = 30.0
"""Signal to noise an int8 transformer should have over all judged samples: noise is a thousandth of the power."""
MAX_EXACT_SHARE = 0.2
"""Share of the weights that may go back to float for `EXACT_DB` alone: the largest a search over recipes tries too."""


@dataclass(frozen=True)
class Target:
    """The limits of one build.

    Attributes:
        precision: what the file claims to be.
        task: what the outputs mean, where the manifest says.
        max_drop: largest loss of top-1.
        min_sqnr_db: least signal to noise over all judged samples; None: whatever passes the trial.
    """

    precision: ClaimedPrecision
    task: Task | None
    max_drop: float = MAX_DROP
    min_sqnr_db: float | None = None

    def misses(self, judge: Judge, model: Path, score: Score, run: Callable[[], Sequence[Array]]) -> str | None:
        """Return what a model file misses, or None. Runs the agent's own comparison in a child process.

        Args:
            judge: samples and the source's outputs.
            model: the file; outputs are written beside it.
            score: how it did.
            run: returns its outputs on the judge's samples, in the order of the source's.

        Raises:
            StepError: the comparison gave no answer.
        """
        allowed = max(self.max_drop, 1.0 / max(1, len(judge.feeds)))
        if score.drop > allowed:
            return f"top-1 falls by {score.drop:.4f}; allowed: {allowed:.4f}"
        if self.min_sqnr_db is not None and score.sqnr_db < self.min_sqnr_db:
            return f"signal to noise is {score.sqnr_db:.2f} dB; wanted: {self.min_sqnr_db:g} dB"
        return self._trial(judge, model, run())

    def _trial(self, judge: Judge, model: Path, outputs: Sequence[Array]) -> str | None:
        reference, candidate = model.with_suffix(".reference.npz"), model.with_suffix(".candidate.npz")
        labels = {} if judge.labels is None else {LABELS: judge.labels}
        npz.write(reference, judge.named(judge.reference) | labels)
        npz.write(candidate, judge.named(outputs))
        job = CompareJob(reference=str(reference), candidate=str(candidate), precision=self.precision, task=self.task)
        answer = ChildSteps().compare(job)  # one that crashes is no verdict: the build ends, and may be tried again
        return (answer.reason or "parity failed") if answer.verdict is ParityVerdict.FAIL else None
