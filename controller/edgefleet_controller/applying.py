"""One apply from request to last evidence: check, plan, build, wish, and wait. Every step can be taken again.

The request is stored with its revision before anything is built, so a controller that was killed goes on where it
was: builds are cached by key, desired states by generation, evidence by report number.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgefleet_contract.base import Record, clip_reason, digest_bytes
from edgefleet_contract.desired import Candidate, DesiredState
from edgefleet_contract.errors import DeviceError, EdgefleetError, UserInputError
from edgefleet_contract.manifest import Manifest
from edgefleet_contract.report import DeviceState, Report, Transition, Tried
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.api import (
    ApplyAccepted,
    ApplyRequest,
    BuildPlan,
    DeviceModelPlan,
    DeviceModelRow,
    ExitCode,
    Phase,
    PlanResult,
)
from edgefleet_controller.build import Builder, Built, CheckedModel, NotBuilt
from edgefleet_controller.compile.registry import buildable
from edgefleet_controller.compile.sources.formats import own_chains
from edgefleet_controller.deliveries import Deliveries, Moved
from edgefleet_controller.planner import (
    DEFAULT_CHAINS,
    Artifacts,
    BuilderFacts,
    DesiredPlan,
    DeviceFacts,
    ModelAction,
    ModelFacts,
    Plan,
    actions_for,
    desired_for,
    plan,
)
from edgefleet_controller.progress import Bell, Progress
from edgefleet_controller.store import RevisionRecord, Store

log = logging.getLogger(__name__)

Publish = Callable[[DesiredState], None]


class Wish(Record):
    """What an apply came to before any device saw it, kept with its revision."""

    chains: dict[str, dict[str, tuple[str, ...]]] = {}
    """Device → model → the variants the manifest wants tried there, in order."""
    tried: dict[str, dict[str, tuple[Tried, ...]]] = {}
    """Device → model → variants that fell out before the device saw them."""
    refused: dict[str, dict[str, str]] = {}
    """Device → model → why nothing of it could be sent at all."""
    generations: dict[str, int] = {}
    """Device → the generation that carries this wish."""
    left_over: dict[str, tuple[str, ...]] = {}
    """Device → models it keeps from earlier manifests: this one does not bring them there, so they decide nothing."""


class Application(Record):
    """What is stored with a revision: enough to take every step again."""

    request: ApplyRequest
    request_digest: str
    wish: Wish | None = None


@dataclass(frozen=True)
class _Prepared:
    checked: Mapping[str, CheckedModel]
    plan: Plan
    current: Mapping[str, DesiredState]


class Applier:
    """Runs applies, one at a time; a newer one takes the place of one that still waits for devices."""

    def __init__(
        self,
        store: Store,
        builder: Builder,
        deliveries: Deliveries,
        publish: Publish,
        bell: Bell,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._store = store
        self._builder = builder
        self._deliveries = deliveries
        self._publish = publish
        self._bell = bell
        self._clock_ns = clock_ns
        self._taking = threading.Lock()
        self._settling = threading.Lock()
        self._building: threading.Thread | None = None
        self._progress: Progress | None = None

    # -- use cases --------------------------------------------------------------------------------------------

    def plan(self, request: ApplyRequest) -> PlanResult:
        """Say what an apply would do. Raises UserInputError when it would be refused."""
        prepared = self._prepare(request)
        known = {build: self._known(prepared, *build) for build in _builds(prepared.plan)}
        artifacts = _artifacts(known)
        builds = tuple(
            BuildPlan(model=model, variant=variant, cached=outcome is not None, artifact=_digest(outcome))
            for (model, variant), outcome in known.items()
        )
        devices = tuple(
            _device_plan(part.device, action, artifacts)
            for part in prepared.plan.devices
            for action in actions_for(part, artifacts, prepared.current.get(part.device), prune=request.prune)
        )
        changed = any(not build.cached for build in builds) or any(row.action != "no-change" for row in devices)
        return PlanResult(changed=changed, builds=builds, devices=devices)

    def apply(self, request: ApplyRequest) -> ApplyAccepted:
        """Check everything, then start. Asked twice for the same while it runs, it runs once.

        Raises:
            UserInputError: the manifest, a model or its samples cannot be used; nothing was changed.
            DeviceError: another apply is being built.
        """
        with self._taking:
            digest = digest_bytes(request.canonical_json())
            newest = self._newest()
            if newest is not None and not newest[0].phase.final and newest[1].request_digest == digest:
                return ApplyAccepted(revision=newest[0].revision, changed=True)
            self._require_idle()
            prepared = self._prepare(request)
            if newest is not None and self._nothing_to_do(prepared, request, newest[1].wish):
                return ApplyAccepted(revision=newest[0].revision, changed=False)
            if newest is not None and not newest[0].phase.final:
                self._finish(newest[0].revision, Phase.ABORTED, "a newer apply took its place", ExitCode.PARTIAL)
            application = Application(request=request, request_digest=digest)
            revision = self._store.create_revision(
                request.manifest, application.model_dump(mode="json"), at_ns=self._clock_ns(), changed=True
            )
            self._start(revision, application)
            return ApplyAccepted(revision=revision, changed=True)

    def resume(self) -> None:
        """Go on with what a killed controller left unfinished."""
        for record in self._store.unfinished_revisions():
            application = Application.model_validate(record.plan)
            self._progress = Progress(self._store, record.revision, self._bell)
            if application.wish is None:
                log.info("going on with revision %d", record.revision)
                self._start(record.revision, application)
            else:
                self._send_again(record.revision)
        self.settle()

    def join(self, timeout_s: float) -> None:
        """Wait for a build thread to end."""
        if self._building is not None:
            self._building.join(timeout_s)

    # -- building and sending ---------------------------------------------------------------------------------

    def _start(self, revision: int, application: Application) -> None:
        self._progress = Progress(self._store, revision, self._bell)
        self._building = threading.Thread(
            target=self._run, args=(revision, application), name=f"revision-{revision}", daemon=True
        )
        self._building.start()

    def _run(self, revision: int, application: Application) -> None:
        try:
            self._build_and_send(revision, application)
        except EdgefleetError as error:
            log.warning("revision %d: %s", revision, error)
            self._finish(revision, Phase.ERROR, str(error), ExitCode.ERROR)
        except Exception as error:
            # The boundary of this thread: whoever waits for the revision must learn of it.
            log.exception("revision %d failed by a bug in edgefleet", revision)
            self._finish(revision, Phase.ERROR, f"internal error: {type(error).__name__}: {error}", ExitCode.ERROR)
        self._bell.ring()

    def _build_and_send(self, revision: int, application: Application) -> None:
        request = application.request
        self._store.set_phase(revision, Phase.BUILDING)
        self._bell.ring()
        prepared = self._prepare(request)
        artifacts = self._build(prepared)
        desired = desired_for(
            prepared.plan,
            artifacts,
            prepared.current,
            revision=revision,
            issued_at_ns=self._clock_ns(),
            prune=request.prune,
        )
        more = {"left_over": _left_over(prepared, request), "chains": _chains(prepared.plan)}
        wish = _wish(desired).model_copy(update=more)
        self._store.put_wishes(
            revision,
            [device.desired for device in desired.devices if device.desired is not None],
            application.model_copy(update={"wish": wish}).model_dump(mode="json"),
        )
        self._send_again(revision)
        self.settle()

    def _send_again(self, revision: int) -> None:
        for state in self._store.all_desired():
            if state.revision == revision:
                self._deliveries.expect(state)
                self._publish(state)

    def _build(self, prepared: _Prepared) -> Artifacts:
        builds = _builds(prepared.plan)
        items = [(prepared.checked[model], variant) for model, variant in builds]
        progress = self._progress

        def tell(_stage: str, key: str, text: str, done: float, total: float) -> None:
            if progress is not None:
                progress.event("build", key, text, done, total, "steps")

        outcomes = self._builder.build_all(items, tell)
        return _artifacts(dict(zip(builds, outcomes, strict=True)))

    # -- settling ---------------------------------------------------------------------------------------------

    def reports_committed(self, reports: Sequence[Report]) -> None:
        """Tell of what devices reported, and see whether the apply is done."""
        progress = self._progress
        for report in reports:
            if progress is not None and isinstance(report.body, Transition):
                if report.body.state is not DeviceState.FETCHING:
                    self._tell(self._deliveries.arrived(report.device, report.body.model, report.body.variant))
                progress.event("device", f"{report.device}/{report.body.model}", _told(report.body))
        self.settle()

    def chunks_sent(self, device: str, digest: str, end_bytes: int) -> None:
        """Tell how far a transfer has come."""
        self._tell(self._deliveries.sent(device, digest, end_bytes))

    def _tell(self, moved: Moved | None) -> None:
        if moved is None or self._progress is None:
            return
        key = f"{moved.model} {moved.variant} to {moved.device}"
        text = "sent" if moved.done_bytes >= moved.total_bytes else "sending"
        self._progress.event("deliver", key, text, float(moved.done_bytes), float(moved.total_bytes), "bytes")

    def settle(self) -> None:
        """Finish the newest revision when every device has reached what it was told."""
        with self._settling:
            newest = self._newest()
            if newest is None or newest[0].phase is not Phase.ROLLING_OUT or newest[1].wish is None:
                return
            record, application = newest
            if not self._everyone_reached(application.wish or Wish()):
                return
            rows, _ = revision_rows(self._store, record)
            if not all(row.state in {DeviceState.ACTIVE, DeviceState.REFUSED} for row in rows):
                return
            refused = [row for row in rows if row.state is DeviceState.REFUSED]
            if refused:
                first = refused[0]
                reason = f"{first.model} was refused on {first.device}: {first.reason or 'no variant qualified'}"
                self._finish(record.revision, Phase.FAILED, reason, ExitCode.GATE_FAILED)
            else:
                self._finish(record.revision, Phase.COMPLETE, None, ExitCode.DONE)

    def _everyone_reached(self, wish: Wish) -> bool:
        reached = self._store.reported_generations()
        return all(reached.get(device, 0) >= generation for device, generation in wish.generations.items())

    def _finish(self, revision: int, phase: Phase, reason: str | None, exit_code: ExitCode) -> None:
        self._store.set_phase(revision, phase, reason=reason, exit_code=int(exit_code))
        self._bell.ring()

    # -- preparing --------------------------------------------------------------------------------------------

    def _newest(self) -> tuple[RevisionRecord, Application] | None:
        record = self._store.revision(None)
        return None if record is None else (record, Application.model_validate(record.plan))

    def _require_idle(self) -> None:
        if self._building is not None and self._building.is_alive():
            msg = "another apply is being built"
            raise DeviceError(msg, next_step="wait for it (fleet status), then apply again")

    def _prepare(self, request: ApplyRequest) -> _Prepared:
        used = dict.fromkeys(deployment.model for deployment in request.manifest.deployments)
        unknown = [name for name in used if name not in request.manifest.models]
        if unknown:
            msg = f"deployments name the model {unknown[0]!r}, which the manifest does not have"
            raise UserInputError(msg)
        facts = self._device_facts()
        checked = {name: self._check(name, request) for name in used}
        models = {name: _model_facts(model) for name, model in checked.items()}
        current = {state.device: state for state in self._store.all_desired()}
        return _Prepared(
            checked, plan(request.manifest, facts, builder_facts(request.manifest, models), models), current
        )

    def _check(self, name: str, request: ApplyRequest) -> CheckedModel:
        checked = self._builder.check(name, request.manifest.models[name], request.files)
        return checked.model_copy(update={"recipes": request.recipes.get(name, {})})

    def _device_facts(self) -> list[DeviceFacts]:
        labels = self._store.labels()
        return [
            DeviceFacts(row.profile, labels.get(row.device, {}))
            for row in self._store.devices()
            if row.profile is not None
        ]

    def _known(self, prepared: _Prepared, model: str, variant: str) -> Built | NotBuilt | None:
        return self._builder.cached(prepared.checked[model], variant)

    def _nothing_to_do(self, prepared: _Prepared, request: ApplyRequest, newest: Wish | None) -> bool:
        """Tell whether everything is built and every device was already told this, by a manifest of the same models."""
        if newest is not None and newest.left_over != _left_over(prepared, request):
            return False
        known = {build: self._known(prepared, *build) for build in _builds(prepared.plan)}
        if any(outcome is None for outcome in known.values()):
            return False
        desired = desired_for(
            prepared.plan, _artifacts(known), prepared.current, revision=0, issued_at_ns=0, prune=request.prune
        )
        refused = any(action.refused for device in desired.devices for action in device.actions)
        return not desired.changed and not refused


Rows = tuple[DeviceModelRow, ...]


def revision_rows(store: Store, record: RevisionRecord) -> tuple[Rows, Rows]:
    """Return a row for each model the manifest brings to each device, and those of models of earlier manifests.

    The former hold what never got as far as a device too. Only they say whether the apply has come to its end.
    """
    wish = Application.model_validate(record.plan).wish or Wish()
    tried = {(device, model): rows for device, models in wish.tried.items() for model, rows in models.items()}
    held = [_in_chain_order(row, wish) for row in store.device_rows(extra_tried=tried)]
    left_over = tuple(row for row in held if row.model in wish.left_over.get(row.device, ()))
    sent = tuple(row for row in held if row not in left_over)
    return (*sent, *_refused_rows(wish, {(row.device, row.model) for row in sent})), left_over


def builder_facts(manifest: Manifest, models: Mapping[str, ModelFacts]) -> BuilderFacts:
    """Return what this controller makes of every variant a manifest's chains, or the built-in ones, can ask for."""
    defaults = (DEFAULT_CHAINS, *(facts.own_chains or {} for facts in models.values()))
    wanted = {variant for chains in defaults for chain in chains.values() for variant in chain}
    for deployment in manifest.deployments:
        chains = deployment.chain.values() if isinstance(deployment.chain, dict) else (deployment.chain or (),)
        wanted.update(variant for chain in chains for variant in chain)
    reasons = {variant: buildable(parse_variant(variant)) for variant in wanted}
    return BuilderFacts(
        buildable=frozenset(variant for variant, reason in reasons.items() if reason is None),
        reasons={variant: reason for variant, reason in reasons.items() if reason is not None},
    )


def _builds(planned: Plan) -> list[tuple[str, str]]:
    return [(build.model, build.variant) for build in planned.builds]


def _artifacts(outcomes: Mapping[tuple[str, str], Built | NotBuilt | None]) -> dict[tuple[str, str], Candidate | Tried]:
    return {
        build: outcome.candidate if isinstance(outcome, Built) else outcome.tried
        for build, outcome in outcomes.items()
        if outcome is not None
    }


def _digest(outcome: Built | NotBuilt | None) -> str | None:
    return outcome.candidate.artifact if isinstance(outcome, Built) else None


def _model_facts(checked: CheckedModel) -> ModelFacts:
    return ModelFacts(
        has_labels=checked.samples_record.labelled,
        n_samples=checked.samples_record.golden_n,
        own_chains=own_chains(checked.model),
    )


def _device_plan(device: str, action: ModelAction, artifacts: Artifacts) -> DeviceModelPlan:
    outcomes = [artifacts.get((action.model, variant)) for variant in action.chain]
    sizes = [outcome.total_bytes for outcome in outcomes if isinstance(outcome, Candidate)]
    return DeviceModelPlan(
        device=device,
        model=action.model,
        chain=action.chain,
        skipped=action.tried,
        bytes_to_move=sum(sizes) if len(sizes) == len(outcomes) else None,
        action=action.action,
    )


def _left_over(prepared: _Prepared, request: ApplyRequest) -> dict[str, tuple[str, ...]]:
    """Return device → models it was told to hold and keeps, though the manifest does not bring them there."""
    left: dict[str, tuple[str, ...]] = {}
    for part in () if request.prune else prepared.plan.devices:
        held = prepared.current.get(part.device)
        named = {model.model for model in part.models}
        if names := tuple(wish.model for wish in (held.models if held else ()) if wish.model not in named):
            left[part.device] = names
    return left


def _wish(desired: DesiredPlan) -> Wish:
    def by_device(pick: Callable[[ModelAction], object]) -> dict[str, dict[str, object]]:
        return {
            device.device: {action.model: pick(action) for action in device.actions if pick(action)}
            for device in desired.devices
        }

    return Wish.model_validate(
        {
            "tried": by_device(lambda action: action.tried),
            "refused": by_device(lambda action: action.reason if action.refused else None),
            "generations": {
                device.device: device.desired.generation for device in desired.devices if device.desired is not None
            },
        }
    )


def _refused_rows(wish: Wish, sent: set[tuple[str, str]]) -> Iterable[DeviceModelRow]:
    for device, models in wish.refused.items():
        for model, reason in models.items():
            if (device, model) not in sent:
                tried = wish.tried.get(device, {}).get(model, ())
                row = DeviceModelRow(
                    device=device, model=model, state=DeviceState.REFUSED, tried=tried, reason=clip_reason(reason)
                )
                yield _in_chain_order(row, wish)


def _in_chain_order(row: DeviceModelRow, wish: Wish) -> DeviceModelRow:
    """Return a row that tells what was tried as the chain goes, whether builder, controller or device refused it."""
    chain = wish.chains.get(row.device, {}).get(row.model, ())
    place = {variant: index for index, variant in enumerate(chain)}
    tried = sorted(row.tried, key=lambda one: place.get(one.variant, len(place)))
    return row.model_copy(update={"tried": tuple(tried)})


def _chains(planned: Plan) -> dict[str, dict[str, tuple[str, ...]]]:
    return {part.device: {model.model: model.wanted for model in part.models} for part in planned.devices}


def _told(transition: Transition) -> str:
    variant = f" {transition.variant}" if transition.variant else ""
    why = f": {transition.reason}" if transition.reason else ""
    return f"{transition.state.value}{variant}{why}"
