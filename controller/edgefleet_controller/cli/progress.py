"""Progress of an apply on stderr: bars on a terminal, one line a milestone anywhere else."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from edgefleet_contract.units import format_bytes
from edgefleet_controller.api import ProgressEvent
from edgefleet_controller.cli import output

if TYPE_CHECKING:
    from rich.console import Console

MAX_BARS = 12
"""More bars than fit a small terminal only flicker; finished ones make room."""


class ProgressView(Protocol):
    """Shows events as they come; a later event with the same stage and key replaces the earlier."""

    def __enter__(self) -> Self:
        """Start showing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing, and leave the screen as it is."""

    def show(self, event: ProgressEvent) -> None:
        """Show one event."""


def progress_view() -> ProgressView:
    """Return bars when stderr is a terminal, else lines."""
    console = output.stderr_console()
    return LiveView(console) if console.is_terminal else PlainView()


def finished(event: ProgressEvent) -> bool:
    """Tell whether an event says that its work is complete."""
    return event.total is not None and event.done is not None and event.done >= event.total


def figure(event: ProgressEvent) -> str:
    """Return `done of total` in the event's unit, as far as they are known."""
    if event.done is None or event.total is None:
        return ""
    if event.unit == "bytes":
        return f"{format_bytes(event.done)} of {format_bytes(event.total)}"
    return f"{event.done:g} of {event.total:g}"


class PlainView:
    """One line when work starts, when its text changes and when it is complete."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], tuple[str, bool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, event: ProgressEvent) -> None:
        """Print a line, unless it would only repeat what was said."""
        place = (event.stage, event.key)
        milestone = (event.text, finished(event))
        if event.stage != "message" and self._said.get(place) == milestone:
            return
        self._said[place] = milestone
        amount = figure(event)
        output.words(f"{event.stage} {event.key}: {event.text}" + (f" ({amount})" if amount else ""))


class LiveView:
    """A bar for each thing that moves; without a total, a spinner."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.fields[stage]:8}", markup=False),
            TextColumn("{task.fields[key]}", markup=False),
            BarColumn(20),
            TextColumn("{task.fields[figure]}", markup=False),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: ProgressEvent) -> None:
        """Move the event's bar; a message is printed above the bars."""
        if event.stage == "message":
            self._progress.console.print(f"{event.key}: {event.text}", soft_wrap=True)
            return
        self._progress.update(
            self._task(event),
            description=event.text,
            total=event.total,
            completed=event.done or 0.0,
            figure=figure(event),
        )

    def _task(self, event: ProgressEvent) -> TaskID:
        place = (event.stage, event.key)
        if place not in self._tasks:
            self._make_room()
            self._tasks[place] = self._progress.add_task(
                event.text, total=event.total, stage=event.stage, key=event.key, figure=""
            )
        return self._tasks[place]

    def _make_room(self) -> None:
        done = {task.id for task in self._progress.tasks if task.finished}
        for place, task in list(self._tasks.items()):
            if len(self._tasks) < MAX_BARS:
                return
            if task in done:
                self._progress.remove_task(task)
                del self._tasks[place]
