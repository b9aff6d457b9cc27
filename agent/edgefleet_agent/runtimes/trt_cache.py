"""Plans this device has built, so that a model is not built again at each start.

A plan is good for one source, one TensorRT to the build number, and one kind of GPU; all of that is its key, as its own
header says less. The folder is bounded, and what is damaged in it is built again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from edgefleet_agent.runtimes.cuda import GpuInfo
from edgefleet_agent.runtimes.trt_build import Built
from edgefleet_contract.base import ByteCount, Digest, Record, canonical_json, digest_bytes, hex_of
from edgefleet_contract.trt_plan import PlanHeaderError, read_header

logger = logging.getLogger(__name__)

CACHE_ENV = "EDGEFLEET_PLAN_CACHE"
"""Folder of the cache; default: `edgefleet/plans` in the user's cache folder."""
MAX_PLANS, MAX_BYTES = 16, 4 * 1024**3
"""The least recently used plans go first beyond these."""
_MAX_NOTE_BYTES = 64 * 1024


class _Note(Record):
    """What is kept beside a plan; the GPU it is for does not stand in its header."""

    digest: Digest
    size_bytes: ByteCount
    layers_n: int = Field(ge=0)
    dla_layers_n: int = Field(ge=0)
    made_for: dict[str, str | int | bool]


@dataclass(frozen=True)
class PlanKey:
    """Everything that decides whether a plan fits."""

    source: str
    version: str
    gpu: GpuInfo
    on_dla: bool

    @classmethod
    def of(cls, source: bytes, version: str, gpu: GpuInfo, *, on_dla: bool) -> PlanKey:
        """Return the key of a plan of `source`, an ONNX file."""
        return cls(digest_bytes(source), version, gpu, on_dla)

    @property
    def parts(self) -> dict[str, str | int | bool]:
        """Return the key's parts by name."""
        return {
            "source": self.source,
            "tensorrt": self.version,
            "gpu": self.gpu.name,
            "sm": self.gpu.sm,
            "dla": self.on_dla,
        }

    @property
    def stem(self) -> str:
        """Return the name of its files without suffix."""
        return hex_of(digest_bytes(canonical_json(self.parts)))


def default_folder() -> Path:
    """Return the cache's folder."""
    given = os.environ.get(CACHE_ENV)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "edgefleet", "plans")


class PlanCache:
    """Plans in a folder. A cache that cannot be read or written is no error: the plan is built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: PlanKey) -> Built | None:
        """Return the plan of a key, checked by its digest and header; None where there is none or it is damaged."""
        plan, note = self._paths(key)
        try:
            if note.stat().st_size > _MAX_NOTE_BYTES:
                return None
            told = _Note.model_validate_json(note.read_bytes())
            if plan.stat().st_size != told.size_bytes:
                return None
            data = plan.read_bytes()
            fits = read_header(data).matches(key.version)
        except (OSError, ValidationError, PlanHeaderError):
            return None
        if not fits or told.made_for != key.parts or digest_bytes(data) != told.digest:
            logger.warning("the cached plan %s is damaged and is built again", plan.name)
            return None
        with contextlib.suppress(OSError):
            os.utime(plan)
        return Built(data, told.layers_n, told.dla_layers_n)

    def keep(self, key: PlanKey, built: Built) -> None:
        """Keep a plan, and drop the least recently used ones beyond the bounds."""
        plan, note = self._paths(key)
        told = _Note(
            digest=digest_bytes(built.plan),
            size_bytes=len(built.plan),
            layers_n=built.layers_n,
            dla_layers_n=built.dla_layers_n,
            made_for=key.parts,
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(plan, built.plan)
            _replace(note, told.canonical_json())
            self._bound(plan)
        except OSError as error:
            logger.warning("the plan is not kept: %s", error)

    def _paths(self, key: PlanKey) -> tuple[Path, Path]:
        return self._folder / f"{key.stem}.plan", self._folder / f"{key.stem}.json"

    def _bound(self, newest: Path) -> None:
        plans = sorted(self._folder.glob("*.plan"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        plans.sort(key=lambda path: path != newest)  # stable: the one just made comes first whatever the clock says
        total_bytes = 0
        for place, path in enumerate(plans):
            total_bytes += path.stat().st_size
            if place and (place >= MAX_PLANS or total_bytes > MAX_BYTES):
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def profiles_from(note: str | None) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Return the profiles a source carries in its notes; none where it carries none or they are damaged."""
    try:
        found = json.loads(note or "{}")
        return {
            str(name): (_sizes(smallest), _sizes(usual), _sizes(largest))
            for name, (smallest, usual, largest) in found.items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def _sizes(values: list[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
