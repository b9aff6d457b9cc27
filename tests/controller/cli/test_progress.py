from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from edgefleet_controller.api import ProgressEvent
from edgefleet_controller.cli.progress import MAX_BARS, LiveView, PlainView, figure

MakeEvent = Callable[..., ProgressEvent]


def test_plain_progress_is_one_line_a_milestone(make_event: MakeEvent, capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView() as view:
        for done in (0, 10, 50, 100, 100):
            view.show(make_event(1, "fetching", stage="deliver", key="local/digits", done=done, total=100))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["deliver local/digits: fetching (0 of 100)", "deliver local/digits: fetching (100 of 100)"]


def test_plain_progress_tells_each_new_text_and_each_message(
    make_event: MakeEvent, capsys: pytest.CaptureFixture[str]
) -> None:
    with PlainView() as view:
        view.show(make_event(1, "calibrating"))
        view.show(make_event(2, "calibrating"))
        view.show(make_event(3, "comparing"))
        view.show(make_event(4, "note", stage="message", key="local"))
        view.show(make_event(5, "note", stage="message", key="local"))
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "calibrating", "comparing", "note", "note",
    ]  # fmt: skip


def test_bytes_are_written_in_binary_units(make_event: MakeEvent) -> None:
    sizes = make_event(1, "x", done=1024, total=2048, unit="bytes")
    assert figure(sizes) == "1.0 KiB of 2.0 KiB"
    assert figure(make_event(1, "x", done=1, total=3, unit="steps")) == "1 of 3"
    assert figure(make_event(1, "x")) == ""


def live() -> tuple[LiveView, io.StringIO]:
    stream = io.StringIO()
    return LiveView(Console(file=stream, force_terminal=True, width=100)), stream


def test_bars_show_stage_key_text_and_amount(make_event: MakeEvent) -> None:
    view, stream = live()
    with view:
        view.show(make_event(1, "calibrating"))
        view.show(make_event(2, "sending", stage="deliver", key="[b]local", done=1024, total=2048, unit="bytes"))
        view.show(make_event(3, "a word", stage="message", key="local"))
    out = stream.getvalue()
    for text in ("calibrating", "deliver", "[b]local", "1.0 KiB of 2.0 KiB", "local: a word"):
        assert text in out


def test_a_later_event_moves_the_same_bar(make_event: MakeEvent) -> None:
    view, _ = live()
    with view:
        for done in range(5):
            view.show(make_event(done, "building", done=done, total=4))
        (task,) = view._progress.tasks
        assert (task.completed, task.finished) == (4, True)


def test_finished_bars_make_room_for_new_ones(make_event: MakeEvent) -> None:
    view, _ = live()
    with view:
        for number in range(3 * MAX_BARS):
            view.show(make_event(number, "done", key=f"device-{number}", done=1, total=1))
        assert len(view._progress.tasks) <= MAX_BARS
