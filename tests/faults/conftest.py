"""Manifests of a small real model that differ in their samples, so that each apply builds, sends and proves anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

ManifestMaker = Callable[[int], Path]


@pytest.fixture
def digits_manifest(tmp_path: Path, examples: Path) -> ManifestMaker:
    """Make a manifest for digits whose artifact depends on the number given: it drops that many samples."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((examples / "models" / "mnist_cnn_fp32.onnx").read_bytes())
    with np.load(examples / "data" / "digits.npz") as archive:
        image, labels = archive["image"], archive["labels"]

    def make(dropped_n: int) -> Path:
        n = 200 - dropped_n
        np.savez_compressed(folder / f"samples{dropped_n}.npz", image=image[:n], labels=labels[:n])
        manifest = {
            "fleet": "v1",
            "models": {
                "digits": {
                    "source": "model.onnx",
                    "samples": f"samples{dropped_n}.npz",
                    "preprocess": {
                        "image": {"sample_layout": "nhw", "layout": "nchw", "mean": 33.3285, "std": 78.5655}
                    },
                    "task": "classification",
                }
            },
            "deployments": [{"model": "digits", "to": "all", "chain": ["ort/cpu/fp32"]}],
        }
        path = folder / f"manifest{dropped_n}.yaml"
        path.write_text(yaml.safe_dump(manifest), encoding="utf-8")
        return path

    return make
