"""The failing part of a model as files, and the command that shows the fault again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgefleet_agent.samples import save_arrays

if TYPE_CHECKING:
    from edgefleet_agent.qualify.bisect.search import Found
    from edgefleet_agent.runtimes.base import Array


def write_part(found: Found, culprit: str, precision: str, out: Path) -> str:
    """Write the part that computes `culprit` into a folder, with the command that compares it, and return the command.

    `candidate.onnx` and `reference.onnx` lie between tensors that both files name; `inputs.npz` holds the reference's
    values there, `expected.npz` what the reference computes from them, `reproduce.txt` the command. Where the
    reference computes the tensor from others, there is no `reference.onnx`, and the command gives the whole models.
    """
    from edgefleet_agent.qualify.bisect.graph import PART_OUTPUT, extract, island_nodes

    out.mkdir(parents=True, exist_ok=True)
    twin = found.pairs[culprit]
    _, inputs = island_nodes(found.candidate, culprit, found.pairs)
    twins = {name: found.pairs.get(name, name) for name in inputs}
    first = found.values[0]
    part = extract(found.candidate, culprit, found.pairs, {name: first[source] for name, source in twins.items()}, {})
    (out / "candidate.onnx").write_bytes(part.SerializeToString())
    values = {name: _joined([run[source] for run in found.values]) for name, source in twins.items()}
    save_arrays(out / "inputs.npz", values)
    save_arrays(out / "expected.npz", {PART_OUTPUT: _joined([run[twin] for run in found.values])})
    _, known = island_nodes(found.reference, twin, twins.values())
    whole = set(known) == set(twins.values()) and len(set(twins.values())) == len(twins)
    if whole:
        names = {source: name for name, source in twins.items() if source != name}
        own = extract(found.reference, twin, twins.values(), first, names)
        (out / "reference.onnx").write_bytes(own.SerializeToString())
    command = _command(out, precision, whole=whole)
    (out / "reproduce.txt").write_text(command + "\n", encoding="utf-8")
    return command


def _joined(parts: Sequence[Array]) -> Array:
    """Return the samples along the first axis where it was 1, else along a new one, as samples are dealt out."""
    first = parts[0]
    return np.concatenate(parts) if first.ndim and first.shape[0] == 1 else np.stack(parts)


def _command(out: Path, precision: str, *, whole: bool) -> str:
    names = ("reference.onnx", "candidate.onnx", "inputs.npz")
    reference, candidate, inputs = (shlex.quote(str(out / name)) for name in names)
    if whole:
        return f"fleet compare {reference} {candidate} --samples {inputs} --precision {precision}"
    return (
        f"run {candidate} on {inputs} and compare with {shlex.quote(str(out / 'expected.npz'))}: "
        "the reference computes this tensor from others than the candidate"
    )
