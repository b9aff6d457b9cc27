"""Sources other than ONNX, from the manifest to the device's evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_contract.report import DeviceState
from edgefleet_hil.plugin import RigFactory

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MANIFEST = """\
fleet: v1
models:
  digits: {source: digits_fp32.tflite, samples: digits.npz, task: classification}
deployments:
  - {model: digits, to: all}
"""


@pytest.fixture
def manifest(tmp_path: Path, examples: Path, repository: Path) -> Path:
    """A TFLite source with real digits in the file's own layout, and no chain."""
    folder = tmp_path / "given"
    folder.mkdir()
    source = repository / "tests" / "data" / "tflite" / "digits_fp32.tflite"
    (folder / source.name).write_bytes(source.read_bytes())
    with np.load(examples / "data" / "digits.npz") as digits:
        images = (digits["image"][:100, ..., None].astype(np.float32) - 33.3285) / 78.5655
        np.savez(folder / "digits.npz", image=images, labels=digits["labels"][:100])
    path = folder / "manifest.yaml"
    path.write_text(MANIFEST, encoding="utf-8")
    return path


def test_a_tflite_file_reaches_the_device_as_it_is_and_is_proven_there(rig_factory: RigFactory, manifest: Path) -> None:
    rig = rig_factory()
    (row,) = rig.apply(manifest).devices
    assert (row.state, row.variant) == (DeviceState.ACTIVE, "tflite/xnnpack/fp32"), row
    active = rig.active("digits")
    assert active is not None
    assert (active / "model.tflite").read_bytes() == (manifest.parent / "digits_fp32.tflite").read_bytes()
    assert row.parity is not None
    assert row.parity.metric is not None
    assert row.parity.metric.reference == row.parity.metric.measured > 0.95


def test_a_variant_the_file_cannot_become_is_refused_with_the_reason(fleet: Any, manifest: Path) -> None:
    said = fleet("build", str(manifest), "--variant", "ort/cpu/int8", "--variant", "tflite/cpu/fp32", "-o", "json")
    assert said.code == 0, said.err
    other, own = said.json["builds"]
    assert (other["verdict"], own["verdict"]) == ("unsupported", "pass")
    assert "its source is a TFLite file in fp32; ort takes ONNX" in other["reason"]
