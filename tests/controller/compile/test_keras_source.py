"""Keras models as sources: exported to ONNX, and compared with what Keras itself computes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.build import Built
from edgefleet_controller.compile import key
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.sources import formats as sources
from edgefleet_controller.compile.sources import keras as sources_keras

needs_keras = pytest.mark.skipif(
    find_spec("keras") is None or find_spec("tf2onnx") is None,
    reason="Keras, TensorFlow and tf2onnx are an extra and not installed here",
)


def test_a_zip_archive_named_keras_is_a_keras_model() -> None:
    assert sources.format_of("m.keras", b"PK\x03\x04") == "keras"
    assert sources.wrong_source("m.keras", b"PK\x03\x04") is None


@pytest.mark.parametrize(
    ("installed", "lacks"),
    [
        (set(), "lacks keras"),
        ({"keras"}, "lacks tensorflow or tensorflow-cpu"),
        ({"keras", "tensorflow-cpu"}, "lacks tf2onnx"),
    ],
)
def test_what_is_missing_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], lacks: str
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return "3.0"

    monkeypatch.setattr(sources_keras, "version", version)
    with pytest.raises(CompileFaultError, match=lacks) as caught:
        sources_keras.KerasSource(Path("m.keras"))
    assert "edgefleet[keras]" in (caught.value.next_step or "")


def test_tensorflow_by_either_name_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key, "_version", lambda name: {"tensorflow-cpu": "2.21.0"}.get(name, "missing"))
    assert key.keras_versions()["tensorflow"] == "2.21.0"


@pytest.mark.skipif(find_spec("keras") is not None, reason="Keras is installed here")
def test_an_apply_is_refused_where_keras_is_not_installed(bench: Any) -> None:
    bench.put("m.keras", b"PK\x03\x04")
    with pytest.raises(UserInputError, match="the controller lacks keras"):
        bench.check(source="m.keras")


@pytest.fixture
def keras_bench(bench: Any, tmp_path: Path) -> Any:
    """A bench with a model of two inputs and two outputs, and 40 samples of both."""
    import keras  # type: ignore[import-not-found,unused-ignore]  # an extra

    keras.utils.set_random_seed(0)
    image, extra = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="extra")
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3, activation="relu")(image))
    joined = keras.layers.Dropout(0.5)(keras.layers.Concatenate()([features, extra]))
    outputs = [keras.layers.Dense(5)(joined), keras.layers.Dense(2)(features)]
    keras.Model([image, extra], outputs).save(tmp_path / "m.keras")
    bench.put("m.keras", (tmp_path / "m.keras").read_bytes())
    generator = np.random.default_rng(0)
    arrays = {"image": generator.normal(size=(40, 8, 8, 3)), "extra": generator.normal(size=(40, 4))}
    bench.put_arrays("k.npz", {name: array.astype(np.float32) for name, array in arrays.items()})
    return bench


@needs_keras
def test_a_keras_model_becomes_artifacts_that_agree_with_keras(keras_bench: Any) -> None:
    checked = keras_bench.check(source="m.keras", samples="k.npz")
    assert {each.name: each.shape[1:] for each in checked.model.inputs} == {"image": (8, 8, 3), "extra": (4,)}
    assert checked.model.batch_is_dynamic
    for variant in ("ort/cpu/fp32", "tflite/xnnpack/fp32"):
        built = keras_bench.builder.build(checked, variant)
        assert isinstance(built, Built), built
        assert built.document.host_check is not None
        assert built.document.host_check.verdict == "pass"
        assert "compared with Keras" in (built.document.host_check.reason or "")


@needs_keras
def test_an_archive_that_is_no_keras_model_is_refused(bench: Any) -> None:
    bench.put("m.keras", b"PK\x03\x04 and so on")
    with pytest.raises(UserInputError, match="is no model Keras"):
        bench.check(source="m.keras")


@needs_keras
def test_a_model_that_holds_code_is_refused(bench: Any, tmp_path: Path) -> None:
    import keras  # type: ignore[import-not-found,unused-ignore]  # an extra

    given = keras.Input((4,), name="x")
    keras.Model(given, keras.layers.Lambda(lambda x: x * 2)(given)).save(tmp_path / "m.keras")
    bench.put("m.keras", (tmp_path / "m.keras").read_bytes())
    with pytest.raises(UserInputError, match=r"(?i)lambda"):
        bench.check(source="m.keras")
