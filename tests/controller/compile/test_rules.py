"""The compiler's pure rules: what can be built, the build key, shapes, preprocessing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.preprocess import prepare
from edgefleet_contract.artifact import InputTransform, Layout, TensorSpec
from edgefleet_contract.tuning import Recipe
from edgefleet_contract.variant import ENGINES, PRECISIONS, Variant, parse_variant
from edgefleet_controller.compile import key, registry
from edgefleet_controller.compile.ingest import preprocess, shapes


@pytest.mark.parametrize(
    "variant", ["ort/cpu/fp32", "ort/cpu/int8", "ort/cpu/int8-dynamic", "ort/cpu/int4", "ort/cuda/fp16"]
)
def test_what_this_version_builds_has_no_reason_against_it(variant: str) -> None:
    assert registry.buildable(parse_variant(variant)) is None
    assert {"onnx", "onnxruntime"} <= set(registry.needs(parse_variant(variant)))


@pytest.mark.parametrize(
    "variant", ["tflite/coreml/fp16", "tflite/coreml/int8", "tflite/nnapi/int8", "tflite/gpu/fp16"]
)
def test_every_form_of_a_delegates_file_is_built(variant: str) -> None:
    assert registry.buildable(parse_variant(variant)) is None


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("tflite/gpu/int8", "tflite/gpu is built in fp32, fp16 only, not int8"),
        ("tflite/coreml/int8-dynamic", "tflite/coreml is built in fp32, fp16, int8 only, not int8-dynamic"),
        ("tensorrt/dla/fp32", "DLA computes in fp16 and int8 only"),
        ("ort/coreml/int8", "takes no QuantizeLinear"),
        ("ort/qnn/fp32", "has no float32"),
        ("ort/cuda/int4", "CPU provider only in this version"),
        ("ort/cpu/int16x8", "in this version, not int16x8"),
        ("misbehave/segv/fp32", "EDGEFLEET_TEST_RUNTIMES"),
    ],
)
def test_what_it_does_not_build_has_a_true_reason(variant: str, words: str) -> None:
    assert words in (registry.buildable(parse_variant(variant)) or "")


def test_every_variant_of_the_grammar_has_an_answer() -> None:
    for runtime, engines in ENGINES.items():
        for engine in engines:
            for precision in PRECISIONS:
                reason = registry.buildable(Variant(runtime, engine, precision), test_runtimes=True)
                assert reason is None or reason


def test_misbehaving_variants_are_built_only_where_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = parse_variant("misbehave/segv/fp32")
    assert registry.buildable(variant, test_runtimes=True) is None
    monkeypatch.setenv(registry.TEST_RUNTIMES_ENV, "1")
    assert registry.buildable(variant) is None
    assert "test runtime" in (registry.buildable(parse_variant("misbehave/wrong/int8")) or "")


def test_every_target_names_a_module_that_is_there() -> None:
    import importlib

    for target in registry.TARGETS.values():
        assert callable(importlib.import_module(target.module).build)


PARTS: dict[str, Any] = {
    "model": "m",
    "source": "sha256:1",
    "samples": "sha256:2",
    "calibration": "sha256:3",
    "preprocess": {"x": InputTransform()},
    "dynamic": {},
    "state": {},
    "constants": {},
    "options": {},
    "license": None,
    "samples_level": "real",
    "recipe": Recipe(),
    "task": None,
    "variant": "ort/cpu/int8",
    "tools": {"onnx": "1"},
}


@pytest.mark.parametrize("part", list(PARTS))
def test_the_build_key_changes_with_every_part(part: str) -> None:
    others = {
        "preprocess": {"x": InputTransform(scale=2.0)},
        "dynamic": {"x": {"n": (1, 1, 2)}},
        "state": {"h": "h0"},
        "constants": {"rate": 16000},
        "options": {"ort": "other"},
        "tools": {"onnx": "2"},
        "recipe": Recipe(calibration="entropy"),
    }
    other = others.get(part, "other")
    assert key.build_key(**PARTS) == key.build_key(**PARTS)
    assert key.build_key(**PARTS) != key.build_key(**{**PARTS, part: other})


def test_tool_versions_are_read_without_importing_the_tools() -> None:
    assert key.tool_versions()["onnx"] != "missing"
    assert key._version("no-such-tool") == "missing"


def test_importing_the_builder_loads_no_model_library() -> None:
    code = (
        "import sys, edgefleet_controller.build, edgefleet_controller.compile.registry as r;"
        "r.buildable(__import__('edgefleet_contract.variant').variant.Variant('ort', 'cpu', 'int8'));"
        "print([m for m in ('numpy', 'onnx', 'onnxruntime', 'obstore') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given_layout", "wanted", "shape", "result"),
    [
        ("nhw", "nchw", (5, 28, 30), (5, 1, 28, 30)),
        ("nhw", "nhwc", (5, 28, 30), (5, 28, 30, 1)),
        ("nhwc", "nchw", (5, 28, 30, 3), (5, 3, 28, 30)),
        ("nchw", "nhwc", (5, 3, 28, 30), (5, 28, 30, 3)),
        ("nchw", "nchw", (5, 3, 28, 30), (5, 3, 28, 30)),
        (None, "nchw", (5, 3, 28, 30), (5, 3, 28, 30)),
    ],
)
def test_shapes_are_transposed_as_arrays_are(
    given_layout: str | None, wanted: str, shape: tuple[int, ...], result: tuple[int, ...]
) -> None:
    transform = InputTransform(sample_layout=given_layout, layout=wanted)
    assert shapes.transposed(shape, transform) == result
    assert preprocess.apply(np.zeros(shape, np.uint8), transform, "float32").shape == result


def test_samples_of_another_rank_than_their_layout_are_refused() -> None:
    with pytest.raises(ValueError, match=r"nhwc has 4 axes, the samples have 3: \[5, 28, 28\]"):
        shapes.transposed((5, 28, 28), InputTransform(sample_layout="nhwc", layout="nchw"))


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ({"layout": "nchw", "mean": (1.0, 2.0)}, "mean has 2 values, the input has 3 channels"),
        ({"layout": "nchw", "std": (1.0,) * 4}, "std has 4 values"),
        ({"mean": (1.0, 2.0, 3.0)}, "say with `layout`"),
        ({"layout": "nchw", "mean": (1.0, 2.0, 3.0)}, None),
        ({"mean": 5.0}, None),
    ],
)
def test_values_per_channel_must_match_the_channels(transform: Any, words: str | None) -> None:
    fault = shapes.channels_fault((9, 3, 4, 5), InputTransform(**transform))
    assert fault is None if words is None else words in (fault or "")


@pytest.mark.parametrize(
    ("given_dtype", "wanted", "declared", "fits"),
    [
        ("float32", "float32", False, True),
        ("float64", "float32", False, True),
        ("int32", "int64", False, True),
        ("uint8", "int64", False, True),
        ("uint8", "float32", False, False),
        ("uint8", "float32", True, True),
        ("float32", "int64", False, False),
        ("bool", "float32", True, False),
        ("bool", "bool", False, True),
        ("float32", "bfloat16", True, False),
    ],
)
def test_a_dtype_fits_when_it_is_the_inputs_kind_or_a_conversion_is_declared(
    given_dtype: str, wanted: str, declared: bool, fits: bool
) -> None:
    transform = InputTransform() if declared else None
    assert (shapes.dtype_fault(given_dtype, wanted, transform) is None) == fits


TRANSFORMS = st.builds(
    InputTransform,
    sample_layout=st.sampled_from([Layout.NHWC, Layout.NCHW]),
    layout=st.sampled_from([Layout.NHWC, Layout.NCHW]),
    scale=st.floats(0.01, 2.0),
    mean=st.one_of(st.floats(-100, 100), st.tuples(*[st.floats(-100, 100)] * 3)),
    std=st.one_of(st.floats(0.1, 100), st.tuples(*[st.floats(0.1, 100)] * 3)),
)


@given(TRANSFORMS, st.integers(0, 2**32 - 1))
def test_builder_and_agent_preprocess_alike(transform: Any, seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 256, size=(2, 3, 3, 3)).astype(np.uint8)
    spec = TensorSpec(name="x", dtype="float32", shape=("n", 3, 3, 3))
    np.testing.assert_array_equal(preprocess.apply(raw, transform, "float32"), prepare(raw, spec, transform))


def test_builder_and_agent_round_alike_to_integers() -> None:
    raw = np.arange(12, dtype=np.float32).reshape(3, 4) / 3
    spec = TensorSpec(name="x", dtype="uint8", shape=("n", 4))
    np.testing.assert_array_equal(
        preprocess.apply(raw, InputTransform(), "uint8"), prepare(raw, spec, InputTransform())
    )
