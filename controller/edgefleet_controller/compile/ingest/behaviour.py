"""Run a model on a few samples and refuse what no artifact of it could be judged by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.ingest import preprocess, selected_shapes, shapes
from edgefleet_controller.compile.ingest.samples import Samples, Transforms
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.protocol import ModelRecord

_TRIED_N = 4
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)


class Runner(Protocol):
    """A loaded source."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs, in the source's order."""
        ...

    def run(self, feeds: Arrays) -> list[Array]:
        """Return the outputs for one set of inputs."""
        ...


@dataclass(frozen=True)
class Runnable:
    """A source that can be run.

    Attributes:
        open: loads it; where its model keeps state, each one loaded starts fresh.
        errors: what a run may raise.
        drawn: nodes that draw at random, in words.
        selecting: returns the outputs whose shape depends on values, and the node that decides it, given one sample and
            the names of inputs that never change.
    """

    open: Callable[[], Runner]
    errors: tuple[type[Exception], ...]
    drawn: tuple[str, ...] = ()
    selecting: Callable[[Arrays, Collection[str]], Mapping[str, str]] = lambda _feeds, _constants: {}


def onnx_runnable(model: onnx.ModelProto, source: Path) -> Runnable:
    """Return an ONNX model as what can be tried; it keeps no state, so it is loaded once."""
    drawn = tuple(
        f"{node.name or node.output[0]!r} ({node.op_type})"
        for node in onnx_graph.all_nodes(model.graph)
        if node.op_type in _RANDOM
    )

    def selecting(feeds: Arrays, constants: Collection[str]) -> Mapping[str, str]:
        sizes = {name: tuple(each.shape) for name, each in feeds.items()}
        return selected_shapes.outputs_by_values(model, sizes, constants)

    return Runnable(functools.cache(lambda: session.open_source(source)), session.RUNTIME_ERRORS, drawn, selecting)


def try_samples(
    source: Runnable, given: Samples, record: ModelRecord, transforms: Transforms, constants: Collection[str] = ()
) -> int:
    """Run the first samples through a model; return the size of one sample's outputs in bytes.

    Raises:
        CompileFaultError: they do not run; two runs of one sample differ (nondeterministic); outputs are NaN for every
            sample; or the shape of an output depends on the data.
    """
    runner = source.open()
    feeds = list(islice(preprocess.batches(given.arrays, record.inputs, transforms), _TRIED_N))
    runs = [run_one(source, runner, feed, index) for index, feed in enumerate(feeds)]
    _check_repeats(source, runner.output_names, runs[0], run_one(source, source.open(), feeds[0], 0))
    _check_selecting(source.selecting(feeds[0], constants))
    _check_shapes(runner.output_names, runs)
    _check_zeros(source, runner.output_names, runs[0], feeds[0], constants)
    _check_numbers(runner.output_names, runs)
    return sum(output.nbytes for output in runs[0])


def run_one(source: Runnable, runner: Runner, feed: Arrays, index: int) -> list[Array]:
    """Return the outputs of one sample. Raises CompileFaultError where it does not run."""
    try:
        return runner.run(feed)
    except source.errors as error:
        which = "the first sample" if index == 0 else f"sample {index}"
        raise CompileFaultError(
            "samples", f"do not run through the model: {which} gives {session.short(error)}"
        ) from error


def _check_repeats(source: Runnable, names: Sequence[str], first: Sequence[Array], again: Sequence[Array]) -> None:
    for name, left, right in zip(names, first, again, strict=True):
        if left.shape == right.shape and np.array_equal(left, right, equal_nan=left.dtype.kind == "f"):
            continue
        cause = f"; nodes that draw at random: {', '.join(source.drawn[:5])}" if source.drawn else ""
        raise CompileFaultError(
            "source",
            f"is nondeterministic: two runs of one sample give unlike outputs {name!r}{cause}",
            next_step="export it for inference (without dropout), or make the random tensor an input",
        )


def _check_selecting(selecting: Mapping[str, str]) -> None:
    for name, decided_by in selecting.items():
        raise _selected(f"{name!r} is as long as the values let node {decided_by} make it")


def _check_zeros(
    source: Runnable, names: Sequence[str], first: Sequence[Array], feed: Arrays, constants: Collection[str]
) -> None:
    """Compare shapes with those of a sample of zeros; a model that does not take zeros is not judged by them."""
    zeros = {
        name: each if name in constants or each.dtype.kind != "f" else np.zeros_like(each)
        for name, each in feed.items()
    }
    try:
        run = source.open().run(zeros)
    except source.errors:
        return
    for name, left, right in zip(names, first, run, strict=True):
        if left.shape != right.shape:
            raise _selected(
                f"{name!r} is {shapes.shown(left.shape)} for the first sample and {shapes.shown(right.shape)} for zeros"
            )


def _selected(what: str) -> CompileFaultError:
    return CompileFaultError(
        "source",
        f"has an output whose shape depends on the data: {what}",
        next_step="end it before the operator that selects (NonZero, NonMaxSuppression, Unique, …), or pad its result "
        "to a fixed size, and declare that size",
    )


def _check_shapes(names: Sequence[str], runs: Sequence[Sequence[Array]]) -> None:
    for index, run in enumerate(runs[1:], start=1):
        for name, left, right in zip(names, runs[0], run, strict=True):
            if left.shape != right.shape:
                raise _selected(
                    f"{name!r} is {shapes.shown(left.shape)} for the first sample and {shapes.shown(right.shape)} for "
                    f"sample {index}"
                )


def _check_numbers(names: Sequence[str], runs: Sequence[Sequence[Array]]) -> None:
    for place, name in enumerate(names):
        outputs = [run[place] for run in runs]
        if all(each.dtype.kind == "f" and each.size and np.isnan(each).all() for each in outputs):
            raise CompileFaultError(
                "source",
                f"gives nothing but NaN in output {name!r} for the first {len(outputs)} samples",
                next_step="check the preprocessing and the export: nothing can be judged by such outputs",
            )
