"""What native libraries print to descriptor 2 is heard, and goes there again afterwards."""

from __future__ import annotations

import os

import pytest

from edgefleet_agent.runtimes.capture import MAX_CHARS, native_stderr


def test_what_is_written_meanwhile_is_heard_and_nothing_after(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    with native_stderr(said):
        os.write(2, b"x" * 5000 + b" the reason\n")
    os.write(2, b"after")
    assert said[0].endswith("x the reason")
    assert len(said[0]) <= MAX_CHARS
    assert capfd.readouterr().err == "after"


def test_descriptor_two_comes_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def fail() -> None:
        os.write(2, b"\xff why")
        raise RuntimeError

    with pytest.raises(RuntimeError), native_stderr(said):
        fail()
    os.write(2, b"after")
    assert said == ["\ufffd why"]
    assert capfd.readouterr().err == "after"


def test_a_disk_that_takes_nothing_only_costs_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    said: list[str] = []
    with native_stderr(said):
        pass
    assert said == [""]
