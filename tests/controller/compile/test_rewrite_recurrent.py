"""Unrolled LSTM, GRU and RNN compute what ONNX Runtime's own kernels do, whatever their options."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite import library, recurrent
from edgefleet_controller.compile.tflite import floating
from edgefleet_controller.compile.tflite.interpreter import Interpreter

GATES_N = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS_N = {"LSTM": 3, "GRU": 2, "RNN": 1}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
FUNCTIONS = (
    "Affine", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "ScaledTanh", "Sigmoid", "Softplus", "Softsign", "Tanh",
    "ThresholdedRelu",
)  # fmt: skip


def model_of(kind: str, shape: tuple[int, int, int, int], case: dict[str, Any], seed: int = 0) -> onnx.ModelProto:
    """Return a model of one recurrent operator of `(steps, batch, inputs, hidden)`, with constant weights."""
    generator = np.random.default_rng(seed)
    steps_n, batch_n, inputs_n, hidden = shape
    options = {name: value for name, value in case.items() if value is not None and name.islower()}
    ways, gates = DIRECTIONS[options.get("direction", "forward")], GATES_N[kind] * hidden

    def weights(*sizes: int) -> Any:
        return (generator.normal(size=sizes) * 0.7).astype(np.float32)

    start = (batch_n, ways, hidden) if options.get("layout") else (ways, batch_n, hidden)
    constants = {
        "W": weights(ways, gates, inputs_n),
        "R": weights(ways, gates, hidden),
        **({"B": weights(ways, 2 * gates)} if case.get("BIAS", True) else {}),
        **({"L": np.asarray(case["LENGTHS"], np.int32)} if case.get("LENGTHS") is not None else {}),
        **({"H": weights(*start)} if case.get("START") else {}),
        **({"C": weights(*start)} if case.get("START") and kind == "LSTM" else {}),
        **({"P": weights(ways, 3 * hidden)} if case.get("PEEPHOLES") and kind == "LSTM" else {}),
    }
    wanted = ("W", "R", "B", "L", "H", *(("C", "P") if kind == "LSTM" else ()))
    outputs = ["y", "h", "c"][: 3 if kind == "LSTM" else 2]
    node = helper.make_node(
        kind, ["x", *(name if name in constants else "" for name in wanted)], outputs, hidden_size=hidden, **options
    )
    whole = (batch_n, steps_n, inputs_n) if options.get("layout") else (steps_n, batch_n, inputs_n)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, whole)]
    if case.get("RUN_TIME"):
        inputs.append(helper.make_tensor_value_info("L", TensorProto.INT32, (batch_n,)))
        del constants["L"]
    graph = helper.make_graph(
        [node],
        "one",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, tuple[int, int, int, int], dict[str, Any]]:
    kind = draw(st.sampled_from(sorted(GATES_N)))
    size = st.integers(1, 4)
    shape = (draw(size), draw(size), draw(size), draw(size))
    direction = draw(st.sampled_from(sorted(DIRECTIONS)))
    functions_n = FUNCTIONS_N[kind] * DIRECTIONS[direction]
    functions = draw(st.none() | st.lists(st.sampled_from(FUNCTIONS), min_size=functions_n, max_size=functions_n))
    some = st.floats(0.125, 1.0, width=32)
    lengths = draw(st.none() | st.lists(st.integers(0, shape[0]), min_size=shape[1], max_size=shape[1]))
    return (
        kind,
        shape,
        {
            "direction": direction,
            "activations": functions,
            "activation_alpha": functions and draw(st.lists(some, min_size=functions_n, max_size=functions_n)),
            "activation_beta": functions and draw(st.lists(some, min_size=functions_n, max_size=functions_n)),
            "clip": draw(st.none() | some),
            "linear_before_reset": draw(st.sampled_from([0, 1])) if kind == "GRU" else None,
            "input_forget": draw(st.sampled_from([0, 1])) if kind == "LSTM" else None,
            "LENGTHS": lengths,
            "RUN_TIME": lengths is not None and draw(st.booleans()),
            "BIAS": draw(st.booleans()),
            "START": draw(st.booleans()),
            "PEEPHOLES": draw(st.booleans()),
        },
    )


def feeds_of(model: onnx.ModelProto, case: dict[str, Any], seed: int = 1) -> dict[str, Any]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feeds = {"x": (np.random.default_rng(seed).normal(size=shape) * 2).astype(np.float32)}
    return feeds | ({"L": np.asarray(case["LENGTHS"], np.int32)} if case.get("RUN_TIME") else {})


@settings(max_examples=40, deadline=None)
@given(cases())
def test_every_step_state_and_memory_is_that_of_the_operator(
    drawn: tuple[str, tuple[int, int, int, int], dict[str, Any]],
) -> None:
    kind, shape, case = drawn
    model = model_of(kind, shape, case)
    rewritten, names = library.apply(model, ())
    assert names == ("recurrent-unrolled",)
    assert kind not in {node.op_type for node in rewritten.graph.node}
    feeds = feeds_of(model, case)
    source, made = (session.Session(each.SerializeToString()).run(feeds) for each in (model, rewritten))
    for ours, theirs in zip(source, made, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(GATES_N))
def test_batches_may_come_first(kind: str) -> None:
    """ONNX Runtime has no kernel for `layout` 1; ONNX's reference says what it means."""
    case: dict[str, Any] = {"layout": 1, "START": kind != "RNN"}
    model = model_of(kind, (3, 2, 3, 4), case)
    rewritten, names = library.apply(model, ())
    assert names == ("recurrent-unrolled",)
    feeds = feeds_of(model, case)
    wanted: Any = ReferenceEvaluator(model).run(None, feeds)
    made = session.Session(rewritten.SerializeToString()).run(feeds)
    for ours, theirs in zip(wanted[:2], made[:2], strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def test_a_function_that_lacks_a_number_is_left_alone() -> None:
    model = model_of("RNN", (3, 1, 2, 2), {"activations": ["Affine"]})
    assert library.apply(model, ()) == (model, ())


def test_lengths_at_run_time_become_a_file_that_obeys_them() -> None:
    case = {"direction": "bidirectional", "LENGTHS": [4, 1], "RUN_TIME": True, "activations": ["Relu", "Softsign"]}
    model = model_of("RNN", (4, 2, 3, 4), case)
    made = floating.make(model, [feeds_of(model, case), feeds_of(model, {**case, "LENGTHS": [2, 3]}, seed=2)])
    assert made.rewrites == ("recurrent-unrolled",)
    feeds = feeds_of(model, {**case, "LENGTHS": [3, 4]}, seed=3)
    wanted = session.Session(model.SerializeToString()).run(feeds)
    got = made.run_all(Interpreter(made.data), [feeds])[0]
    for ours, theirs in zip(wanted, got.values(), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-5)


def test_too_many_steps_are_left_alone_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "MAX_STEPS_N", 3)
    refusals: list[str] = []
    model = model_of("GRU", (4, 1, 2, 2), {})
    assert library.apply(model, (), refusals=refusals) == (model, ())
    assert refusals == ["GRU 'y' is not rewritten: it has 4 steps, and at most 3 are unrolled"]
