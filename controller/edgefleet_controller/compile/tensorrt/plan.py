"""Builds plans with TensorRT-RTX, which needs no GPU for it; each attempt in a process of its own.

Equal inputs give equal bytes only where no earlier build of the process has failed (measured with 1.7.1: a plan built
after a refused one was 80 % larger), and a builder that crashes is a reason, not the end of the build step.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.child import ChildLimits, run_child
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.tensorrt.profile import Profiles

DEFAULT_SMS = (86, 89, 120)
"""GPU generations a plan is made for unless a manifest says others: Ampere, Ada and Blackwell of desktops and laptops.
TensorRT-RTX 1.7 also names 75, 80 and 121; not Orin (87), Hopper (90) or Thor (110)."""
CHILD_ARGV = (sys.executable, "-m", "edgefleet_controller.compile.tensorrt.plan_child")
_LIMITS = ChildLimits(timeout_s=600.0, memory_bytes=7 * 1024**3)
"""3 million parameters took half a second and 300 MB."""
_NAMED_SM = re.compile(r"\(SM(\d+)\)")


@dataclass(frozen=True)
class Plan:
    """A serialised plan, the generations it runs on, and why others were left out."""

    data: bytes
    sms: tuple[int, ...]
    refused: dict[int, str]


def build_plan(model: Path, profiles: Profiles, work_dir: Path, sms: Sequence[int] = DEFAULT_SMS) -> Plan:
    """Return one plan for several GPU generations. Equal inputs give equal bytes.

    A generation that refuses the model (SM 75 has no float32 matrix product) is left out with its reason.

    Args:
        model: an ONNX file NVIDIA's parser takes.
        profiles: sizes of dynamic inputs.
        work_dir: for the plan on its way.
        sms: compute capabilities, as 10 * major + minor.

    Raises:
        CompileFaultError: no generation takes the model.
    """
    left = tuple(sms)
    refused: dict[int, str] = {}
    while True:
        data, said = _attempt(model, profiles, work_dir / "trt.plan", left)
        if data is not None:
            return Plan(data, left, refused)
        culprit = _culprit(said, left)
        if culprit is None:
            raise CompileFaultError(
                "variant",
                f"TensorRT-RTX takes the model's operators, but builds it for no GPU: {said}",
                family="unsupported",
            )
        refused[culprit] = said
        left = tuple(sm for sm in left if sm != culprit)


def _attempt(model: Path, profiles: Profiles, out: Path, sms: Sequence[int]) -> tuple[bytes | None, str]:
    """Return the plan, or None and why there is none."""
    out.unlink(missing_ok=True)
    request = {"model": str(model), "out": str(out), "profiles": profiles, "sms": list(sms)}
    outcome = run_child(CHILD_ARGV, json.dumps(request).encode(), _LIMITS)
    if outcome.answer is None:
        return None, f"its builder {outcome.reason}"
    return (out.read_bytes(), "") if out.exists() else (None, str(json.loads(outcome.answer)["said"]))


def _culprit(said: str, sms: Sequence[int]) -> int | None:
    """Return the generation a refusal names, where others are left without it."""
    named = _NAMED_SM.search(said)
    return int(named[1]) if named and int(named[1]) in sms and len(sms) > 1 else None
