"""Judge candidates on golden samples against the source, by our own figures and by the trial devices will hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.evidence import Task
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.ingest import preprocess
from edgefleet_controller.compile.ingest.samples import LABELS
from edgefleet_controller.compile.ingest.split import Indices, spread
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import BuildRequest

JUDGE_MAX_N = 256
SMALL_MODEL_BYTES = 4 * 1024**2
SMALL_JUDGE_MAX_N = 1024
"""Models below `SMALL_MODEL_BYTES` are judged on more samples: a metric's chance is what separates good methods."""
_WITH_CLASSES = {None, Task.CLASSIFICATION}


@dataclass(frozen=True)
class Score:
    """How a candidate did on the judging samples.

    Attributes:
        sqnr_db: signal to noise over all outputs and samples, in dB.
        median_db: the same of the median sample.
        agreement: share of samples with the source's decision; None where outputs are no classes.
        top1: share of right classes; None without labels.
        drop: how much top-1 fell against the source; 0 without labels.
        samples_n: samples it was judged on.
    """

    sqnr_db: float
    median_db: float
    agreement: float | None
    top1: float | None
    drop: float
    samples_n: int

    @property
    def rank(self) -> tuple[float, float]:
        """Return what the best is chosen by: a loss of the metric of more than one sample first, then the noise."""
        return (-round(max(0.0, self.drop - 1.0 / self.samples_n), 6), self.sqnr_db)


@dataclass(frozen=True)
class Judge:
    """Golden samples with the source's outputs on them."""

    feeds: list[Arrays]
    reference: list[Array]
    labels: Indices | None
    names: tuple[str, ...]
    task: Task | None = None

    def part(self, limit_n: int) -> Judge:
        """Return a judge on up to `limit_n` of the samples, evenly spread, for choices that are judged again."""
        places = spread(len(self.feeds), limit_n)
        labels = None if self.labels is None else self.labels[places]
        reference = [each[places] for each in self.reference]
        return Judge([self.feeds[place] for place in places], reference, labels, self.names, self.task)

    def run(self, model: Path | bytes, *, optimise: bool = True) -> list[Array]:
        """Return a candidate's outputs on all samples."""
        return session.Session(model, optimise=optimise).run_all(self.feeds)

    def named(self, outputs: Sequence[Array]) -> dict[str, Array]:
        """Return outputs by name, first axis = sample, as the agent's worker writes them."""
        return {
            name: each[:, 0] if each.ndim > 1 and each.shape[1] == 1 else each
            for name, each in zip(self.names, outputs, strict=True)
        }

    def score(self, outputs: Sequence[Array]) -> Score:
        """Compare outputs with the source's."""
        top1, wanted = self._top1(outputs), self._top1(self.reference)
        return Score(
            sqnr_db=session.sqnr_db(self.reference, outputs),
            median_db=_median_db(self.reference, outputs),
            agreement=_agreement(self.reference[0], outputs[0]) if self.task in _WITH_CLASSES else None,
            top1=top1,
            drop=0.0 if top1 is None or wanted is None else max(0.0, wanted - top1),
            samples_n=len(outputs[0]),
        )

    def _top1(self, outputs: Sequence[Array]) -> float | None:
        chosen = _decisions(outputs[0])
        return None if self.labels is None or chosen is None else float(np.mean(chosen == self.labels))


def open_judge(request: BuildRequest, inputs: tuple[TensorSpec, ...], limit_n: int | None = None) -> Judge:
    """Return the judge of a build: up to `limit_n` golden samples, evenly spread."""
    if limit_n is None:
        small = Path(request.source).stat().st_size < SMALL_MODEL_BYTES
        limit_n = SMALL_JUDGE_MAX_N if small else JUDGE_MAX_N
    arrays = npz.read(Path(request.samples))
    places = spread(len(next(iter(arrays.values()))), limit_n)
    golden = {name: array[places] for name, array in arrays.items()}
    feeds = list(preprocess.batches(golden, inputs, request.preprocess))
    source = session.open_source(Path(request.source))
    return Judge(feeds, source.run_all(feeds), golden.get(LABELS), source.output_names, request.task)


def _decisions(scores: Array) -> Array | None:
    """Return the class of each sample, or None where there is not one row of float scores a sample."""
    flat = scores.reshape(len(scores), -1)
    row_shape = scores.shape[1:-1]
    if scores.dtype.kind != "f" or flat.shape[1] < 2 or any(size != 1 for size in row_shape):
        return None
    return np.asarray(flat.argmax(axis=1))


def _agreement(reference: Array, candidate: Array) -> float | None:
    wanted, got = _decisions(reference), _decisions(candidate)
    return None if wanted is None or got is None else float(np.mean(wanted == got))


def _median_db(reference: Sequence[Array], candidate: Sequence[Array]) -> float:
    each = [session.sqnr_db([a[i] for a in reference], [b[i] for b in candidate]) for i in range(len(reference[0]))]
    return float(np.median(each))
