"""Mixed precision of TFLite files: operators that go back to float, and what that rescues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_contract.tuning import Recipe
from edgefleet_controller.compile.tflite import coverage, graph, target


@pytest.fixture(scope="module")
def arrays(quantised: Any) -> dict[str, Any]:
    images = np.random.default_rng(0).normal(size=(256, 8, 8, 8)).astype(np.float32)
    return {"image": np.random.default_rng(1).permutation(quantised.clear_cases(quantised.wide_range(), images, 128))}


def built(quantised: Any, folder: Path, variant: str, arrays: dict[str, Any], **more: Any) -> tuple[Any, graph.Graph]:
    """Return the options and the graph of a build of the model whose channels have unlike ranges."""
    request = quantised.request_for(folder, quantised.wide_range(), variant, arrays, labelled=True, **more)
    answer = target.build(request)
    return answer.options, graph.read(Path(request.out).read_bytes())


def float_layers(content: graph.Graph) -> int:
    return sum(
        op.type in {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} and op.outputs[0].dtype == "float32"
        for op in content.operators
    )


def test_a_file_that_fails_its_metric_in_integers_is_rescued_with_few_weights_in_float(
    quantised: Any, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    options, content = built(quantised, tmp_path, "tflite/xnnpack/int8", arrays)
    assert "top-1 falls by" in str(options["plain_int8_misses"])
    assert options["mixed_meets_target"] is True
    assert 0 < float(options["kept_float_weights_share"]) <= 0.2
    assert float(options["mixed_sqnr_db"]) > 25
    assert float_layers(content) == options["kept_float_layers_n"] == 2
    assert options["integer_operators_n"] == coverage.quantised_n((tmp_path / "out.onnx").read_bytes()) > 0


def test_both_operators_around_a_wide_tensor_go_back_as_either_rounds_it(
    quantised: Any, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    options, _ = built(quantised, tmp_path, "tflite/xnnpack/int8", arrays)
    noise = dict(each.rsplit(" ", 1) for each in str(options["layer_noise_db"]).split("; "))
    loud = [name for name, noise_db in noise.items() if float(noise_db) > -20]
    assert sorted(loud) == sorted(str(options["kept_float"]).split(", "))


def test_an_accelerator_that_wants_integers_throughout_gets_them(
    quantised: Any, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    options, content = built(quantised, tmp_path, "tflite/edgetpu/int8", arrays)
    assert "kept_float" not in options
    assert float_layers(content) == 0


def test_a_recipe_says_which_share_of_the_weights_is_in_float(
    quantised: Any, tmp_path: Path, arrays: dict[str, Any]
) -> None:
    options, content = built(quantised, tmp_path, "tflite/xnnpack/int8", arrays, recipe=Recipe(keep_share=0.05))
    assert float(options["kept_float_weights_share"]) <= 0.05
    assert (float_layers(content), options["mixed_files_tried_n"]) == (2, 1)
    options, content = built(quantised, tmp_path, "tflite/xnnpack/int8", arrays, recipe=Recipe(keep_share=0.0))
    assert options["mixed_meets_target"] is False


def test_a_file_that_meets_its_target_in_integers_keeps_them(quantised: Any, tmp_path: Path) -> None:
    model = quantised.wide_range(spread=1.0)
    images = np.random.default_rng(0).normal(size=(128, 8, 8, 8)).astype(np.float32)
    images = quantised.clear_cases(model, images, 64)
    request = quantised.request_for(tmp_path, model, "tflite/xnnpack/int8", {"image": images})
    assert "kept_float" not in target.build(request).options
