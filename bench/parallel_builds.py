"""Ten builds of three models, one after the other and two at once, each from an empty home."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from bench.conditions import conditions
from edgefleet_contract.manifest import ModelSpec
from edgefleet_controller.load import load_manifest
from edgefleet_controller.resolve import resolve_files
from edgefleet_controller.stack.home import FleetHome
from edgefleet_controller.workbench import Wanted, Workbench

EXAMPLES = Path(__file__).resolve().parent.parent / "manifests" / "examples"
VARIANTS = ("ort/cpu/fp32", "ort/cpu/int8", "ort/cpu/int8-dynamic")
AIM = 0.75


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = models(Path(folder))
        serial_s = timed(wanted, Path(folder, "serial"), workers=1)
        parallel_s = timed(wanted, Path(folder, "parallel"), workers=2)
    builds_n = sum(len(each.variants) for each in wanted)
    print(f"{builds_n} builds of {len(wanted)} models: {serial_s:.1f} s one by one, {parallel_s:.1f} s two at once")
    print(f"ratio two at once / one by one: {parallel_s / serial_s:.3f} (aim: below {AIM}), n 1 each")
    print(f"conditions: empty homes, fresh child processes; {conditions()}")


def timed(wanted: list[Wanted], home: Path, *, workers: int) -> float:
    """Return how long all builds take, in seconds."""
    bench = Workbench(FleetHome(home), workers)
    started_s = time.monotonic()
    report = bench.build(wanted, lambda *_: None, None)
    took_s = time.monotonic() - started_s
    bad = [f"{row.model} {row.variant}: {row.reason}" for row in report.builds if row.verdict not in {"pass", "weak"}]
    assert not bad, bad
    return took_s


def models(folder: Path) -> list[Wanted]:
    """Return the two example models and a small dense one, ten builds in all."""
    loaded = load_manifest(EXAMPLES / "quickstart.yaml")
    files = {text: found.path for text, found in resolve_files(loaded).items()}
    examples = [Wanted(name, spec, files, VARIANTS) for name, spec in loaded.manifest.models.items()]
    return [*examples, dense(folder)]


def dense(folder: Path) -> Wanted:
    """Return a dense network, in the same three variants and in fp16."""
    generator = np.random.default_rng(3)
    weights = [generator.normal(size=(256, 256)).astype(np.float32) / 16 for _ in range(4)]
    nodes = [helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"], name=f"dense{i}") for i in range(4)]
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["batch", 256])],
        [helper.make_tensor_value_info("h4", TensorProto.FLOAT, ["batch", 256])],
        [onnx.numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model, samples = folder / "dense.onnx", folder / "dense.npz"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    model.write_bytes(made.SerializeToString())
    np.savez(samples, h0=generator.normal(size=(256, 256)).astype(np.float32))
    spec = ModelSpec.model_validate({"source": "dense.onnx", "samples": "dense.npz"})
    return Wanted("dense", spec, {"dense.onnx": model, "dense.npz": samples}, (*VARIANTS, "ort/cpu/fp16"))


if __name__ == "__main__":
    main()
