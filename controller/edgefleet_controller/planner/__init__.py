"""The planner: values in, values out. No input or output, no clock, no logger."""

from __future__ import annotations

from edgefleet_controller.planner.facts import BuilderFacts, DeviceFacts, ModelFacts
from edgefleet_controller.planner.planning import DEFAULT_CHAINS, Build, DevicePlan, ModelPlan, Plan, plan
from edgefleet_controller.planner.selection import PlanError
from edgefleet_controller.planner.wish import (
    Action,
    Artifacts,
    DesiredPlan,
    DeviceWish,
    ModelAction,
    actions_for,
    desired_for,
)

__all__ = [
    "DEFAULT_CHAINS",
    "Action",
    "Artifacts",
    "Build",
    "BuilderFacts",
    "DesiredPlan",
    "DeviceFacts",
    "DevicePlan",
    "DeviceWish",
    "ModelAction",
    "ModelFacts",
    "ModelPlan",
    "Plan",
    "PlanError",
    "actions_for",
    "desired_for",
    "plan",
]
