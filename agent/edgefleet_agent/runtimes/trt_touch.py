"""Touches TensorRT's runtime, in a process of its own: where there is no driver, that alone can end the process.

`python -m edgefleet_agent.runtimes.trt_touch` under `edgefleet_contract.child.run_child`; the request is the module's
name. TensorRT's lean and dispatch runtimes 11.4 return an object without a driver, and its next use is a segmentation
fault.
"""

from __future__ import annotations

import json
from importlib import import_module

from edgefleet_agent.runtimes.cuda import lift_address_space_limit
from edgefleet_agent.runtimes.trt_api import Runtime, Trt
from edgefleet_agent.runtimes.trt_module import new_logger, said
from edgefleet_contract.base import clip_reason
from edgefleet_contract.child import serve_child


def handle(request: bytes) -> bytes:
    """Return `{"dla_cores": n}`, or `{"error": reason}` where no runtime can be made."""
    lift_address_space_limit()
    trt: Trt = import_module(request.decode())
    logger = new_logger(trt)
    runtime: Runtime = trt.Runtime(logger)
    if runtime is None:
        return json.dumps({"error": clip_reason(said(logger))}).encode()
    return json.dumps({"dla_cores": int(runtime.num_DLA_cores)}).encode()


if __name__ == "__main__":
    serve_child(handle)
