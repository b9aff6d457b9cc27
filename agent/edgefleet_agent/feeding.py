"""What inferences are fed with beside samples: constants, the first state of each sequence, and states fed back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgefleet_agent.preprocess import InputMismatchError, describe
from edgefleet_agent.runtimes.base import Array
from edgefleet_agent.samples import Samples
from edgefleet_contract.artifact import TensorSpec

Scalar = int | float


def completed(
    samples: Samples, specs: Sequence[TensorSpec], state: Mapping[str, str], constants: Mapping[str, Scalar]
) -> Samples:
    """Return samples with an array for every constant and every state, one row a sample.

    A state that the file leaves out is zeros, a dynamic axis of it has size 1; one of the input's own rank is the
    first of every sequence.

    Args:
        samples: as the file has them, with `initial` for states.
        specs: the inputs of the model.
        state: output → input.
        constants: input → value.

    Raises:
        InputMismatchError: a name is no input, or an initial state does not have the input's shape.
    """
    by_name = {spec.name: spec for spec in specs}
    for name in (*state.values(), *constants):
        if name not in by_name:
            msg = f"state or constants name {name!r}, which is no input; the model takes {_listed(specs)}"
            raise InputMismatchError(msg)
    more = {name: _repeated(_filled(by_name[name], value), samples.n) for name, value in constants.items()}
    more |= {name: _first_states(samples, by_name[name]) for name in state.values()}
    return replace(samples, inputs={**samples.inputs, **more}, initial={})


def _filled(spec: TensorSpec, value: Scalar) -> Array:
    return np.full([size if isinstance(size, int) else 1 for size in spec.shape], value, np.dtype(spec.dtype))


def _repeated(value: Array, n: int) -> Array:
    return np.broadcast_to(value, (n, *value.shape))


def _first_states(samples: Samples, spec: TensorSpec) -> Array:
    given = samples.initial.get(spec.name)
    if given is None:
        return samples.inputs[spec.name] if spec.name in samples.inputs else _repeated(_filled(spec, 0), samples.n)
    if given.ndim == len(spec.shape):
        return _repeated(given, samples.n)
    if given.ndim == len(spec.shape) + 1 and len(given) == samples.n:
        return given
    msg = (
        f"the initial state {spec.name!r} has shape {list(given.shape)}; "
        f"the model takes {describe(spec)}: give one state, or one for each of {samples.n} samples"
    )
    raise InputMismatchError(msg)


def without(samples: Samples, names: Collection[str]) -> Samples:
    """Return samples without the arrays of some inputs."""
    return replace(samples, inputs={name: value for name, value in samples.inputs.items() if name not in names})


def judged(names: Iterable[str], state: Mapping[str, str]) -> tuple[str, ...]:
    """Return the outputs that answer: those that are not fed back, or all where nothing else comes out."""
    listed = tuple(names)
    return tuple(name for name in listed if name not in state) or listed


def fed_back(outputs: Mapping[str, Array], state: Mapping[str, str], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return what the next inference of a sequence takes from this one's outputs, by input.

    Raises:
        InputMismatchError: an output is missing, or is no number of its input's kind.
    """
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in specs}
    if missing := sorted(set(state) - set(outputs)):
        msg = f"state names {missing[0]!r}, which is no output; the model gives {', '.join(sorted(outputs))}"
        raise InputMismatchError(msg)
    return {name: _as_input(outputs[output], name, dtypes[name]) for output, name in state.items()}


def _as_input(value: Array, name: str, dtype: np.dtype[np.generic]) -> Array:
    if value.dtype == dtype:
        return value
    if value.dtype.kind == dtype.kind == "f":
        return value.astype(dtype)
    msg = f"a state of {value.dtype} cannot be fed back into {name!r}, which takes {dtype}"
    raise InputMismatchError(msg)


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(describe(spec) for spec in specs)
