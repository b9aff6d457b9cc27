"""Every file of tests/plans is one case: manifest + devices + facts → plan (or its error) → what devices are told."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from edgefleet_contract.accept import MetricAccept
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState, release_digest
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.manifest import AcceptSpec, Manifest
from edgefleet_contract.profile import EngineProbe, ProbeStatus, Profile
from edgefleet_contract.report import Tried
from edgefleet_controller.load.document import parse_document
from edgefleet_controller.load.nodes import plain
from edgefleet_controller.planner import (
    BuilderFacts,
    DesiredPlan,
    DeviceFacts,
    ModelFacts,
    Plan,
    PlanError,
    actions_for,
    desired_for,
    plan,
)

CASES = sorted((Path(__file__).parent.parent / "plans").glob("*.yaml"))
BUILDABLE = ["ort/cpu/fp32", "ort/cpu/int8", "ort/cpu/int8-dynamic"]
Case = dict[str, Any]


def read_case(path: Path) -> Case:
    case = plain(parse_document(path.read_text(), str(path)))
    assert isinstance(case, dict)
    allowed = {"why", "manifest", "devices", "builder", "models", "current", "outcomes", "prune", "expect"}
    assert set(case) <= allowed
    return case


def facts_of(entry: Case) -> DeviceFacts:
    probes = [EngineProbe(target=target, status=ProbeStatus.AVAILABLE) for target in entry.get("engines", ["ort/cpu"])]
    probes += [
        EngineProbe(target=target, status=ProbeStatus.MISSING, reason=reason)
        for target, reason in entry.get("missing", {}).items()
    ]
    profile = Profile(
        device=entry["device"],
        site=entry.get("site", "default"),
        agent_version="0.1.0",
        arch=entry.get("arch", "x86_64"),
        os=entry.get("os", "linux"),
        kernel="6.1",
        python_version="3.11.2",
        cpu_model="a cpu",
        cpu_count=2,
        memory_bytes=8 * 1024**3,
        disk_free_bytes=1024**3,
        engines=tuple(probes),
        labels=entry.get("labels", {}),
    )
    return DeviceFacts(profile, entry.get("given", {}))


def candidate(model: str, variant: str) -> Candidate:
    digest = "sha256:" + hashlib.sha256(f"{model} {variant}".encode()).hexdigest()
    return Candidate(variant=variant, artifact=digest, document_bytes=900, total_bytes=100_000)


def held_model(model: str, entry: Case) -> DesiredModel:
    chain = tuple(candidate(model, variant) for variant in entry["chain"])
    accept = AcceptSpec().resolve(MetricAccept())
    choose = entry.get("choose", "first")
    release = release_digest(model, chain, choose, accept, None)
    return DesiredModel(model=model, release=release, chain=chain, choose=choose, accept=accept)


def held_state(device: str, entry: Case) -> DesiredState:
    models = tuple(held_model(model, wish) for model, wish in entry["models"].items())
    return DesiredState(
        site="default", device=device, generation=entry["generation"], revision=1, issued_at_ns=1, models=models
    )


def plan_of(case: Case) -> Plan:
    manifest = Manifest.model_validate(case["manifest"])
    given = case.get("models", {})
    models = {
        name: ModelFacts(
            has_labels=str(given.get(name, {}).get("labels", "true")) == "true",
            n_samples=100,
            own_chains=given.get(name, {}).get("own_chains"),
        )
        for name in manifest.models
    }
    devices = [facts_of(entry) for entry in case["devices"]]
    return plan(manifest, devices, BuilderFacts(frozenset(case.get("builder", BUILDABLE))), models)


def outcomes_of(case: Case, made: Plan) -> dict[tuple[str, str], Candidate | Tried]:
    failed = case.get("outcomes", {})
    return {
        (build.model, build.variant): (
            Tried(variant=build.variant, verdict=Verdict.BUILD_FAILED, reason=failed[f"{build.model} {build.variant}"])
            if f"{build.model} {build.variant}" in failed
            else candidate(build.model, build.variant)
        )
        for build in made.builds
    }


def desired_of(case: Case, made: Plan) -> DesiredPlan:
    current = {device: held_state(device, entry) for device, entry in case.get("current", {}).items()}
    artifacts = outcomes_of(case, made)
    return desired_for(made, artifacts, current, revision=7, issued_at_ns=99, prune=case.get("prune", False))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_plan_is_as_the_case_says(path: Path) -> None:
    case = read_case(path)
    expect = case["expect"]
    if "error" in expect:
        _assert_error(case, expect["error"])
        return
    made = plan_of(case)
    if "builds" in expect:
        assert [f"{build.model} {build.variant}" for build in made.builds] == expect["builds"]
    _assert_devices(made, expect.get("devices", {}))
    if "told" in expect:
        _assert_told(desired_of(case, made), expect["told"])


def _assert_error(case: Case, expect: Case) -> None:
    with pytest.raises(PlanError) as caught:
        desired_of(case, plan_of(case))
    assert list(caught.value.path) == expect["path"]
    for words in expect["says"]:
        assert words in str(caught.value)


def _assert_devices(made: Plan, expect: Case) -> None:
    parts = {part.device: {model.model: model for model in part.models} for part in made.devices}
    for device, models in expect.items():
        assert set(parts[device]) == set(models), device
        for name, wanted in models.items():
            part = parts[device][name]
            assert list(part.chain) == wanted["chain"], (device, name)
            skipped = {tried.variant: tried.reason for tried in part.skipped}
            assert set(skipped) == set(wanted.get("skipped", {})), (device, name)
            assert all(words in skipped[variant] for variant, words in wanted.get("skipped", {}).items())
            assert all(tried.verdict is Verdict.UNSUPPORTED for tried in part.skipped)
            assert "choose" not in wanted or part.choose.value == wanted["choose"]
            assert (
                "max_drop" not in wanted or (part.accept.metric and part.accept.metric.max_drop) == wanted["max_drop"]
            )
            assert "p95_ms" not in wanted or part.accept.latency.p95_ms == wanted["p95_ms"]
            assert "task" not in wanted or (part.task and part.task.value) == wanted["task"]


def _assert_told(desired: DesiredPlan, expect: Case) -> None:
    for wish in desired.devices:
        wanted = expect[wish.device]
        actions = {action.model: action for action in wish.actions}
        assert {name: action.action for name, action in actions.items()} == wanted["actions"]
        assert (wish.desired.generation if wish.desired else None) == wanted["generation"]
        for name, words in wanted.get("reasons", {}).items():
            assert words in actions[name].reason
        assert sorted(name for name, action in actions.items() if action.refused) == wanted.get("refused", [])
        for name, variants in wanted.get("tried", {}).items():
            assert [tried.variant for tried in actions[name].tried] == variants
        if wish.desired is not None:
            holds = {model.model: [step.variant for step in model.chain] for model in wish.desired.models}
            assert holds == wanted["holds"]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_planning_twice_changes_nothing(path: Path) -> None:
    case = read_case(path)
    if "error" in case["expect"]:
        return
    made = plan_of(case)
    first = desired_of(case, made)
    told = {wish.device: wish.desired for wish in first.devices if wish.desired is not None}
    again = desired_for(made, outcomes_of(case, made), told, revision=8, issued_at_ns=100, prune=False)
    assert all(wish.desired is None for wish in again.devices if wish.device in told)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_without_artifacts_the_actions_say_what_is_still_to_be_built(path: Path) -> None:
    case = read_case(path)
    if "error" in case["expect"]:
        return
    for part in plan_of(case).devices:
        actions = {action.model: action for action in actions_for(part, {}, None, prune=False)}
        for model in part.models:
            action = actions[model.model]
            assert action.refused == (not model.chain)
            assert action.wish is None
            assert action.action == ("deploy" if model.chain else "no-change")
