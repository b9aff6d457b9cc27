"""Makes a plan of a portable source, on the device that will run it. Never run on hardware by us.

Without a GPU the same code builds with TensorRT-RTX, which the tests do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from edgefleet_agent.runtimes.base import LoadFailedError, UnsupportedError
from edgefleet_agent.runtimes.trt_api import (
    Builder,
    IBuilderConfig,
    IHostMemory,
    INetworkDefinition,
    IOptimizationProfile,
    ITensor,
    OnnxParser,
    OnnxParserFlag,
    ParserError,
    Trt,
)
from edgefleet_agent.runtimes.trt_module import new_logger, said, version_of
from edgefleet_contract.base import clip_reason

logger = logging.getLogger(__name__)

Range = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, usual and largest shape of an input."""
_WORKSPACE_SHARE, _TACTIC_SHARE = 0.25, 0.5
"""Of free memory. By default TensorRT takes what there is for its workspace and 75 % for trying tactics, which on
boards whose 4 to 8 GB host and GPU share leaves nothing for the rest of the system."""
_LEAST_BYTES = 16 * 1024**2
"""The least workspace NVIDIA suggests."""
_ALWAYS_TYPED_SINCE = 11
_OUT_OF_MEMORY = ("OutOfMemory", "out of memory", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class PoolLimits:
    """What building may take of the GPU's memory, in bytes."""

    workspace_bytes: int
    tactic_bytes: int


@dataclass(frozen=True)
class Built:
    """A plan, and how many of the network's layers its builder lets DLA run (0 for a plan of the GPU)."""

    plan: bytes
    layers_n: int
    dla_layers_n: int


def pool_limits(free_bytes: int) -> PoolLimits:
    """Return the limits for a machine with this much free memory, in bytes."""
    workspace = max(_LEAST_BYTES, int(free_bytes * _WORKSPACE_SHARE))
    return PoolLimits(workspace, max(_LEAST_BYTES, int(free_bytes * _TACTIC_SHARE)))


def build_plan(trt: Trt, source: bytes, profiles: Mapping[str, Range], limits: PoolLimits, *, on_dla: bool) -> Built:
    """Return a plan of an ONNX source; its types are the source's own.

    Args:
        trt: TensorRT's module.
        source: the ONNX file.
        profiles: sizes of dynamic inputs.
        limits: what building may take.
        on_dla: whether layers go to DLA core 0 where it takes them, and to the GPU where not.

    Raises:
        UnsupportedError: TensorRT takes a node or the network not; names every node its parser names.
        LoadFailedError: the source carries no sizes for a dynamic input.
        MemoryError: the builder ran out of memory.
    """
    kept = new_logger(trt)
    builder: Builder = trt.Builder(kept)
    if builder is None:
        msg = f"TensorRT makes no builder: {said(kept)}"
        raise UnsupportedError(clip_reason(msg))
    network: INetworkDefinition = builder.create_network(_flags(trt))
    _parse(trt, network, kept, source, on_dla=on_dla)
    config: IBuilderConfig = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32; for speed there is fp16
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limits.workspace_bytes)
    config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, limits.tactic_bytes)
    _add_profile(builder, network, config, profiles)
    dla_layers_n = _use_dla(trt, network, config) if on_dla else 0
    plan: IHostMemory = builder.build_serialized_network(network, config)
    if plan is None:
        raise _not_built(said(kept))
    return Built(bytes(plan), int(network.num_layers), dla_layers_n)


def _flags(trt: Trt) -> int:
    """Return the flags of a network whose types are its own: from version 11 on, every network is one."""
    if version_of(str(trt.__version__))[0] >= _ALWAYS_TYPED_SINCE:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parse(trt: Trt, network: INetworkDefinition, kept: object, source: bytes, *, on_dla: bool) -> None:
    parser: OnnxParser = trt.OnnxParser(network, kept)
    flags: OnnxParserFlag = trt.OnnxParserFlag
    if on_dla and hasattr(flags, "ADJUST_FOR_DLA"):
        parser.set_flag(flags.ADJUST_FOR_DLA)
    if parser.parse(source):
        return
    errors = [_told(parser.get_error(number)) for number in range(parser.num_errors)]
    msg = f"TensorRT's parser refuses {len(errors)} nodes: {'; '.join(errors) or said(kept)}"
    raise UnsupportedError(clip_reason(msg))


def _told(error: ParserError) -> str:
    return f"{error.node_operator()} {error.node_name()!r}: {' '.join(str(error.desc()).split())[:200]}"


def _add_profile(
    builder: Builder, network: INetworkDefinition, config: IBuilderConfig, profiles: Mapping[str, Range]
) -> None:
    inputs: list[ITensor] = [network.get_input(place) for place in range(network.num_inputs)]
    dynamic = [_name(tensor) for tensor in inputs if -1 in _shape(tensor)]
    if not dynamic:
        return
    missing = [name for name in dynamic if name not in profiles]
    if missing:
        msg = f"inputs {', '.join(missing)} have dynamic axes, and the source carries no sizes for them"
        raise LoadFailedError(clip_reason(msg))
    profile: IOptimizationProfile = builder.create_optimization_profile()
    for name in dynamic:
        profile.set_shape(name, *profiles[name])
    config.add_optimization_profile(profile)


def _name(tensor: ITensor) -> str:
    return str(tensor.name)


def _shape(tensor: ITensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _use_dla(trt: Trt, network: INetworkDefinition, config: IBuilderConfig) -> int:
    """Prefer DLA core 0 for every layer, and return how many layers it can run."""
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = 0
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    return sum(bool(config.can_run_on_DLA(network.get_layer(place))) for place in range(network.num_layers))


def _not_built(reason: str) -> Exception:
    if any(sign in reason for sign in _OUT_OF_MEMORY):
        return MemoryError(f"building the plan ran out of memory: {reason}")
    return UnsupportedError(clip_reason(f"TensorRT's builder refuses the model: {reason}"))
