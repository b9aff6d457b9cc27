"""How the tensors of one model stand for those of another, or for samples, told from names and shapes. Pure.

A conversion may rename tensors and put channels last. Where that has one plausible reading it is taken, and said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from edgefleet_agent.preprocess import InputMismatchError, check_names, describe, prepare
from edgefleet_agent.runtimes.base import Array
from edgefleet_contract.artifact import Dim, InputTransform, TensorMap, TensorSpec

_USUAL: Mapping[int, tuple[tuple[int, ...], ...]] = {
    3: ((0, 2, 1),),
    4: ((0, 2, 3, 1), (0, 3, 1, 2)),
    5: ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3)),
}
"""Channels last, channels first: what conversions do to tensors of 3 to 5 axes."""

_MAX_SEARCHED_AXES = 5


@dataclass(frozen=True)
class Match:
    """The reference's tensor name → the candidate's tensor; and in words what was assumed to get there."""

    maps: Mapping[str, TensorMap]
    assumed: tuple[str, ...]


def match_tensors(reference: Sequence[TensorSpec], candidate: Sequence[TensorSpec], kind: str) -> Match:
    """Say which of the candidate's tensors stands for each of the reference's, and in which order of axes.

    By name where the names are the same; else one by one in their order. Axes stay where shapes allow it.

    Args:
        reference: the tensors samples are named after.
        candidate: the other model's tensors.
        kind: `input` or `output`, for messages.

    Raises:
        InputMismatchError: numbers, ranks or sizes do not fit, or more than one order of axes would.
    """
    names = {spec.name: spec for spec in candidate}
    by_name = set(names) == {spec.name for spec in reference}
    if len(reference) != len(candidate):
        raise _no_fit(kind, reference, candidate, "they differ in number")
    maps: dict[str, TensorMap] = {}
    assumed: list[str] = []
    for place, spec in enumerate(reference):
        other = names[spec.name] if by_name else candidate[place]
        axes = _axes(spec.shape, other.shape)
        if axes is None:
            raise _no_fit(kind, (spec,), (other,), "no one order of axes makes the shapes fit")
        if other.name != spec.name:
            assumed.append(f"{kind} {other.name!r} stands for {spec.name!r}, by its place")
        if axes:
            assumed.append(f"{kind} {other.name!r} has the axes of {spec.name!r} in the order {list(axes)}")
        if other.name != spec.name or axes:
            maps[spec.name] = TensorMap(name=other.name, axes=axes)
    return Match(maps, tuple(assumed))


def match_samples(
    raw: Mapping[str, Array], transforms: Mapping[str, InputTransform], inputs: Sequence[TensorSpec]
) -> Match:
    """Say in which order of axes a model takes samples that were prepared for its source.

    Args:
        raw: samples by input name, first axis = sample.
        transforms: how they are prepared, as declared for the source.
        inputs: what the model takes.

    Raises:
        InputMismatchError: names or sizes do not fit in any one order of axes.
    """
    check_names(raw, inputs, transforms)
    given = [
        spec.model_copy(update={"shape": _of_one(prepare(raw[spec.name][:1], spec, transforms.get(spec.name)), spec)})
        for spec in inputs
        if len(spec.shape) in _USUAL
    ]
    return match_tensors(given, [spec for spec in inputs if len(spec.shape) in _USUAL], "input")


def _of_one(ready: Array, spec: TensorSpec) -> tuple[Dim, ...]:
    """Return the shape of one inference: a whole sample, such as a state, or a batch of any size."""
    return ready.shape[1:] if ready.ndim == len(spec.shape) + 1 else ("?", *ready.shape[1:])


def _axes(source: Sequence[Dim], file: Sequence[Dim]) -> tuple[int, ...] | None:
    """Return the order of axes that makes the source's shape the file's; () for unchanged, None for no single one."""
    if len(source) != len(file):
        return None
    if _fits(source, file):
        return ()
    for axes in _USUAL.get(len(source), ()):
        if _fits([source[axis] for axis in axes], file):
            return axes
    if len(source) > _MAX_SEARCHED_AXES:
        return None
    others = [axes for axes in permutations(range(len(source))) if _fits([source[axis] for axis in axes], file)]
    return others[0] if len(others) == 1 else None


def _fits(left: Sequence[Dim], right: Sequence[Dim]) -> bool:
    return all(
        not (isinstance(one, int) and isinstance(other, int)) or one == other
        for one, other in zip(left, right, strict=True)
    )


def _no_fit(
    kind: str, reference: Sequence[TensorSpec], candidate: Sequence[TensorSpec], why: str
) -> InputMismatchError:
    takes, gives = (", ".join(map(describe, specs)) for specs in (reference, candidate))
    return InputMismatchError(f"the {kind}s of the two models do not fit: {takes} against {gives}: {why}")
