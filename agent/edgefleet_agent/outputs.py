"""Runs a session over samples, the same way on builder and device, so outputs can be compared one by one.

How samples become inferences is read from shapes, never from names:

- An input whose samples have as many axes as the input declares is *batched*: its first axis is the sample. An input
  that declares one axis fewer (a scalar rate, a state tensor) takes one whole sample per inference.
- Inferences take one sample where every input is batched with a first axis that is dynamic or 1, or where any input
  takes whole samples. A fixed first axis of B > 1 takes B samples per inference, which must divide their number.
- A state (an output that is fed back into an input) begins each sequence as the samples have it; every later inference
  takes what the one before gave. A session is as fresh as after loading at the start of each sequence.
- An output whose first axis equals the number of samples in the inference is concatenated; any other (sequence
  first, scalar) is stacked along a new first axis. Run-time shapes decide; declared ones may lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgefleet_agent.feeding import fed_back, judged
from edgefleet_agent.preprocess import InputMismatchError, check_names, describe, prepare
from edgefleet_agent.runtimes.base import Array, Session, reset_state
from edgefleet_agent.samples import Samples
from edgefleet_contract.artifact import InputTransform, TensorSpec
from edgefleet_contract.errors import DeviceError


class TimeboxError(DeviceError):
    """Running all samples took longer than allowed."""


@dataclass(frozen=True)
class Feeder:
    """Makes the feeds of one inference out of raw samples.

    Attributes:
        samples: raw samples.
        specs: the model's inputs.
        transforms: preprocessing by input.
        batch_n: samples per inference.
        whole: inputs that take one whole sample, without a sample axis.
        state: output → input it is fed back into; empty takes every state from the samples.
    """

    samples: Samples
    specs: tuple[TensorSpec, ...]
    transforms: Mapping[str, InputTransform]
    batch_n: int
    whole: frozenset[str]
    state: Mapping[str, str] = field(default_factory=dict)

    def feeds(self, start: int) -> dict[str, Array]:
        """Return the feeds of the inference that begins with sample `start`.

        Raises:
            InputMismatchError: prepared samples do not have the shape the model declares.
        """
        raw = self.samples.slice(start, start + self.batch_n)
        return {spec.name: self._feed(raw[spec.name], spec) for spec in self.specs}

    def _feed(self, raw: Array, spec: TensorSpec) -> Array:
        ready = prepare(raw, spec, self.transforms.get(spec.name))
        ready = ready[0] if spec.name in self.whole else ready
        axes = zip(ready.shape, spec.shape, strict=False)
        if ready.ndim != len(spec.shape) or any(isinstance(want, int) and got != want for got, want in axes):
            msg = (
                f"samples of {spec.name!r} give {list(ready.shape)} per inference; the model takes {describe(spec)}; "
                "change the samples or declare `preprocess` with a layout"
            )
            raise InputMismatchError(msg)
        return np.asarray(ready, order="C")


def make_feeder(
    samples: Samples,
    specs: Sequence[TensorSpec],
    transforms: Mapping[str, InputTransform],
    state: Mapping[str, str] | None = None,
) -> Feeder:
    """Decide how samples become inferences and check that they fit.

    Raises:
        InputMismatchError: names, shapes or dtypes do not fit; says what the model takes.
    """
    check_names(samples.inputs, specs, transforms)
    one = {spec.name: prepare(samples.inputs[spec.name][:1], spec, transforms.get(spec.name)) for spec in specs}
    whole = frozenset(spec.name for spec in specs if len(spec.shape) == one[spec.name].ndim - 1)
    batch_n = 1 if whole else _fixed_batch(specs)
    if samples.n % batch_n:
        msg = f"the model takes {batch_n} samples at a time, which does not divide {samples.n} samples"
        raise InputMismatchError(msg)
    feeder = Feeder(samples, tuple(specs), transforms, batch_n, whole, state or {})
    feeder.feeds(0)
    return feeder


def _fixed_batch(specs: Sequence[TensorSpec]) -> int:
    firsts = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
    if len(firsts) > 1:
        takes = ", ".join(describe(spec) for spec in specs)
        msg = f"the inputs have different fixed first axes, so samples cannot be dealt out; the model takes {takes}"
        raise InputMismatchError(msg)
    return max(1, *firsts) if firsts else 1


def run_samples(
    session: Session, feeder: Feeder, *, limit_s: float, monotonic_s: Callable[[], float]
) -> dict[str, Array]:
    """Return the outputs of all samples by name, first axis = sample.

    Where states are fed back, of the outputs only those that `feeding.judged` names: a state after many steps holds
    every rounding before it, and what it is for shows in the answers.

    Args:
        session: the model.
        feeder: the samples.
        limit_s: wall time after which it gives up.
        monotonic_s: the clock.

    Raises:
        TimeboxError: the limit passed.
        InferenceFailedError: an inference failed.
        InputMismatchError: an output changes its shape from sample to sample.
    """
    deadline_s = monotonic_s() + limit_s
    starts = feeder.samples.starts
    carried: dict[str, Array] = {}
    runs: list[dict[str, Array]] = []
    for start in range(0, feeder.samples.n, feeder.batch_n):
        if monotonic_s() > deadline_s:
            msg = f"{start} of {feeder.samples.n} samples ran in {limit_s:g} s; allowed time is over"
            raise TimeboxError(msg)
        if not starts.isdisjoint(range(start, start + feeder.batch_n)):
            reset_state(session)
            carried = {}
        found = session.run({**feeder.feeds(start), **carried})
        carried = fed_back(found, feeder.state, feeder.specs)
        runs.append({name: found[name] for name in judged(found, feeder.state)})
    return {name: _join(name, [run[name] for run in runs], feeder.batch_n) for name in runs[0]}


def _join(name: str, parts: list[Array], batch_n: int) -> Array:
    shapes = {part.shape for part in parts}
    if len(shapes) != 1:
        msg = f"output {name!r} changes its shape from sample to sample ({sorted(shapes)[:3]} …); that is not supported"
        raise InputMismatchError(msg)
    first = parts[0]
    return np.concatenate(parts) if first.ndim and first.shape[0] == batch_n else np.stack(parts)
