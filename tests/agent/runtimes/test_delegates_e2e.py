"""Delegates that refuse, crash and compute wrongly, on the whole stack: built, sent, tried, told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import DeviceState
from edgefleet_controller.stack.supervisor import StackOptions
from edgefleet_hil.plugin import RigFactory

# The same chain without builder and network is tested in `test_delegates.py`, at each run.
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

MANIFEST = """
fleet: v1
models:
  digits:
    source: {model}
    samples: samples.npz
    preprocess: {{image: {{sample_layout: nhw, layout: nchw, mean: 33.3285, std: 78.5655}}}}
deployments:
  - model: digits
    to: all
    chain: [tflite/gpu/fp32, tflite/nnapi/fp16, tflite/edgetpu/int8, tflite/xnnpack/fp32]
    accept: {{placement: {{fallback: allow}}}}
"""
MODES = {"GPU": "refuse", "NNAPI": "crash", "EDGETPU": "wrong"}


def test_a_chain_of_bad_delegates_ends_on_xnnpack_with_a_reason_for_each(
    rig_factory: RigFactory, delegate_library: Path, examples: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes((examples / "models/mnist_cnn_fp32.onnx").read_bytes())
    with np.load(examples / "data/digits.npz") as data:
        np.savez(tmp_path / "samples.npz", image=data["image"][:200], labels=data["labels"][:200])
    manifest = tmp_path / "fleet.yaml"
    manifest.write_text(MANIFEST.format(model=model.name), encoding="utf-8")
    env = {f"EDGEFLEET_TFLITE_DELEGATE_{engine}": str(delegate_library) for engine in MODES}
    env |= {f"EDGEFLEET_TFLITE_DELEGATE_{engine}_OPTIONS": f"mode={mode}" for engine, mode in MODES.items()}
    rig = rig_factory(StackOptions(command="a test rig", shared=True, env=env))
    status = rig.apply(manifest, timeout_s=240.0)
    assert status.exit_code == 0, status.reason
    (row,) = status.devices
    assert (row.state, row.variant) == (DeviceState.ACTIVE, "tflite/xnnpack/fp32")
    assert [(tried.variant, tried.verdict) for tried in row.tried] == [
        ("tflite/gpu/fp32", Verdict.UNSUPPORTED),
        ("tflite/nnapi/fp16", Verdict.CRASHED),
        ("tflite/edgetpu/int8", Verdict.FAILED),
    ]
    for tried, word in zip(row.tried, ("refuses this graph", "SIGSEGV", "logits"), strict=True):
        assert word in str(tried.reason)
