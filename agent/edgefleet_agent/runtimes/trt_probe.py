"""The ladder of what TensorRT needs, climbed from what cannot harm to what can; each rung that breaks says why.

Module and library, driver and device, version, and only then the runtime itself, in a process of its own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from edgefleet_agent.runtimes import cuda
from edgefleet_agent.runtimes.cuda import Cuda, CudaError, CudaMissingError, GpuInfo, Loader
from edgefleet_agent.runtimes.trt_module import (
    Asker,
    DoesNotImportError,
    Flavour,
    NotInstalledError,
    find_version,
    import_and_ask,
    version_of,
)
from edgefleet_contract.base import MAX_REASON_CHARS, Record, clip_reason
from edgefleet_contract.child import ChildEnd, ChildLimits, ChildOutcome, run_child
from edgefleet_contract.profile import ProbeStatus

TOUCH_ARGV = (sys.executable, "-m", "edgefleet_agent.runtimes.trt_touch")
TOUCH_LIMITS = ChildLimits(timeout_s=60.0, memory_bytes=2 * 1024**3)
"""A CUDA context of a Jetson takes several hundred MiB of its shared memory."""


class Rung(str, Enum):
    """What is asked, in this order."""

    MODULE = "module"
    LIBRARY = "library"
    DRIVER = "driver"
    DEVICE = "device"
    VERSION = "version"
    RUNTIME = "runtime"


@dataclass(frozen=True)
class Broken:
    """The rung that did not hold, and what that means for the engine."""

    rung: Rung
    status: ProbeStatus
    reason: str
    version: str | None = None


@dataclass(frozen=True)
class Ready:
    """Everything holds.

    Attributes:
        module: the module's name.
        version: the library's.
        gpu: the first device.
        dla_cores_n: DLA cores TensorRT sees; 0 where the device or this version has none.
    """

    module: str
    version: str
    gpu: GpuInfo
    dla_cores_n: int


def touch(module: str) -> ChildOutcome:
    """Make a runtime of a module in a child process."""
    return run_child(TOUCH_ARGV, module.encode(), TOUCH_LIMITS)


@dataclass(frozen=True)
class Ports:
    """What the ladder asks the machine through.

    Attributes:
        ask: imports a Python module by name and returns its version.
        load: loads a shared library.
        touch: makes a runtime of a module in a process of its own.
    """

    ask: Asker = import_and_ask
    load: Loader = ctypes.CDLL
    touch: Callable[[str], ChildOutcome] = touch


def climb(flavour: Flavour, ports: Ports) -> Ready | Broken:
    """Return whether TensorRT works here, or the first rung that does not hold."""
    try:
        name, version = find_version(flavour, ports.ask)
    except NotInstalledError as error:
        return Broken(Rung.MODULE, ProbeStatus.MISSING, str(error))
    except DoesNotImportError as error:
        return Broken(Rung.LIBRARY, ProbeStatus.BROKEN, clip_reason(str(error)))
    gpu = find_gpu(ports.load)
    if isinstance(gpu, Broken):
        return Broken(gpu.rung, gpu.status, gpu.reason, version)
    if version_of(version) < flavour.least:
        least = ".".join(map(str, flavour.least))
        reason = f"{name} {version} is too old: {least} or newer is needed; {flavour.install}"
        return Broken(Rung.VERSION, ProbeStatus.MISSING, reason, version)
    cores_n = _touched(name, ports.touch(name))
    if isinstance(cores_n, str):
        return Broken(Rung.RUNTIME, ProbeStatus.BROKEN, clip_reason(cores_n), version)
    return Ready(name, version, gpu, cores_n)


def find_gpu(load: Loader) -> GpuInfo | Broken:
    """Return the first GPU, or why there is none."""
    try:
        library = cuda.load_cudart(load)
    except CudaMissingError as error:
        if cuda.has_driver(load):
            return Broken(Rung.LIBRARY, ProbeStatus.MISSING, f"{error}; install the CUDA runtime (cuda-cudart)")
        reason = f"there is no NVIDIA driver: {cuda.DRIVER} is not installed"
        return Broken(Rung.DRIVER, ProbeStatus.MISSING, reason)
    device = Cuda(library)
    try:
        count_n = device.device_count()
        return device.device() if count_n else Broken(Rung.DEVICE, ProbeStatus.MISSING, "CUDA finds no GPU")
    except CudaError as error:
        return _without_gpu(error, has_driver=cuda.has_driver(load))


def _without_gpu(error: CudaError, *, has_driver: bool) -> Broken:
    if error.code == cuda.NO_DEVICE:
        return Broken(Rung.DEVICE, ProbeStatus.MISSING, f"CUDA finds no GPU ({error})")
    if not has_driver:
        reason = f"there is no NVIDIA driver: {cuda.DRIVER} is not installed ({error})"
        return Broken(Rung.DRIVER, ProbeStatus.MISSING, reason)
    if error.code == cuda.DRIVER_TOO_OLD:
        reason = f"the NVIDIA driver is older than the installed CUDA runtime needs ({error})"
        return Broken(Rung.DRIVER, ProbeStatus.BROKEN, reason)
    return Broken(Rung.DRIVER, ProbeStatus.BROKEN, clip_reason(f"CUDA does not start: {error}"))


class _TouchAnswer(Record):
    """What the child says: DLA cores, or why there is no runtime."""

    dla_cores: Annotated[int, Field(ge=0, le=64)] = 0
    error: str | None = Field(default=None, max_length=MAX_REASON_CHARS)

    @model_validator(mode="after")
    def _says_something(self) -> _TouchAnswer:
        if not self.model_fields_set:
            raise ValueError("neither dla_cores nor error")
        return self


def _touched(module: str, outcome: ChildOutcome) -> int | str:
    """Return the number of DLA cores, or why no runtime can be made."""
    if outcome.end is not ChildEnd.ANSWERED or outcome.answer is None:
        return f"making a {module} runtime in a process of its own: it {outcome.reason}"
    try:
        answer = _TouchAnswer.model_validate_json(outcome.answer)
    except ValidationError:
        return f"making a {module} runtime in a process of its own: it answered what is no answer"
    return f"{module} makes no runtime: {answer.error}" if answer.error is not None else answer.dla_cores
