"""The port every runtime implements, and how it says that it cannot do something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from edgefleet_contract.artifact import TensorSpec
from edgefleet_contract.errors import DeviceError
from edgefleet_contract.evidence import PlacementResult
from edgefleet_contract.profile import EngineProbe
from edgefleet_contract.variant import Variant

Array = NDArray[Any]
Feeds = Mapping[str, Array]
"""Model input name → array exactly as the runtime takes it."""


NEVER_RUN = "never run on hardware by us; what it does here, the evidence of each trial shows"
"""Said of an engine that works where nobody of this project has seen it work."""


class LoadFailedError(DeviceError):
    """The runtime refused the model file: damaged, not a model, or inconsistent."""


class UnsupportedError(DeviceError):
    """The device, its runtime or this version cannot run the variant or the model at all."""


class TensorRefusedError(UnsupportedError):
    """A tensor's type, name or shape is one that this version takes on no device: another model is needed."""


class InferenceFailedError(DeviceError):
    """The model loaded, and an inference failed."""


class Session(Protocol):
    """One loaded model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to take."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model declares to give. Declared shapes may lie; run-time shapes are the truth."""
        ...

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Return the outputs by name. Raises InferenceFailedError."""
        ...

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Return a call that infers on `feeds` into preallocated outputs, with as little around it as there can be."""
        ...

    def placement(self) -> PlacementResult | None:
        """Return where operators run, read back from the runtime; None when it does not tell."""
        ...

    def close(self) -> None:
        """Free the model. The session is not used afterwards."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A session whose model may keep something from one inference to the next."""

    def reset(self) -> None:
        """Forget what earlier inferences left behind. Raises LoadFailedError and UnsupportedError."""
        ...


def reset_state(session: Session) -> None:
    """Make a session as fresh as after loading. A session that keeps no state is left alone."""
    if isinstance(session, Stateful):
        session.reset()


@runtime_checkable
class ProbesAlone(Protocol):
    """A runtime some of whose engines run foreign code that may crash the process that starts them."""

    def alone(self) -> tuple[str, ...]:
        """Return the installed engines that are to be started in a process of their own."""
        ...

    def check(self, engine: str) -> str | None:
        """Return why an engine cannot be used, as far as is known without starting it."""
        ...

    def probe_engine(self, engine: str) -> EngineProbe:
        """Return whether one engine works here, by starting it."""
        ...


@runtime_checkable
class TakesOptions(Protocol):
    """A runtime whose engines take options that an artifact carries."""

    def with_options(self, target: str, options: Mapping[str, str]) -> Runtime:
        """Return this runtime with an artifact's options for one `runtime/engine`.

        Raises:
            UnsupportedError: an option is not one that may come from elsewhere, or its value is not allowed.
        """
        ...

    def options_here(self, engine: str) -> dict[str, str]:
        """Return all options an engine is given here, the device's own among them."""
        ...


class Runtime(Protocol):
    """One inference library. One whose engines may crash is a `ProbesAlone` too."""

    @property
    def version(self) -> str:
        """The library's version."""
        ...

    def probe(self) -> tuple[EngineProbe, ...]:
        """Return, for each engine of this runtime, whether it works here and if not, why not."""
        ...

    def load(self, path: Path, *, variant: Variant, threads: int, spinning: bool) -> Session:
        """Load a model file.

        Args:
            path: the model file.
            variant: engine and precision asked for.
            threads: threads inside one operator; operators run one after the other.
            spinning: whether idle threads spin (faster, at several times the CPU and energy) or sleep.

        Raises:
            LoadFailedError: the file is damaged or not a model of this runtime.
            UnsupportedError: the runtime has no kernel, opset or engine for it.
        """
        ...
