"""TensorRT 10.3 to 11.4 and TensorRT-RTX behind the runtime port: one adapter, with the library's module injected.

Never run on hardware by us: the ladder, the plan build and the names are tested without a GPU, execution is not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from pathlib import Path

from edgefleet_agent import onnx_scan
from edgefleet_agent.runtimes import cuda
from edgefleet_agent.runtimes.base import LoadFailedError, UnsupportedError
from edgefleet_agent.runtimes.cuda import Cuda
from edgefleet_agent.runtimes.trt_api import Trt
from edgefleet_agent.runtimes.trt_build import Built, build_plan, pool_limits
from edgefleet_agent.runtimes.trt_cache import PlanCache, PlanKey, default_folder, profiles_from
from edgefleet_agent.runtimes.trt_module import TENSORRT, Flavour, find_version
from edgefleet_agent.runtimes.trt_probe import Broken, Ports, Ready, climb
from edgefleet_agent.runtimes.trt_session import TrtSession
from edgefleet_contract.evidence import PlacementResult
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_contract.trt_plan import PlanHeaderError, read_header
from edgefleet_contract.variant import ENGINES, Variant

logger = logging.getLogger(__name__)

PROFILES_KEY = "edgefleet.trt.profiles"
"""The note of a source that holds its profiles."""
_DLA_REASON = (
    "TensorRT sees no DLA core; Jetson AGX Orin, Orin NX and Xavier have them (Orin Nano and Thor do not), and "
    "TensorRT 10.3 to 10.7 and 11.4.1 or newer use them"
)


class TrtRuntime:
    """TensorRT or TensorRT-RTX.

    Args:
        flavour: which of the two.
        ports: what the machine is asked through.
        cache: where plans built here are kept; default: the user's cache folder.
    """

    def __init__(
        self, flavour: Flavour, ports: Ports | None = None, cache: Callable[[], PlanCache] | None = None
    ) -> None:
        self._flavour = flavour
        self._ports = ports or Ports()
        self._cache = cache or (lambda: PlanCache(default_folder()))

    @property
    def version(self) -> str:
        """The library's version. Raises NotInstalledError and DoesNotImportError."""
        return find_version(self._flavour, self._ports.ask)[1]

    @cached_property
    def ladder(self) -> Ready | Broken:
        """Whether it works here, found out once for this process."""
        return climb(self._flavour, self._ports)

    def probe(self) -> tuple[EngineProbe, ...]:
        """Return what works here, engine by engine."""
        return tuple(self._probe(engine) for engine in ENGINES[self._flavour.runtime])

    def _probe(self, engine: str) -> EngineProbe:
        target, found = f"{self._flavour.runtime}/{engine}", self.ladder
        if isinstance(found, Broken):
            return EngineProbe(target=target, status=found.status, version=found.version, reason=found.reason)
        if engine == "dla" and found.dla_cores_n == 0:
            return EngineProbe(target=target, status=ProbeStatus.MISSING, version=found.version, reason=_DLA_REASON)
        return EngineProbe(target=target, status=ProbeStatus.AVAILABLE, version=found.version)

    def load(self, path: Path, *, variant: Variant, threads: int, spinning: bool) -> TrtSession:  # noqa: ARG002
        """Load a plan, or make one of a portable source first. Arguments and errors as `Runtime.load`.

        `threads` and `spinning` are of no use to a GPU.
        """
        found = self.ladder
        if isinstance(found, Broken):
            raise UnsupportedError(found.reason)
        cuda.lift_address_space_limit()
        trt: Trt = import_module(found.module)
        device = Cuda(cuda.load_cudart(self._ports.load))
        data = path.read_bytes()
        on_dla = variant.engine == "dla"
        if not is_plan(data):
            if self._flavour is not TENSORRT:
                msg = f"{path.name} is no plan; {variant} takes plans built ahead of time (fleet build)"
                raise LoadFailedError(msg)
            built = self._built(trt, device, found, path, data, on_dla=on_dla)
        else:
            built = Built(data, 0, 0)
        check_header(built.plan, self._flavour.runtime, found.version)
        return TrtSession(trt, device, built.plan, placement_of(built, on_dla=on_dla))

    def _built(self, trt: Trt, device: Cuda, found: Ready, path: Path, source: bytes, *, on_dla: bool) -> Built:
        """Return the source's plan, from the cache or new."""
        key, cache = PlanKey.of(source, found.version, found.gpu, on_dla=on_dla), self._cache()
        known = cache.find(key)
        if known is not None:
            return known
        limits = pool_limits(_free_bytes(device, found))
        logger.info("building a plan of %s for %s within %s", path.name, found.gpu, limits)
        profiles = profiles_from(onnx_scan.metadata(path).get(PROFILES_KEY))
        built = build_plan(trt, source, profiles, limits, on_dla=on_dla)
        cache.keep(key, built)
        return built


RUNTIME = TrtRuntime(TENSORRT)


def is_plan(data: bytes) -> bool:
    """Return whether bytes are a serialised plan of either library."""
    try:
        read_header(data)
    except PlanHeaderError:
        return False
    return True


def check_header(plan: bytes, runtime: str, version: str) -> None:
    """Refuse a plan of another library or version, before the library sees it.

    Raises:
        LoadFailedError: it has no header.
        UnsupportedError: another library or another version wrote it.
    """
    try:
        header = read_header(plan)
    except PlanHeaderError as error:
        raise LoadFailedError(f"not a plan: {error}") from error
    if header.runtime != runtime or not header.matches(version):
        msg = f"the plan was written by {header.runtime} {header.version}; this device has {runtime} {version}"
        raise UnsupportedError(msg)


def placement_of(built: Built, *, on_dla: bool) -> PlacementResult | None:
    """Return where a plan's layers run.

    A plan without DLA runs on the GPU as a whole. With DLA, its builder told layer by layer; what it then fused is not
    told. None for a plan whose build nobody watched.
    """
    if not on_dla:
        nodes_n = max(1, built.layers_n)
        return PlacementResult(accelerated=1.0, nodes={"GPU": nodes_n}, source="a plan without DLA is the GPU's")
    if built.layers_n == 0:
        return None
    nodes = {"DLA": built.dla_layers_n, "GPU": built.layers_n - built.dla_layers_n}
    source = "IBuilderConfig.can_run_on_DLA while the plan was built"
    return PlacementResult(accelerated=built.dla_layers_n / built.layers_n, nodes=nodes, source=source)


def _free_bytes(device: Cuda, found: Ready) -> int:
    """Return the memory a build may count on: on a board that shares it, no more than the host has available."""
    free_bytes = device.free_bytes()
    if not found.gpu.integrated:
        return free_bytes
    import psutil

    return min(free_bytes, int(psutil.virtual_memory().available))
