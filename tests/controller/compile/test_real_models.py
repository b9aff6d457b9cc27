"""Real models, too large to ship, below the folder that `EDGEFLEET_MODELS` names; each that is not there is skipped.

Nothing is downloaded. One folder a model, its samples beside it: `REAL` says which. A large model takes minutes
(`-o timeout=600`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_controller.build import Built, NotBuilt

MODELS_ENV = "EDGEFLEET_MODELS"
DIGIT = {"mean": 33.3285, "std": 78.5655, "sample_layout": "nhw"}
PHOTO = {"layout": "nchw", "mean": 127.5, "std": 127.5}
MADE_OF_FLOAT = "other precisions are made of a float ONNX source only"
LITE, DIGITS, PITCH = "efficientnet_lite0", "mnist_cnn", "serving_default_input_2:0"
WAKE = "serving_default_input_audio:0"


@dataclass(frozen=True)
class Real:
    """A model file, the file and arrays of its samples, what a manifest says of it, and what must become of it.

    Attributes:
        file: below the folder of models.
        samples: a file beside it, or none for seeded noise.
        arrays: model input → array of that file, or → how noise is drawn.
        builds: variants that must come out and agree with the source.
        refused: variant → words its reason must hold.
        spec: the rest of the manifest's entry.
    """

    file: str
    samples: str | None
    arrays: Mapping[str, Any]
    builds: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)


def integers(low: int, high: int, *shape: int) -> Any:
    """Return how seeded integers are drawn, int32."""
    return lambda generator: generator.integers(low, high, shape, dtype=np.int32)


def noise(*shape: int) -> Any:
    """Return how seeded noise is drawn, float32."""
    return lambda generator: 0.1 * generator.normal(size=shape).astype(np.float32)


BOTH = ("ort/cpu/fp32", "tflite/xnnpack/fp32")
QUANTISED = {"ort/cpu/int8": "quantised already", "ort/qnn/int8": "quantised already"}
REAL = (
    Real(f"{LITE}/efficientnet_lite0_fp32.onnx", "golden_fp32.npz", {"input": "input"}, BOTH),
    Real(f"{LITE}/efficientnet_lite0_int8_qdq.onnx", "golden_fp32.npz", {"input": "input"}, BOTH[:1], QUANTISED),
    *(
        Real(
            f"{DIGITS}/{file}", "mnist_test_1000.npz", {"image": "x"}, builds, refused,
            {"preprocess": {"image": {**DIGIT, "layout": layout}}},
        )
        for file, layout, builds, refused in (
            ("mnist_cnn_fp32.onnx", "nchw", (*BOTH, "ort/cpu/int8"), {}),
            ("mnist_cnn_int8_qdq.onnx", "nchw", BOTH[:1], QUANTISED),
            ("mnist_cnn_int8_qoperator.onnx", "nchw", BOTH[:1], QUANTISED),
            ("mnist_cnn_fp32.tflite", "nhwc", ("tflite/cpu/fp32",), {"tflite/cpu/int8": MADE_OF_FLOAT}),
            ("mnist_cnn_fp16_io.tflite", "nhwc", ("tflite/xnnpack/fp16",), {"tflite/cpu/int8": MADE_OF_FLOAT}),
        )
    ),
    Real(
        "silero_vad/silero_vad.onnx", None, {"input": noise(64, 576)}, ("ort/cpu/fp32",),
        {}, {"state": {"stateN": "state"}, "constants": {"sr": 16000}},
    ),
    Real("basic_pitch/nmp.onnx", "golden_tones.npz", {PITCH: "audio"}, BOTH),
    Real("basic_pitch/nmp.tflite", "golden_tones.npz", {PITCH: "audio"}, BOTH[1:], {"ort/cpu/fp32": "takes ONNX"}),
    Real("magika/model.onnx", None, {"bytes": integers(0, 257, 16, 2048)}, BOTH),
    Real(
        "minilm_int8/model.onnx", "golden.npz",
        {name: name for name in ("input_ids", "attention_mask", "token_type_ids")}, BOTH[:1],
    ),
    Real(
        "face_detection/face_detection_short_range.tflite", "golden.npz", {"input": "input"}, ("tflite/xnnpack/fp16",),
        {"tflite/xnnpack/fp32": MADE_OF_FLOAT},
    ),
    *(
        Real(
            f"wake_word/{name}.tflite", f"{name}_pos.npz", {WAKE: "frames"}, ("tflite/cpu/int8",),
            {"tflite/cpu/fp32": MADE_OF_FLOAT},
        )
        for name in ("okay_nabu", "alexa")
    ),
    Real("text_angle/cls.onnx", "lines_32.npz", {"x": "x"}, BOTH, {}, {"preprocess": {"x": PHOTO}}),
)  # fmt: skip


@pytest.mark.parametrize("real", REAL, ids=lambda real: real.file)
def test_a_real_model_builds_or_is_refused_with_the_true_reason(bench: Any, real: Real) -> None:
    folder = os.environ.get(MODELS_ENV)
    if folder is None or not Path(folder, real.file).is_file():
        pytest.skip(f"{real.file} is not below the folder that {MODELS_ENV} names ({folder})")
    source = f"m{Path(real.file).suffix}"
    bench.put(source, Path(folder, real.file).read_bytes())
    bench.put_arrays("real.npz", arrays(Path(folder, real.file), real))
    checked = bench.check(source=source, samples="real.npz", **real.spec)
    for variant in real.builds:
        built = bench.builder.build(checked, variant)
        assert isinstance(built, Built), f"{variant}: {built}"
        assert built.document.host_check is not None
        assert built.document.host_check.verdict in {"pass", "weak"}
    for variant, words in real.refused.items():
        refused = bench.builder.build(checked, variant)
        assert isinstance(refused, NotBuilt), variant
        assert words in (refused.tried.reason or "")


def arrays(model: Path, real: Real) -> dict[str, Any]:
    """Return the samples of a model: up to 64 of those beside it, or drawn."""
    if real.samples is None:
        generator = np.random.default_rng(5)
        return {name: draw(generator) for name, draw in real.arrays.items()}
    with np.load(model.with_name(real.samples)) as given:
        return {name: given[array][:64] for name, array in real.arrays.items()}
