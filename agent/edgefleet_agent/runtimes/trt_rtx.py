"""TensorRT-RTX: plans for desktop RTX GPUs, built ahead of time by the controller. Never run on hardware by us."""

from __future__ import annotations

from edgefleet_agent.runtimes.trt import TrtRuntime
from edgefleet_agent.runtimes.trt_module import RTX

RUNTIME = TrtRuntime(RTX)
