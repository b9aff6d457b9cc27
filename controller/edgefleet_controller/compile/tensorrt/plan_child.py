"""One attempt to build a plan: the child's side of `trt_plan`.

The request is JSON: `model` and `out` (paths), `profiles`, `sms`. The plan is written to `out`; the answer's
`said` is the builder's reason where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgefleet_contract.child import serve_child
from edgefleet_controller.compile.tensorrt import vendor as trt_vendor
from edgefleet_controller.compile.tensorrt.profile import Profiles
from edgefleet_controller.compile.tensorrt.vendor import Vendor

_REASON_CHARS = 300


def handle(request: bytes) -> bytes:
    """Build, and return what the builder said where it gave no plan."""
    asked = json.loads(request)
    vendor = trt_vendor.load()
    plan, said = serialize(vendor, Path(asked["model"]).read_bytes(), asked["profiles"], asked["sms"])
    if plan is not None:
        Path(asked["out"]).write_bytes(plan)
    return json.dumps({"said": said}).encode()


def serialize(vendor: Vendor, model: bytes, profiles: Profiles, sms: Sequence[int]) -> tuple[bytes | None, str]:
    """Return the plan, or None and what the builder said."""
    logger = trt_vendor.new_logger(vendor)
    builder = vendor.Builder(logger)
    network = trt_vendor.new_network(vendor, builder)
    parser = vendor.OnnxParser(network, logger)
    if not parser.parse(model):
        return None, _said(logger.errors)
    config = builder.create_builder_config()
    config.clear_flag(vendor.BuilderFlag.TF32)  # float32 means float32; for speed there is fp16
    config.num_compute_capabilities = len(sms)
    for place, sm in enumerate(sms):
        config.set_compute_capability(getattr(vendor.ComputeCapability, f"SM{sm}"), place)
    if profiles:
        profile = builder.create_optimization_profile()
        for name, sizes in profiles.items():
            profile.set_shape(name, *sizes)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return (None, _said(logger.errors)) if plan is None else (bytes(plan), "")


def _said(errors: Sequence[str]) -> str:
    said = trt_vendor.about_the_model(errors)
    return trt_vendor.tidy(said[-1])[:_REASON_CHARS] if said else "no reason given"


if __name__ == "__main__":
    serve_child(handle)
