"""What `fleet apply` does, step by step: load, connect, send files, apply, follow, report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgefleet_contract.errors import UserInputError
from edgefleet_contract.tuning import Recipe
from edgefleet_controller.api import (
    ApplyAccepted,
    ApplyRequest,
    ExitCode,
    FileRef,
    FleetApi,
    MissingRequest,
    OnSent,
    Phase,
    PlanResult,
    ProgressEvent,
    RevisionQuery,
    RevisionStatus,
)
from edgefleet_controller.cli import output
from edgefleet_controller.cli.errors import located
from edgefleet_controller.cli.follow import Follower
from edgefleet_controller.cli.progress import ProgressView, progress_view
from edgefleet_controller.cli.render_apply import draw_result, failure_lines
from edgefleet_controller.cli.session import Session, session
from edgefleet_controller.load import LoadedManifest, check_supported, load_manifest
from edgefleet_controller.resolve import ResolvedFile, resolve_files
from edgefleet_controller.tuned_file import recipes_beside

if TYPE_CHECKING:
    from edgefleet_controller.cli.settings import Settings

_NEWEST = 2**53 - 1
"""No event has a higher number (`Generation`)."""

_EXIT_OF_PHASE = {
    Phase.COMPLETE: ExitCode.DONE,
    Phase.FAILED: ExitCode.GATE_FAILED,
    Phase.ABORTED: ExitCode.PARTIAL,
    Phase.ERROR: ExitCode.ERROR,
}


@dataclass(frozen=True)
class ApplyOptions:
    """What `fleet apply` was asked for."""

    file: Path
    wait: bool
    timeout_s: float
    yes: bool
    prune: bool
    form: output.Format

    @property
    def command(self) -> str:
        """The command that does the same again."""
        return f"fleet apply {self.file}" + (" --prune" if self.prune else "")


@dataclass(frozen=True)
class Prepared:
    """A checked manifest with the content of every file it names."""

    loaded: LoadedManifest
    files: Mapping[str, ResolvedFile]
    recipes: Mapping[str, dict[str, Recipe]] = field(default_factory=dict)
    """Model → variant → how it is to be made, found by `fleet tune`."""

    def request(self, *, prune: bool) -> ApplyRequest:
        """Return what is asked of the controller."""
        refs = {name: FileRef(digest=file.digest, size_bytes=file.size_bytes) for name, file in self.files.items()}
        return ApplyRequest(manifest=self.loaded.manifest, files=refs, recipes=dict(self.recipes), prune=prune)

    def send(self, api: FleetApi) -> None:
        """Bring the controller the files it lacks: it looks into them before it plans or applies."""
        with progress_view() as view:
            _send_files(api, self.files, view)


def prepare(file: Path) -> Prepared:
    """Load and check a manifest and its files; nothing is sent. Raises ManifestError."""
    loaded = load_manifest(file)
    check_supported(loaded)
    files = resolve_files(loaded)
    return Prepared(loaded, files, _recipes(loaded, files))


def _recipes(loaded: LoadedManifest, files: Mapping[str, ResolvedFile]) -> dict[str, dict[str, Recipe]]:
    """Return what searches found for the sources of a manifest; say it where one is stale."""
    found = {}
    for name, model in loaded.manifest.models.items():
        if model.source not in files:
            continue
        recipes, remark = recipes_beside(loaded.root / model.source, files[model.source].digest)
        if remark is not None:
            output.words(remark, style="yellow")
        if recipes:
            found[name] = recipes
    return found


def run_plan(settings: Settings, file: Path, *, prune: bool) -> PlanResult:
    """Return what an apply would do. Raises EdgefleetError as `run_apply`."""
    prepared = prepare(file)
    with session(settings, file, f"fleet plan {file}") as live, located(prepared.loaded):
        prepared.send(live.api)
        return live.api.plan(prepared.request(prune=prune))


def run_apply(settings: Settings, options: ApplyOptions) -> int:
    """Apply a manifest and print the result.

    Returns:
        The exit code.

    Raises:
        EdgefleetError: the apply could not be started, or the controller was lost.
    """
    run = _Run(settings, options, prepare(options.file))
    try:
        code = run.go()
    except KeyboardInterrupt:
        _say_detached(options, lasting=run.lasting)
        code = ExitCode.DETACHED
    return run.finish(code)


class _Run:
    """One apply. What is known so far stays here, so that Ctrl-C and the timeout can still print it."""

    def __init__(self, settings: Settings, options: ApplyOptions, prepared: Prepared) -> None:
        self.lasting = False
        self._settings = settings
        self._options = options
        self._prepared = prepared
        self._changed = True
        self._status: RevisionStatus | None = None

    def go(self) -> ExitCode | None:
        """Do everything; None means that the exit code stands in the status."""
        options = self._options
        with session(self._settings, options.file, options.command, private=options.wait) as live:
            self.lasting = live.lasting
            accepted = self._start(live)
            self._changed = accepted.changed
            if options.wait and accepted.changed:
                return self._follow(live, accepted.revision)
            # Without events: the past of a finished apply is no progress.
            self._status = live.api.revision(RevisionQuery(revision=accepted.revision, after_event=_NEWEST))
            if not options.wait:
                return ExitCode.DONE
            return None if self._status.phase.final else self._follow(live, accepted.revision)

    def _start(self, live: Session) -> ApplyAccepted:
        options = self._options
        request = self._prepared.request(prune=options.prune)
        with located(self._prepared.loaded):
            self._prepared.send(live.api)
            if options.prune and not options.yes:
                _confirm_removals(live.api.plan(request))
            return live.api.apply(request)

    def _follow(self, live: Session, revision: int) -> ExitCode | None:
        options = self._options
        with progress_view() as view:
            follower = Follower(live.api, revision, view, self._settings.clock_s)
            try:
                final = follower.until_final(options.timeout_s)
            finally:
                self._status = follower.status or self._status
        if final:
            return None
        output.words(f"not done after {options.timeout_s:g} s; to wait longer: {options.command} --timeout 1h")
        return ExitCode.PARTIAL

    def finish(self, code: ExitCode | None) -> int:
        """Print the result, the failures as words, and return the exit code."""
        if self._status is None:
            return int(ExitCode.ERROR if code is None else code)
        exit_code = _exit_code(self._status) if code is None else int(code)
        shown = self._status.model_copy(update={"exit_code": exit_code, "changed": self._changed})
        data = shown.model_dump(mode="json", exclude={"events"})
        output.emit(data, self._options.form, lambda console: draw_result(console, shown))
        for line in failure_lines(shown):
            output.words(line)
        return exit_code


def _confirm_removals(planned: PlanResult) -> None:
    removals = [f"{row.device}/{row.model}" for row in planned.devices if row.action == "remove"]
    if not removals:
        return
    output.words(f"--prune removes {len(removals)} model(s): {', '.join(removals)}")
    if not sys.stdin.isatty():
        raise UserInputError("models would be removed; nothing was changed", next_step="add --yes to agree")
    if not typer.confirm("remove them?", err=True):
        output.words("nothing was changed")
        raise typer.Exit(ExitCode.ERROR)


def _send_files(api: FleetApi, files: Mapping[str, ResolvedFile], view: ProgressView) -> None:
    """Send every file the controller lacks, each content once."""
    by_digest = {file.digest: file for file in files.values()}
    lacking = [by_digest[digest] for digest in api.missing(MissingRequest(digests=tuple(by_digest))).digests]
    total_bytes = sum(file.size_bytes for file in lacking)
    before_bytes = 0
    for file in lacking:
        api.put_blob(file.digest, file.path, on_sent=_teller(view, file, before_bytes, total_bytes))
        before_bytes += file.size_bytes
    if lacking:
        view.show(_sending(f"sent {len(lacking)} file(s)", before_bytes, total_bytes))


def _teller(view: ProgressView, file: ResolvedFile, before_bytes: int, total_bytes: int) -> OnSent:
    """Show a file as begun, and return what shows how far it is."""
    text = f"sending {file.path.name}"

    def tell(sent_bytes: int) -> None:
        if sent_bytes < file.size_bytes:  # sent is not yet taken: the full bar is for the answer
            view.show(_sending(text, before_bytes + sent_bytes, total_bytes))

    tell(0)
    return tell


def _sending(text: str, done_bytes: int, total_bytes: int) -> ProgressEvent:
    return ProgressEvent(
        id=0, at_ns=0, stage="check", key="files", text=text[:500], done=done_bytes, total=total_bytes, unit="bytes"
    )


def _exit_code(status: RevisionStatus) -> int:
    return status.exit_code if status.exit_code is not None else int(_EXIT_OF_PHASE[status.phase])


def _say_detached(options: ApplyOptions, *, lasting: bool) -> None:
    if lasting:
        output.words(f"detached; the apply goes on. To see it: fleet status. To attach again: {options.command}")
    else:
        output.words(f"stopped; what is built and proven is kept. To go on: {options.command}")
