"""Rewrites of single operators over drawn shapes and options: what ONNX Runtime makes of source and rewritten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite import library, scatter

SOME = settings(max_examples=25, deadline=None)
SIZES = st.integers(1, 5)
SEEDS = st.integers(0, 2**16)


def model_of(
    kind: str,
    feeds: Mapping[str, Any],
    constants: Mapping[str, Any],
    order: tuple[str, ...],
    *,
    outputs_n: int = 1,
    opset: int = 18,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one operator; `order` names its inputs, empty for one left out."""
    outputs = [f"y{place}" for place in range(outputs_n)]
    node = helper.make_node(kind, list(order), outputs, domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=imports, ir_version=10))


def require_same(model: onnx.ModelProto, feeds: Mapping[str, Any], name: str, atol: float = 1e-5) -> None:
    rewritten, names = library.apply(model, ())
    assert names == (name,)
    before, after = (session.Session(each.SerializeToString()).run(feeds) for each in (model, rewritten))
    for ours, theirs in zip(before, after, strict=True):
        assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape)
        np.testing.assert_allclose(theirs, ours, rtol=2e-5, atol=atol)


def floats(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@st.composite
def shapes(draw: st.DrawFn, least: int = 1, most: int = 3) -> tuple[int, ...]:
    return tuple(draw(st.lists(SIZES, min_size=least, max_size=most)))


@SOME
@given(shapes(2, 3), st.data(), st.booleans(), st.booleans(), st.booleans())
def test_fourier_transforms(
    shape: tuple[int, ...], data: st.DataObject, complex_given: bool, inverse: bool, one_sided: bool
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    one_sided = one_sided and not inverse and not complex_given
    x = floats(0, *shape, 2 if complex_given else 1)
    length = data.draw(st.none() | st.integers(1, 6))
    constants = {"axis": np.asarray(axis), **({} if length is None else {"length": np.asarray(length)})}
    order = ("x", "" if length is None else "length", "axis")
    model = model_of("DFT", {"x": x}, constants, order, opset=20, inverse=int(inverse), onesided=int(one_sided))
    require_same(model, {"x": x}, "fourier-by-matrices")


@SOME
@given(SIZES, st.integers(2, 8), st.integers(1, 4), st.booleans(), st.booleans())
def test_short_time_fourier_transforms(batch_n: int, size: int, hop: int, windowed: bool, one_sided: bool) -> None:
    x = floats(1, batch_n, 19, 1)
    constants = {"hop": np.asarray(hop), "size": np.asarray(size)}
    constants |= {"window": floats(2, size)} if windowed else {}
    order = ("x", "hop", "window" if windowed else "", "size")
    model = model_of("STFT", {"x": x}, constants, order, onesided=int(one_sided))
    require_same(model, {"x": x}, "fourier-by-matrices", atol=1e-4)


@SOME
@given(shapes(1, 3), st.data())
def test_slices_backwards(shape: tuple[int, ...], data: st.DataObject) -> None:
    rank, bound = len(shape), st.integers(-8, 8)
    steps = [-data.draw(st.integers(1, 3)), *data.draw(st.lists(st.sampled_from([-2, -1, 1, 2]), max_size=rank - 1))]
    axes = data.draw(st.permutations(range(rank)))[: len(steps)]
    starts, ends = ([data.draw(bound) for _ in steps] for _ in range(2))
    x = floats(3, *shape)
    constants = {name: np.asarray(value) for name, value in zip("seat", (starts, ends, axes, steps), strict=True)}
    require_same(model_of("Slice", {"x": x}, constants, ("x", *"seat")), {"x": x}, "backward-slice-gathered")


def test_uneven_splits() -> None:
    x = floats(4, 3, 7)
    model = model_of("Split", {"x": x}, {}, ("x",), outputs_n=4, axis=1, num_outputs=4)
    require_same(model, {"x": x}, "split-sizes-written-out")


@SOME
@given(st.integers(0, 2), SEEDS)
def test_indices_counted_from_the_end(axis: int, seed: int) -> None:
    shape = (3, 4, 2)
    feeds = {
        "x": floats(seed, *shape),
        "i": np.random.default_rng(seed).integers(-shape[axis], shape[axis], size=shape),
    }
    require_same(model_of("GatherElements", feeds, {}, ("x", "i"), axis=axis), feeds, "indices-from-start")


@SOME
@given(shapes(1, 3), st.data())
def test_pads_that_go_round(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Never wider than the axis: beyond that ONNX Runtime and ONNX's reference differ."""
    befores, afters = ([data.draw(st.integers(0, size)) for size in shape] for _ in range(2))
    x = floats(5, *shape)
    model = model_of("Pad", {"x": x}, {"p": np.asarray([*befores, *afters])}, ("x", "p"), opset=19, mode="wrap")
    require_same(model, {"x": x}, "wrap-gathered")


@SOME
@given(st.sampled_from(["add", "mul", "max", "min"]), st.integers(1, 3), SEEDS)
def test_scattering_into_rows(reduction: str, depth: int, seed: int) -> None:
    generator, shape = np.random.default_rng(seed), (3, 2, 4)
    limits = np.asarray(shape[:depth])
    places = generator.integers(-limits, limits, size=(5, depth))
    feeds = {"x": floats(seed, *shape), "i": places, "u": floats(seed + 1, 5, *shape[depth:])}
    require_same(model_of("ScatterND", feeds, {}, ("x", "i", "u"), reduction=reduction), feeds, "scatter-by-matrix")


@SOME
@given(st.sampled_from(["add", "mul", "max", "min"]), st.integers(-3, 2), SEEDS, st.sampled_from(["f4", "i4"]))
def test_scattering_into_elements(reduction: str, axis: int, seed: int, dtype: str) -> None:
    generator, shape = np.random.default_rng(seed), (3, 2, 4)
    places = generator.integers(-shape[axis], shape[axis], size=(2, 2, 3))
    x, updates = ((generator.normal(size=each) * 4).astype(dtype) for each in (shape, places.shape))
    feeds = {"x": x, "i": places, "u": updates}
    model = model_of("ScatterElements", feeds, {}, ("x", "i", "u"), reduction=reduction, axis=axis)
    require_same(model, feeds, "scatter-by-matrix")


def test_a_scattering_too_large_for_a_matrix_is_left_alone_and_says_why() -> None:
    rows_n = math.isqrt(scatter.MAX_ELEMENTS) + 1
    feeds = {"x": floats(0, rows_n), "i": np.zeros((rows_n, 1), np.int64), "u": floats(0, rows_n)}
    model, refusals = model_of("ScatterND", feeds, {}, ("x", "i", "u"), reduction="add"), list[str]()
    assert library.apply(model, (), refusals=refusals)[1] == ()
    assert refusals == [
        "ScatterND 'y0' is not rewritten: 1001 updates of 1001 elements take a matrix of more than 1,000,000"
    ]


@SOME
@given(shapes(1, 3), st.data(), SEEDS)
def test_the_first_of_equal_maxima_is_the_hard_one(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = np.random.default_rng(seed).integers(0, 3, size=shape).astype(np.float32)
    require_same(model_of("Hardmax", {"x": x}, {}, ("x",), axis=axis), {"x": x}, "hardmax-compared")


@SOME
@given(shapes(1, 3), st.data(), st.sampled_from([13, 18]), st.sampled_from([1.0, 1e4]))
def test_logarithms_of_a_softmax(shape: tuple[int, ...], data: st.DataObject, opset: int, factor: float) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = floats(6, *shape) * np.float32(factor)
    model = model_of("LogSoftmax", {"x": x}, {}, ("x",), axis=axis, opset=opset)
    require_same(model, {"x": x}, "log-softmax-decomposed")


@SOME
@given(st.sampled_from([0, 1, -1]), st.booleans(), st.booleans())
def test_running_products(axis: int, exclusive: bool, reverse: bool) -> None:
    x = floats(7, 3, 4)
    model = model_of(
        "CumProd",
        {"x": x},
        {"a": np.asarray(axis)},
        ("x", "a"),
        opset=26,
        exclusive=int(exclusive),
        reverse=int(reverse),
    )
    require_same(model, {"x": x}, "running-product-masked")


@SOME
@given(st.sampled_from(["TF", "IDF", "TFIDF"]), st.integers(0, 3), st.sampled_from([(8,), (2, 6), (1, 1)]), SEEDS)
def test_counts_of_n_grams(mode: str, skips_n: int, shape: tuple[int, ...], seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 5, size=shape)
    options: dict[str, Any] = {
        "mode": mode,
        "min_gram_length": 1,
        "max_gram_length": 2,
        "max_skip_count": skips_n,
        "ngram_counts": [0, 3],
        "ngram_indexes": [4, 0, 1, 3, 2],
        "pool_int64s": [0, 3, 4, 1, 2, 3, 3],
        "weights": [0.5, 1.5, 2.0, 0.25, 3.0],
    }
    require_same(model_of("TfIdfVectorizer", {"x": x}, {}, ("x",), **options), {"x": x}, "n-grams-compared")


def test_operators_of_classical_learning() -> None:
    x = floats(8, 3, 4)
    ml: dict[str, Any] = {"domain": "ai.onnx.ml", "opset": 17}
    require_same(model_of("Binarizer", {"x": x}, {}, ("x",), threshold=0.25, **ml), {"x": x}, "threshold-compared")
    picked = model_of("ArrayFeatureExtractor", {"x": x}, {"i": np.asarray([2, 0])}, ("x", "i"), **ml)
    require_same(picked, {"x": x}, "features-gathered")


@SOME
@given(SEEDS, SIZES)
def test_fmod_keeps_the_dividends_sign_and_never_gives_a_whole_divisor(seed: int, size: int) -> None:
    values = np.random.default_rng(seed)
    left = values.integers(-9, 10, size=(3, size)).astype(np.float32) * np.float32(0.7)
    right = np.where(values.random((3, size)) < 0.5, np.float32(-0.7), np.float32(0.3)).astype(np.float32)
    feeds = {"x": left, "y": right}
    model = model_of("Mod", feeds, {}, ("x", "y"), fmod=1)
    rewritten, names = library.apply(model, ())
    assert names == ("fmod-by-truncation",)
    got = session.Session(rewritten.SerializeToString()).run(feeds)[0]
    wanted = np.fmod(left, right)
    far = np.abs(got - wanted) > 1e-5  # at a multiple of the divisor the quotient's rounding decides, there and here
    np.testing.assert_allclose(np.abs(got - wanted)[far], np.abs(right)[far], atol=1e-5)
    assert np.all(got * left >= 0)
