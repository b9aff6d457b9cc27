"""The worker's boundary: every request gets an answer, and a bug is called one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edgefleet_agent import tasks, worker
from edgefleet_contract.errors import DeviceError, UserInputError
from edgefleet_contract.job import Answer, ErrorAnswer, ProbeJob
from edgefleet_contract.wire import decode_as, encode

ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> ErrorAnswer:
    def fail(_: object) -> Answer:
        raise error

    monkeypatch.setattr(tasks, "do_job", fail)
    answer = decode_as(ANSWER, worker.handle(encode(ProbeJob())))
    assert isinstance(answer, ErrorAnswer)
    return answer


@pytest.mark.parametrize(
    ("error", "family"),
    [(UserInputError("bad samples"), "input"), (DeviceError("no such engine"), "device")],
)
def test_errors_keep_their_family(monkeypatch: pytest.MonkeyPatch, error: Exception, family: str) -> None:
    answer = failing_with(monkeypatch, error)
    assert (answer.family, answer.reason) == (family, str(error))


def test_a_bug_is_internal_and_its_traceback_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = failing_with(monkeypatch, ZeroDivisionError("in our code"))
    assert (answer.family, answer.reason) == ("internal", "ZeroDivisionError: in our code")
    assert "Traceback" in capfd.readouterr().err


def test_running_out_of_memory_is_left_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryError):
        failing_with(monkeypatch, MemoryError())


@given(st.binary(max_size=100))
def test_any_bytes_get_an_answer(request_bytes: bytes) -> None:
    answer = decode_as(ANSWER, worker.handle(request_bytes))
    assert isinstance(answer, ErrorAnswer)
    assert answer.family == "internal"
