"""What is wrong with a model file is a fault with a name, whatever it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import onnx_check

SOUND = helper.make_model(
    helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "sound",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    ),
    opset_imports=[helper.make_opsetid("", 17)],
)


@given(at=st.integers(0, 400), noise=st.binary(min_size=1, max_size=8))
def test_no_damage_makes_the_check_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes
) -> None:
    data = SOUND.SerializeToString()
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    try:
        onnx_check.record(onnx_check.load(path), "sha256:" + "0" * 64)
    except CompileFaultError as fault:
        assert fault.what == "source"  # noqa: PT017 - a sound model is a right answer too


def test_a_source_above_two_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(onnx_check.MAX_SOURCE_BYTES + 1)
    with pytest.raises(CompileFaultError, match="allowed: 2147483647"):
        onnx_check.load(path)
