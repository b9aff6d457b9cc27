"""ONNX's own node tests through the compiler: what becomes a right TFLite file, and is any wrong unseen?

Taken are the cases of one node whose inputs and outputs are float32, int32, int64 or bool. Inputs that exporters write
as weights or parameters (kernels, biases, axes, shapes) are constants, as in exported models; the others come at run
time. Each case runs in a child with a time limit. `python -m bench.onnx_nodes --pin FILE` writes the names that match.
"""

from __future__ import annotations

import collections
import gc
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

NodeTest: TypeAlias = Any
"""A case as onnx's loader makes it."""
LIMIT_S = 90.0
WORKERS_N = 2
_BATCH_N = 12
_TYPES = frozenset({
    onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL,
})  # fmt: skip
PARAMETERS = frozenset({
    "axes", "axis", "B", "b", "bias", "constant_value", "depth", "dft_length", "ends", "frame_length", "frame_step",
    "high", "image_shape", "block_shape", "input_mean", "input_var", "iou_threshold", "k", "low", "mask_W", "max",
    "max_output_boxes_per_class", "mean", "min", "offset", "P", "pads", "R", "ratio", "repeats", "roi", "scale",
    "scales", "score_threshold", "sequence_lens", "shape", "size", "sizes", "slope", "split", "starts", "steps",
    "target_shape", "training_mode", "values", "var", "W", "w", "weight", "weights", "window", "window_length",
})  # fmt: skip
"""Names, in ONNX's operator schemas, of inputs that models hold as constants."""

MATCH, AS_SOURCE, REFUSED, WRONG = "match", "as-source", "refused", "silently-wrong"
UNPROVABLE, CRASHED, TIMEOUT = "no-reference", "crashed", "timeout"


@dataclass(frozen=True)
class Case:
    """One node test: its model, its inputs, and what ONNX expects."""

    name: str
    model: onnx.ModelProto
    feeds: Mapping[str, Any]
    expected: Mapping[str, Any]
    rtol: float


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    status: str
    reason: str = ""
    rewrites: tuple[str, ...] = ()
    ort_same: bool | None = None
    """Whether our `ort/cpu/fp32` file gave the source's outputs exactly."""


def cases() -> dict[str, Case]:
    """Return the cases by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test import loader

        found = loader.load_model_tests(kind="node")
    return {case.name: _case(case) for case in found if _is_taken(case.model)}


def _is_taken(model: onnx.ModelProto | None) -> bool:
    if model is None:
        return False
    values = (*model.graph.input, *model.graph.output)
    return len(model.graph.node) == 1 and all(
        value.type.WhichOneof("value") == "tensor_type" and value.type.tensor_type.elem_type in _TYPES
        for value in values
    )


def _case(case: NodeTest) -> Case:
    inputs, outputs = case.data_sets[0]
    feeds = {value.name: np.asarray(array) for value, array in zip(case.model.graph.input, inputs, strict=True)}
    expected = {value.name: np.asarray(array) for value, array in zip(case.model.graph.output, outputs, strict=True)}
    return Case(case.name, case.model, feeds, expected, max(case.rtol, 1e-3))


def as_exported(case: Case) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the model with its parameters as constants, and the inputs that are left; one is left in any case."""
    from edgefleet_controller.compile.graph.onnx_graph import with_constants

    node = case.model.graph.node[0]
    version = next((each.version for each in case.model.opset_import if each.domain == node.domain), 1)
    formal = onnx.defs.get_schema(node.op_type, version, node.domain).inputs
    constant = {
        name: case.feeds[name]
        for place, name in enumerate(node.input)
        if place
        and name in case.feeds
        and (formal[min(place, len(formal) - 1)].name in PARAMETERS or (node.op_type == "TopK" and place == 1))
    }
    if len(constant) == len(case.feeds):
        return case.model, dict(case.feeds)
    left = {name: array for name, array in case.feeds.items() if name not in constant}
    return with_constants(case.model, constant), left


def run(case: Case) -> Outcome:
    """Convert a case to TFLite and say what became of it."""
    from edgefleet_controller.compile.fault import CompileFaultError
    from edgefleet_controller.compile.ort import session
    from edgefleet_controller.compile.tflite import floating
    from edgefleet_controller.compile.tflite.interpreter import Interpreter

    model, feeds = as_exported(case)
    try:
        source = session.Session(model.SerializeToString())
        reference = dict(zip(source.output_names, source.run(feeds), strict=True))
    except session.RUNTIME_ERRORS as error:
        return Outcome(UNPROVABLE, f"ONNX Runtime does not run it: {session.short(error)}")
    same = _ort_same(model, feeds, reference)
    if not feeds:
        return Outcome(REFUSED, "it has no input", ort_same=same)
    try:
        made = floating.make(model, [feeds])
    except CompileFaultError as fault:
        return Outcome(REFUSED, fault.message, ort_same=same)
    got = made.run_all(Interpreter(made.data), [feeds])[0]
    return Outcome(_judged(case, got, reference), "", made.rewrites, same)


def _judged(case: Case, got: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    if _close(case, got, case.expected):
        return MATCH
    if _close(case, got, reference):
        return AS_SOURCE  # ONNX Runtime itself differs from ONNX's expectation
    from edgefleet_agent.qualify.parity.compare import compare_outputs
    from edgefleet_contract.evidence import ParityVerdict

    batched = [{name: np.asarray(array)[None] for name, array in outputs.items()} for outputs in (reference, got)]
    failed = compare_outputs(*batched, precision="fp32", task=None).verdict is ParityVerdict.FAIL
    return REFUSED if failed else WRONG


def _close(case: Case, got: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(
        got[name].shape == array.shape
        and got[name].dtype == array.dtype
        and np.allclose(
            got[name].astype(np.float64), array.astype(np.float64), rtol=case.rtol, atol=1e-5, equal_nan=True
        )
        for name, array in wanted.items()
    )


def _ort_same(model: onnx.ModelProto, feeds: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    from edgefleet_controller.compile.ort import session
    from edgefleet_controller.compile.ort.target import save_plain

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        save_plain(copy, path)
        made = session.Session(path)
        outputs = dict(zip(made.output_names, made.run(feeds), strict=True))
    exact = (
        np.array_equal(outputs[name], array, equal_nan=array.dtype.kind == "f") for name, array in reference.items()
    )
    return all(exact)


def run_all(taken: Mapping[str, Case], workers_n: int = WORKERS_N) -> Iterator[tuple[str, Outcome]]:
    """Yield what became of every case, each in a forked child: converters crash and hang."""
    _warm_up()
    fork = multiprocessing.get_context("fork")
    waiting = list(taken)[::-1]
    busy: dict[Any, tuple[Connection, list[str], float]] = {}
    while waiting or busy:
        while waiting and len(busy) < workers_n:
            batch = [waiting.pop() for _ in range(min(_BATCH_N, len(waiting)))]
            receiver, sender = fork.Pipe(duplex=False)
            child = fork.Process(target=_work, args=([taken[name] for name in batch], sender))
            child.start()
            sender.close()
            busy[child] = (receiver, batch, time.monotonic())
        for child, (receiver, batch, since_s) in list(busy.items()):
            try:
                if receiver.poll(0.02):
                    outcome = receiver.recv()
                    yield batch.pop(0), outcome
                    busy[child] = (receiver, batch, time.monotonic())
                elif time.monotonic() - since_s > LIMIT_S:
                    child.kill()
                    yield batch.pop(0), Outcome(TIMEOUT, f"longer than {LIMIT_S:g} s")
                    waiting += batch[::-1]
                    del busy[child]
            except EOFError:
                child.join()
                if batch:
                    yield batch.pop(0), Outcome(CRASHED, f"exit code {child.exitcode}")
                waiting += batch[::-1]
                del busy[child]


def _warm_up() -> None:
    """Import what all children need, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ai_edge_litert.interpreter  # noqa: F401 - loaded for the children
        import onnx2tf.onnx2tf  # noqa: F401
        import onnxsim  # noqa: F401

        import edgefleet_controller.compile.tflite.floating  # noqa: F401
    gc.collect()
    gc.freeze()


def _work(batch: Iterable[Case], sender: Connection) -> None:
    warnings.simplefilter("ignore")
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    for case in batch:
        try:
            outcome = run(case)
        except Exception as error:  # noqa: BLE001 - a bug of ours is an outcome of the case, not of the run
            outcome = Outcome(CRASHED, f"{type(error).__name__}: {error}"[:300])
        sender.send(outcome)
    sender.close()


def main() -> None:
    """Print the table, and with `--pin FILE` write the names that match."""
    from bench.conditions import conditions

    taken = cases()
    started_s = time.monotonic()
    outcomes = dict(run_all(taken))
    counts = collections.Counter(outcome.status for outcome in outcomes.values())
    proven_n = len(outcomes) - counts[UNPROVABLE]
    print(f"{len(outcomes)} cases in {time.monotonic() - started_s:.0f} s on {conditions()}")
    for status, count_n in counts.most_common():
        print(f"  {status:15} {count_n:5}  {count_n / len(outcomes):6.1%}")
    print(
        f"TFLite matches {counts[MATCH] / len(outcomes):.1%} of all, {counts[MATCH] / proven_n:.1%} of those that "
        f"ONNX Runtime runs; silently wrong: {counts[WRONG]}"
    )
    ran = [outcome for outcome in outcomes.values() if outcome.ort_same is not None]
    print(
        f"ort/cpu/fp32 gives the source's outputs exactly in {sum(bool(each.ort_same) for each in ran)} of {len(ran)}"
    )
    _print_rewrites(outcomes)
    _print_missing(taken, outcomes)
    if "--pin" in sys.argv:
        names = sorted(name for name, outcome in outcomes.items() if outcome.status == MATCH)
        Path(sys.argv[sys.argv.index("--pin") + 1]).write_text("\n".join(names) + "\n", encoding="utf-8")


def _print_rewrites(outcomes: Mapping[str, Outcome]) -> None:
    used = collections.Counter(
        name.split(" x")[0] for each in outcomes.values() if each.status == MATCH for name in each.rewrites
    )
    print("matches owed to rewrites: " + ", ".join(f"{name} {count_n}" for name, count_n in used.most_common()))


def _print_missing(taken: Mapping[str, Case], outcomes: Mapping[str, Outcome]) -> None:
    missing = collections.Counter(
        f"{taken[name].model.graph.node[0].op_type} {outcome.status}"
        for name, outcome in outcomes.items()
        if outcome.status != MATCH
    )
    print("no match: " + ", ".join(f"{name} {count_n}" for name, count_n in missing.most_common()))


if __name__ == "__main__":
    main()
