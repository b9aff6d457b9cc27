"""Int8 recipes of others, each with its own defaults. Runs by itself, in any interpreter that has what it needs.

`python peer_recipes.py RECIPE SOURCE FEEDS OUT`: FEEDS is an `.npz` of calibration inputs as the model takes them, by
input name, first axis = inference. `python peer_recipes.py olive` only says whether Olive is there, by its exit status.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Feed = dict[str, Any]


def feeds_of(path: Path) -> list[Feed]:
    """Return the feeds of each inference, by input name."""
    import numpy as np

    with np.load(path) as arrays:
        held = {name: arrays[name] for name in arrays.files}
    return [
        {name: np.asarray(array[at]) for name, array in held.items()} for at in range(len(next(iter(held.values()))))
    ]


class Reader:
    """Calibration data as ONNX Runtime's quantiser reads it; Olive's recipe reads it more than once."""

    def __init__(self, feeds: list[Feed]) -> None:
        self._feeds = feeds
        self._left: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._left, None)

    def rewind(self) -> None:
        self._left = iter(self._feeds)


def ort(source: Path, feeds: list[Feed], out: Path) -> None:
    """ONNX Runtime's `quantize_static`, all defaults: QDQ, S8S8, per tensor, MinMax; pre-processed as it advises."""
    quantization = importlib.import_module("onnxruntime.quantization")
    shape_inference = importlib.import_module("onnxruntime.quantization.shape_inference")

    class Defaults(Reader, quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]  # untyped base
        pass

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready.onnx")
        try:
            shape_inference.quant_pre_process(str(source), str(ready), auto_merge=True)
        except Exception as error:  # noqa: BLE001 - as Olive does: what cannot be pre-processed is quantised as it is
            print(f"pre-processing: {error}", file=sys.stderr)
            ready = source
        quantization.quantize_static(str(ready), str(out), Defaults(feeds))


def olive(source: Path, feeds: list[Feed], out: Path) -> None:
    """Olive's pass `OnnxStaticQuantization` with every default."""
    registry = importlib.import_module("olive.data.registry").Registry
    model = importlib.import_module("olive.model").ONNXModelHandler
    passes = importlib.import_module("olive.passes.onnx.quantization")
    create = importlib.import_module("olive.passes.olive_pass").create_pass_from_dict

    @registry.register_dataset(name="edgefleet_feeds")  # type: ignore[untyped-decorator]  # Olive is not installed here
    def dataset(**_: object) -> list[tuple[Feed, int]]:
        return [(feed, 0) for feed in feeds]

    @registry.register_dataloader(name="edgefleet_loader")  # type: ignore[untyped-decorator]
    def loader(held: list[tuple[Feed, int]], **_: object) -> list[tuple[Feed, int]]:
        return held

    data = {
        "name": "edgefleet",
        "type": "DataContainer",
        "load_dataset_config": {"type": "edgefleet_feeds"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "edgefleet_loader"},
    }
    made = create(passes.OnnxStaticQuantization, {"data_config": data}, disable_search=True)
    with tempfile.TemporaryDirectory() as folder:
        result = made.run(model(str(source)), folder)
        Path(result.model_path).replace(out)


RECIPES = {"ort": ort, "olive": olive}
NEEDS = {"ort": ("onnxruntime", "onnxruntime"), "olive": ("olive", "olive-ai")}
"""Module and package."""


def run_recipe() -> int:
    """Say which version there is, or on standard error why there is none; and, given files, apply the recipe."""
    recipe = sys.argv[1]
    module, package = NEEDS[recipe]
    try:
        importlib.import_module(module)
    except ImportError as error:
        there = importlib.util.find_spec(module) is not None
        print(f"does not import: {error}" if there else f"{package} is not installed", file=sys.stderr)
        return 3
    print(f"{package} {importlib.metadata.version(package)}", flush=True)
    if len(sys.argv) > 2:
        source, feeds, out = map(Path, sys.argv[2:])
        RECIPES[recipe](source, feeds_of(feeds), out)
    return 0


if __name__ == "__main__":
    sys.exit(run_recipe())
