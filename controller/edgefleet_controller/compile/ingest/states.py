"""Models that pass state from one inference to the next: which tensors do, and the states the source has on samples.

The canonical samples hold, at each step, the state the source had there. So whatever looks at single steps
(calibration, judging, conversion, bisection) looks at real states; the worker feeds states back itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import numpy as np

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import preprocess, shapes
from edgefleet_controller.compile.ingest.behaviour import Runnable, run_one
from edgefleet_controller.compile.ingest.samples import Samples, Transforms
from edgefleet_controller.compile.ingest.split import Indices
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.protocol import ModelRecord

KEEPS_STATE = frozenset({
    "VAR_HANDLE", "CALL_ONCE", "LSTM", "RNN", "SVDF", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN",
    "BIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_RNN",
})  # fmt: skip
"""TFLite operators that keep something from one inference to the next."""


def check(
    record: ModelRecord, state: Mapping[str, str], constants: Mapping[str, int | float], transforms: Transforms
) -> None:
    """Check what a manifest says of state and constants against a model.

    Raises:
        CompileFaultError: a name the model does not have, two states in one input, an input that is a constant or
            preprocessed too, or tensors whose dtypes or shapes differ; at the key that says it.
    """
    inputs, outputs = ({spec.name: spec for spec in specs} for specs in (record.inputs, record.outputs))
    for name, value in constants.items():
        _known("constants", name, inputs, "input", (name,))
        _check_constant(inputs[name], value, transforms)
    for output, name in state.items():
        _known("state", output, outputs, "output", (output,))
        _known("state", name, inputs, "input", (output,))
        also = "a constant" if name in constants else "preprocessed" if name in transforms else None
        also = "given by two outputs" if list(state.values()).count(name) > 1 else also
        if also is not None:
            raise CompileFaultError("state", f"feeds {output!r} into input {name!r}, which is {also}", at=(output,))
        if not _fit(outputs[output], inputs[name]):
            raise _unlike(outputs[output], inputs[name])


def _known(
    what: Literal["state", "constants"], name: str, allowed: Mapping[str, TensorSpec], kind: str, at: tuple[str, ...]
) -> None:
    if name not in allowed:
        listed = ", ".join(map(repr, allowed))
        text = f"names {kind} {name!r}; the model has {listed}{shapes.near(name, allowed)}"
        raise CompileFaultError(what, text, at=at)


def _check_constant(spec: TensorSpec, value: float, transforms: Transforms) -> None:
    at = (spec.name,)
    if spec.name in transforms:
        raise CompileFaultError("constants", f"gives input {spec.name!r}, which is preprocessed too", at=at)
    if not all(isinstance(size, int) for size in spec.shape):
        text = f"gives input {spec.name!r} of dynamic size {shapes.shown(spec.shape)}; a constant has a fixed one"
        raise CompileFaultError("constants", text, at=at, next_step="give it as an array of the samples")
    dtype = np.dtype(spec.dtype)
    held = np.full((), value).astype(dtype) if np.isfinite(value) else np.zeros((), dtype)
    if dtype.kind != "f" and float(held) != float(value):
        raise CompileFaultError("constants", f"gives input {spec.name!r} {value!r}; {spec.dtype} cannot hold it", at=at)


def _fit(output: TensorSpec, given: TensorSpec) -> bool:
    if output.dtype != given.dtype or len(output.shape) != len(given.shape):
        # A declared rank of zero may only mean that nothing was declared; the run tells.
        return output.dtype == given.dtype and not output.shape
    return all(
        left == right or isinstance(left, str) or isinstance(right, str)
        for left, right in zip(output.shape, given.shape, strict=True)
    )


def _unlike(output: TensorSpec, given: TensorSpec) -> CompileFaultError:
    return CompileFaultError(
        "state",
        f"feeds output {output.name!r}, {output.dtype} {shapes.shown(output.shape)}, into input {given.name!r}, "
        f"{given.dtype} {shapes.shown(given.shape)}: dtype and shape must be the same",
        at=(output.name,),
    )


def fill(
    source: Runnable,
    given: Samples,
    record: ModelRecord,
    transforms: Transforms,
    state: Mapping[str, str],
    indices: Indices,
) -> Samples:
    """Return samples that hold, where `indices` says, the states the source has at these steps of their sequences.

    Raises:
        CompileFaultError: a state comes out in another shape or dtype than it goes in, or is not finite.
    """
    arrays = {**given.arrays, **{name: np.array(given.arrays[name]) for name in state.values()}}
    wanted = frozenset(indices.tolist())
    last = max(wanted)
    for index, feed, outputs in steps(source, replace(given, arrays=arrays), record, transforms, state):
        if index in wanted:
            for output, name in state.items():
                arrays[name][index] = feed[name]
                _check_state(outputs[output], feed[name], record, output, name)
        if index == last:
            break
    return replace(given, arrays=arrays)


def _check_state(out: Array, fed: Array, record: ModelRecord, output: str, name: str) -> None:
    if out.dtype != fed.dtype or out.shape != fed.shape:
        came, went = (
            next(spec for spec in specs if spec.name == each).model_copy(
                update={"shape": value.shape, "dtype": value.dtype.name}
            )
            for specs, each, value in ((record.outputs, output, out), (record.inputs, name, fed))
        )
        raise _unlike(came, went)
    if out.dtype.kind == "f" and not np.isfinite(out).all():
        raise CompileFaultError("state", f"feeds {output!r} back, which is not finite on these samples", at=(output,))


def steps(
    source: Runnable, given: Samples, record: ModelRecord, transforms: Transforms, state: Mapping[str, str]
) -> Iterator[tuple[int, Arrays, dict[str, Array]]]:
    """Yield each sample's number, feeds and outputs, states fed back; each sequence starts with a fresh source.

    Raises:
        CompileFaultError: a sample does not run.
    """
    for start, stop in bounds(given.sequences, given.count_n):
        runner = source.open()
        carried: dict[str, Array] = {}
        for index in range(start, stop):
            feed = {**preprocess.feed(given.arrays, record.inputs, transforms, index), **carried}
            outputs = dict(zip(runner.output_names, run_one(source, runner, feed, index), strict=True))
            carried = {name: outputs[output] for output, name in state.items()}
            yield index, feed, outputs


def bounds(sequences: Indices | None, count_n: int) -> list[tuple[int, int]]:
    """Return first sample and the one after the last of each sequence, in the samples' order."""
    heads = [] if sequences is None else (np.flatnonzero(np.diff(sequences)) + 1).tolist()
    return list(pairwise([0, *heads, count_n]))


def keeps_state(record: ModelRecord) -> bool:
    """Tell whether a model file itself keeps state from one inference to the next."""
    return record.format == "tflite" and not KEEPS_STATE.isdisjoint(record.operators)
