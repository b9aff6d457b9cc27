"""Samples drawn at random, for a model that came without real ones: they show that a file runs, and prove little."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import onnx_check
from edgefleet_controller.compile.npz import Array
from edgefleet_controller.compile.protocol import RandomSamplesAnswer, RandomSamplesRequest
from edgefleet_controller.compile.sources import formats as sources

SAMPLES_N = 32
MAX_ELEMENTS = 16 * 1024**2
_SEED = 20_240_229
_SMALL = 2
"""Integers are drawn below this: ids and masks take 0 and 1 whatever the vocabulary."""


def draw(request: RandomSamplesRequest) -> RandomSamplesAnswer:
    """Write `.npz` samples that fit a model's inputs: standard normal floats, integers 0 and 1, booleans.

    Raises:
        CompileFaultError: the model cannot be read, or an input has a dynamic axis beside its first: its size is
            the user's to say.
    """
    inputs = _inputs(Path(request.source))
    generator = np.random.default_rng(_SEED)
    npz.write(Path(request.out), {spec.name: _draw(spec, generator) for spec in inputs})
    return RandomSamplesAnswer(samples_n=SAMPLES_N)


def _inputs(source: Path) -> tuple[TensorSpec, ...]:
    with source.open("rb") as stream:
        form = sources.format_of(source.name, stream.read(16))
    if form == "tflite":
        from edgefleet_controller.compile.tflite import given

        return given.specs(source)[0]
    if source.suffix == ".py":
        what = "is Python code, which does not say what it takes, so no samples can be drawn for it"
        raise CompileFaultError("source", what, next_step="give real ones: --samples FILE")
    if form == "keras":
        from edgefleet_controller.compile.sources import keras as sources_keras

        return sources_keras.KerasSource(source).inputs
    if form == "torch-program":
        from edgefleet_controller.compile.sources import torch as sources_torch

        return sources_torch.input_specs(source)
    return onnx_check.io_specs(onnx_check.load(source))[0]


def _draw(spec: TensorSpec, generator: np.random.Generator) -> Array:
    shape = (SAMPLES_N, *_sample_shape(spec))
    if int(np.prod(shape, dtype=np.float64)) > MAX_ELEMENTS:
        raise CompileFaultError("samples", f"input {spec.name!r} is too large for samples drawn at random: {shape}")
    if spec.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if "int" in spec.dtype:
        return generator.integers(0, _SMALL, shape).astype(spec.dtype)
    if spec.dtype == "bfloat16":
        raise CompileFaultError("samples", f"input {spec.name!r} is bfloat16, for which no samples can be written")
    return generator.standard_normal(shape, dtype=np.float32).astype(spec.dtype)


def _sample_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Return the shape of one sample: without the batch axis where there is one."""
    batched = bool(spec.shape) and (isinstance(spec.shape[0], str) or spec.shape[0] == 1)
    dims = spec.shape[1:] if batched else spec.shape
    unknown = [dim for dim in dims if isinstance(dim, str)]
    if unknown:
        raise CompileFaultError(
            "samples",
            f"input {spec.name!r} has dynamic axes ({', '.join(unknown)}), so no samples can be drawn for it",
            next_step="give real ones: --samples FILE",
        )
    return tuple(dim for dim in dims if isinstance(dim, int))
