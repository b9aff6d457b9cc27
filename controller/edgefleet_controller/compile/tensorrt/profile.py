"""Optimisation profiles: the smallest, usual and largest size of every dynamic input of a TensorRT plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx

from edgefleet_contract.artifact import TensorSpec
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import preprocess
from edgefleet_controller.compile.protocol import BuildRequest

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, usual and largest shape."""
Profiles = Mapping[str, Range]


def profiles_of(request: BuildRequest, inputs: tuple[TensorSpec, ...]) -> dict[str, Range]:
    """Return a profile for every input with a dynamic axis.

    An axis the manifest does not size has the size the samples have, smallest, usual and largest alike: plans for
    one size are the fastest, and the trial feeds no other.

    Raises:
        CompileFaultError: the manifest's sizes do not hold the samples' own.
    """
    samples = npz.read(Path(request.samples), [spec.name for spec in inputs])
    feeds = next(preprocess.batches(samples, inputs, request.preprocess))
    return {
        spec.name: _range(spec, feeds[spec.name].shape, request.dynamic.get(spec.name, {}))
        for spec in inputs
        if any(isinstance(size, str) for size in spec.shape)
    }


def _range(spec: TensorSpec, seen: tuple[int, ...], sizes: Mapping[str, tuple[int, int, int]]) -> Range:
    triples = []
    for declared, size in zip(spec.shape, seen, strict=True):
        given = sizes.get(declared) if isinstance(declared, str) else None
        if given is not None and not given[0] <= size <= given[2]:
            raise CompileFaultError(
                "dynamic",
                f"axis {declared!r} of input {spec.name!r} has size {size} in the samples; the manifest's `dynamic` "
                f"allows {given[0]} to {given[2]}",
            )
        triples.append(given or (size, size, size))
    smallest, usual, largest = zip(*triples, strict=True)
    return smallest, usual, largest


def fix_sizes(model: onnx.ModelProto, profiles: Profiles) -> dict[str, Range]:
    """Write sizes that never change into a model's inputs; return the profiles of those that still do.

    TensorRT takes axes of one name for axes of one size, and some exporters name every unknown axis `?`; DLA takes no
    dynamic axis at all.
    """
    for value in model.graph.input:
        shape = value.type.tensor_type.shape
        for dim, smallest, _, largest in zip(shape.dim, *profiles.get(value.name, ((), (), ())), strict=False):
            if smallest == largest:
                dim.dim_value = smallest
    return {name: each for name, each in profiles.items() if each[0] != each[2]}


def as_json(profiles: Profiles) -> str:
    """Return profiles as text, for an artifact's options and the source's own notes."""
    return json.dumps(profiles, sort_keys=True, separators=(",", ":"))
