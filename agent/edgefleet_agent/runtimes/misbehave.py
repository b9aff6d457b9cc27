"""A runtime that misbehaves on purpose, for rigs and tests: the variant's engine names the fault.

It is offered only where a job says `test_runtimes`. Everything but `wrong` happens while loading, which is where a
damaged file or a bad driver usually strikes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgefleet_agent.runtimes.base import Array, Feeds, Session
from edgefleet_agent.runtimes.wrapping import Wrapping
from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.faults import FAULTS
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_contract.variant import ENGINES, Variant, parse_variant


class MisbehaveRuntime:
    """Faults on demand."""

    @property
    def version(self) -> str:
        """There is one version."""
        return "1"

    def probe(self) -> tuple[EngineProbe, ...]:
        """Return every fault as available."""
        return tuple(
            EngineProbe(target=f"misbehave/{engine}", status=ProbeStatus.AVAILABLE, version=self.version)
            for engine in ENGINES["misbehave"]
        )

    def load(self, path: Path, *, variant: Variant, threads: int, spinning: bool) -> Session:
        """Commit the fault the engine names; `wrong` loads, and computes wrong outputs."""
        if variant.engine == "wrong":
            return WrongSession(_load_truly(path, variant, threads, spinning=spinning))
        return FAULTS[variant.engine]()


class WrongSession(Wrapping):
    """A sound session whose first output class is dead: the fault a broken delegate shows."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to take."""
        return self._inner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to give."""
        return self._inner.outputs

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the true outputs with the first entry of the last axis set to zero."""
        altered = {name: value.copy() for name, value in self._inner.run(feeds).items()}
        for value in altered.values():
            if value.ndim:
                value[..., 0] = 0
        return altered

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return the sound session's call: its timing is not the fault."""
        return self._inner.bind(feeds)


def _load_truly(path: Path, variant: Variant, threads: int, *, spinning: bool) -> Session:
    from edgefleet_agent.runtimes.ort import RUNTIME as ORT

    return ORT.load(path, variant=parse_variant(f"ort/cpu/{variant.precision}"), threads=threads, spinning=spinning)


RUNTIME = MisbehaveRuntime()
