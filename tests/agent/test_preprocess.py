"""Raw samples to model inputs."""

from __future__ import annotations

import numpy as np
import pytest

from edgefleet_agent.preprocess import InputMismatchError, check_names, prepare
from edgefleet_contract.artifact import InputTransform, Layout, TensorSpec

RNG = np.random.default_rng(5)
IMAGE = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 4, 5))


def spec(dtype: str) -> TensorSpec:
    return TensorSpec(name="x", dtype=dtype, shape=("batch", 2))


def test_the_digits_transform_is_a_channel_added_then_standardised() -> None:
    raw = RNG.integers(0, 256, (2, 28, 28), np.uint8)
    transform = InputTransform(sample_layout=Layout.NHW, layout=Layout.NCHW, mean=33.3285, std=78.5655)
    got = prepare(raw, IMAGE, transform)
    assert got.shape == (2, 1, 28, 28)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[:, 0], (raw.astype(np.float32) - 33.3285) / 78.5655, rtol=1e-6)


@pytest.mark.parametrize(
    ("given_layout", "wanted", "shape"),
    [
        (Layout.NHWC, Layout.NCHW, (2, 5, 3, 4)),
        (Layout.NCHW, Layout.NHWC, (2, 4, 5, 3)),
        (Layout.NCHW, Layout.NCHW, (2, 3, 4, 5)),
    ],
)
def test_layouts_are_transposed(given_layout: Layout, wanted: Layout, shape: tuple[int, ...]) -> None:
    raw = RNG.random((2, 3, 4, 5))
    got = prepare(raw, IMAGE, InputTransform(sample_layout=given_layout, layout=wanted))
    assert got.shape == shape
    assert got.sum() == pytest.approx(raw.sum(), rel=1e-5)


def test_a_channel_may_be_added_last() -> None:
    got = prepare(np.zeros((2, 3, 4)), IMAGE, InputTransform(sample_layout=Layout.NHW, layout=Layout.NHWC))
    assert got.shape == (2, 3, 4, 1)


@pytest.mark.parametrize(("layout", "axis"), [(Layout.NCHW, 1), (Layout.NHWC, 3)])
def test_mean_and_std_per_channel_follow_the_models_layout(layout: Layout, axis: int) -> None:
    raw = np.ones((1, 3, 3, 3))
    transform = InputTransform(layout=layout, mean=(1.0, 0.0, -1.0), std=(1.0, 1.0, 4.0), scale=2.0)
    got = np.moveaxis(prepare(raw, IMAGE, transform), axis, 0)
    assert [np.unique(channel).tolist() for channel in got] == [[0.0], [2.0], [1.0]]


@pytest.mark.parametrize(
    ("transform", "word"),
    [
        (InputTransform(mean=(1.0, 2.0, 3.0)), "layout"),
        (InputTransform(layout=Layout.NCHW, mean=(1.0, 2.0)), "3 channels and 2 values"),
        (InputTransform(sample_layout=Layout.NHW, layout=Layout.NCHW), "needs 3 axes"),
    ],
)
def test_a_transform_that_does_not_fit_says_why(transform: InputTransform, word: str) -> None:
    with pytest.raises(InputMismatchError, match=word):
        prepare(np.zeros((2, 3, 4, 5)), IMAGE, transform)


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [("uint8", "float32"), ("float64", "float32"), ("float32", "float16"), ("int64", "int32"), ("bool", "bool")],
)
def test_without_a_transform_the_dtype_is_cast_where_no_value_is_lost(given_dtype: str, wanted: str) -> None:
    got = prepare(np.ones((1, 2), given_dtype), spec(wanted), None)
    assert got.dtype == wanted
    assert (got == 1).all()


@pytest.mark.parametrize(("value", "wanted"), [(1.5, "int64"), (300, "uint8"), (-1, "uint8"), (1, "bool")])
def test_without_a_transform_values_that_would_be_lost_are_refused(value: float, wanted: str) -> None:
    with pytest.raises(InputMismatchError, match="'x'"):
        prepare(np.array([[value, value]]), spec(wanted), None)


def test_computed_values_for_an_integer_input_are_rounded_and_never_wrapped() -> None:
    transform = InputTransform(scale=0.5)
    assert prepare(np.array([[3, 255]]), spec("uint8"), transform).tolist() == [[2, 128]]
    with pytest.raises(InputMismatchError, match="0 to 255"):
        prepare(np.array([[0, 1000]]), spec("uint8"), transform)


@pytest.mark.parametrize(
    ("raw", "transforms", "word"),
    [
        ({"picture": np.zeros(1)}, {}, "no array 'image'.*image float32.batch,3,4,5."),
        ({"image": np.zeros(1), "more": np.zeros(1)}, {}, "'more' that is no input"),
        ({"image": np.zeros(1)}, {"imge": InputTransform()}, "preprocess names 'imge'"),
    ],
)
def test_names_that_do_not_fit_are_told_with_what_the_model_takes(
    raw: dict[str, np.ndarray], transforms: dict[str, InputTransform], word: str
) -> None:
    with pytest.raises(InputMismatchError, match=word):
        check_names(raw, [IMAGE], transforms)
