"""Builds: each made once, every way it can go wrong a result."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_contract.artifact import ArtifactDocument, FileRole, TensorSpec
from edgefleet_contract.child import ChildLimits
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import ParityCheck, ParityResult, ParityVerdict, Verdict
from edgefleet_contract.job import CompareAnswer, OutputsAnswer
from edgefleet_controller.build import Built, CheckedModel, ChildSteps, NotBuilt, StepLimits
from edgefleet_controller.compile import steps as steps_module
from edgefleet_controller.compile.protocol import BuildAnswer, FaultAnswer, IngestAnswer
from edgefleet_controller.compile.steps import Command, StepError

X = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=("batch", 3))
COMMAND = Command(("python", "-m", "somewhere"), b'{"kind":"build"}', "the last words")


class FakeSteps(ChildSteps):
    """Steps that write plausible files without loading a model; ingest is the real one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.compared: list[str] = []
        self.error: StepError | None = None
        self.parity = ParityVerdict.PASS

    def ingest(self, request: Any) -> IngestAnswer:
        self.calls["ingest"] += 1
        return super().ingest(request)

    def build(self, request: Any) -> BuildAnswer:
        self.calls["build"] += 1
        if self.error is not None:
            raise self.error
        Path(request.out).write_bytes(Path(request.source).read_bytes() + request.variant.encode())
        options = {"calibration": "minmax"} if request.variant.endswith("int8") else {}
        return BuildAnswer(inputs=(X,), outputs=(LOGITS,), options=options)

    def outputs(self, job: Any) -> OutputsAnswer:
        self.calls["outputs"] += 1
        np.savez(job.out, logits=np.ones((40, 3), np.float32))
        return OutputsAnswer(outputs=(LOGITS,), n_samples=40)

    def compare(self, job: Any) -> CompareAnswer:
        self.calls["compare"] += 1
        self.compared.append(job.precision)
        failed = self.parity is ParityVerdict.FAIL
        check, reason = (ParityCheck.SQNR, "3 dB") if failed else (None, None)
        return CompareAnswer(
            verdict=self.parity, failed_check=check, reason=reason, precision="int8", task=None,
            parity=ParityResult(verdict=self.parity, n_samples=40),
        )  # fmt: skip


@pytest.fixture
def fake(bench: Any) -> FakeSteps:
    steps = FakeSteps()
    bench.builder = bench.another_builder(steps=steps)
    return steps


@pytest.fixture
def checked(bench: Any, fake: FakeSteps) -> CheckedModel:
    return CheckedModel.model_validate(bench.check())


def test_an_artifact_names_all_that_makes_it(bench: Any, checked: CheckedModel) -> None:
    built = bench.builder.build(checked, "ort/cpu/int8")
    assert isinstance(built, Built)
    document = built.document
    assert {file.role for file in document.files} == set(FileRole) - {FileRole.COVERAGE}
    assert document.source == checked.source
    assert document.build_key == bench.builder.key(checked, "ort/cpu/int8")
    assert document.calibration == checked.calibration
    assert document.host_check is not None
    assert document.host_check.verdict == "pass"
    assert document.options["calibration_overlaps_samples"] is False
    assert document.toolchain["onnxruntime"]
    assert built.candidate.total_bytes == document.total_bytes
    assert bench.blobs.size_bytes(built.candidate.artifact) == built.candidate.document_bytes
    assert ArtifactDocument.model_validate_json(bench.blobs.read(document.digest)) == document


def test_a_source_that_rounds_is_claimed_and_compared_as_what_it_rounds_to(
    bench: Any, checked: CheckedModel, fake: FakeSteps
) -> None:
    rounding = checked.model_copy(update={"model": checked.model.model_copy(update={"rounds_to": "int8"})})
    assert bench.builder.build(rounding, "ort/cpu/fp32").document.claimed_precision == "int8"
    assert fake.compared == ["int8"]


def test_fp32_names_no_calibration(bench: Any, checked: CheckedModel) -> None:
    assert bench.builder.build(checked, "ort/cpu/fp32").document.calibration is None


def test_a_key_seen_before_is_not_built_again(bench: Any, checked: CheckedModel, fake: FakeSteps) -> None:
    first = bench.builder.build(checked, "ort/cpu/int8")
    again = bench.another_builder(steps=fake).build(checked, "ort/cpu/int8")
    assert (first.cached, again.cached) == (False, True)
    assert again.candidate == first.candidate
    assert fake.calls["build"] == 1


def test_a_lost_blob_is_built_again(bench: Any, checked: CheckedModel, fake: FakeSteps) -> None:
    built = bench.builder.build(checked, "ort/cpu/int8")
    bench.blobs.path_of(built.document.file(FileRole.MODEL).digest).unlink()
    assert not bench.builder.build(checked, "ort/cpu/int8").cached
    assert fake.calls["build"] == 2


def test_the_source_is_run_once_for_all_variants(bench: Any, checked: CheckedModel, fake: FakeSteps) -> None:
    for variant in ("ort/cpu/fp32", "ort/cpu/int8", "ort/cpu/int8-dynamic"):
        bench.builder.build(checked, variant)
    assert fake.calls["outputs"] == 1 + 3


def test_a_build_asked_for_twice_at_once_is_made_once(bench: Any, checked: CheckedModel, fake: FakeSteps) -> None:
    answers = bench.builder.build_all([(checked, "ort/cpu/int8")] * 4, lambda *_: None, workers=4)
    assert fake.calls["build"] == 1
    assert sorted(answer.cached for answer in answers) == [False, True, True, True]


def test_builders_of_two_processes_share_the_lock(bench: Any, checked: CheckedModel, fake: FakeSteps) -> None:
    others = [bench.another_builder(steps=fake) for _ in range(3)]
    threads = [threading.Thread(target=other.build, args=(checked, "ort/cpu/int8")) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake.calls["build"] == 1


def test_what_this_version_cannot_build_is_unsupported_and_costs_nothing(
    bench: Any, checked: CheckedModel, fake: FakeSteps
) -> None:
    answer = bench.builder.build(checked, "ort/coreml/int8")
    assert (answer.tried.verdict, answer.key) == (Verdict.UNSUPPORTED, None)
    assert fake.calls["build"] == 0


def test_failing_parity_is_a_failed_build_and_nothing_is_pushed(
    bench: Any, checked: CheckedModel, fake: FakeSteps
) -> None:
    fake.parity = ParityVerdict.FAIL
    answer = bench.builder.build(checked, "ort/cpu/int8")
    assert isinstance(answer, NotBuilt)
    assert answer.tried.verdict is Verdict.BUILD_FAILED
    assert "parity with the source failed on the builder (sqnr): 3 dB" in answer.tried.reason
    assert bench.cache.find_build(answer.key).artifact is None
    assert answer.reproduce is not None
    assert (Path(answer.reproduce) / "artifact_outputs.npz").exists()


def test_a_failing_comparison_is_told_with_its_figures_also_when_it_is_remembered(
    bench: Any, checked: CheckedModel, fake: FakeSteps
) -> None:
    fake.parity = ParityVerdict.FAIL
    first, again = (bench.builder.build(checked, "ort/cpu/int8") for _ in range(2))
    assert first.host_check is not None
    assert (first.host_check.verdict, first.host_check.ran_as) == ("fail", "ort/cpu/int8")
    assert first.host_check.n_samples > 0
    assert (again.cached, again.host_check) == (True, first.host_check)


def test_weak_parity_is_an_artifact_that_says_so(bench: Any, checked: CheckedModel, fake: FakeSteps) -> None:
    fake.parity = ParityVerdict.WEAK
    check = bench.builder.build(checked, "ort/cpu/int8").document.host_check
    assert check is not None
    assert check.verdict == "weak"


def test_a_failure_the_inputs_decide_is_remembered(bench: Any, checked: CheckedModel, fake: FakeSteps) -> None:
    fault = FaultAnswer(family="unsupported", what="variant", reason="nothing to quantise")
    fake.error = StepError(Verdict.UNSUPPORTED, fault.reason, COMMAND, lasting=True, fault=fault)
    first = bench.builder.build(checked, "ort/cpu/int8-dynamic")
    again = bench.builder.build(checked, "ort/cpu/int8-dynamic")
    assert first.tried == again.tried
    assert (first.cached, again.cached) == (False, True)
    assert fake.calls["build"] == 1


def test_a_remembered_failure_keeps_its_folder_and_gets_it_back_when_it_is_gone(
    bench: Any, checked: CheckedModel, fake: FakeSteps
) -> None:
    fake.parity = ParityVerdict.FAIL
    first = bench.builder.build(checked, "ort/cpu/int8")
    again = bench.builder.build(checked, "ort/cpu/int8")
    assert (again.cached, again.reproduce, fake.calls["build"]) == (True, first.reproduce, 1)
    shutil.rmtree(first.reproduce)
    assert bench.builder.cached(checked, "ort/cpu/int8").reproduce is None
    restored = bench.builder.build(checked, "ort/cpu/int8")
    assert (restored.reproduce, restored.tried) == (first.reproduce, first.tried)
    assert Path(restored.reproduce, "command.sh").is_file()


def test_a_fault_of_the_calibration_samples_says_that_it_speaks_of_them(
    bench: Any, checked: CheckedModel, fake: FakeSteps
) -> None:
    fault = FaultAnswer(family="input", what="calibration", reason="hold the one value 1 everywhere")
    fake.error = StepError(Verdict.BUILD_FAILED, fault.reason, COMMAND, lasting=True, fault=fault)
    told = bench.builder.build(checked, "ort/cpu/int8").tried.reason
    assert told == "the calibration samples hold the one value 1 everywhere"


@pytest.mark.parametrize("reason", ["is quantised already", "x" * 2000])
def test_a_refusal_tells_what_to_do_however_long_its_reason_is(
    bench: Any, checked: CheckedModel, fake: FakeSteps, reason: str
) -> None:
    fault = FaultAnswer(family="unsupported", what="variant", reason=reason, next_step="build ort/cpu/fp32")
    fake.error = StepError(Verdict.UNSUPPORTED, fault.reason, COMMAND, lasting=True, fault=fault)
    told = bench.builder.build(checked, "ort/cpu/int8").tried.reason
    assert told.startswith(reason[:100])
    assert told.endswith("; next: build ort/cpu/fp32")


@pytest.mark.parametrize("verdict", [Verdict.CRASHED, Verdict.TIMEOUT, Verdict.OUT_OF_MEMORY])
def test_a_crash_is_a_result_that_can_be_repeated_and_is_tried_again(
    bench: Any, checked: CheckedModel, fake: FakeSteps, verdict: Verdict
) -> None:
    fake.error = StepError(verdict, "killed by signal 11 (SIGSEGV)", COMMAND)
    answer = bench.builder.build(checked, "ort/cpu/int8")
    assert answer.tried.verdict is verdict
    folder = Path(answer.reproduce)
    assert "python -m somewhere < request.json" in (folder / "command.sh").read_text(encoding="utf-8")
    assert (folder / "stderr.txt").read_text(encoding="utf-8") == "the last words"
    assert (folder / "source.onnx").exists()
    fake.error = None
    assert isinstance(bench.builder.build(checked, "ort/cpu/int8"), Built)


def test_work_leaves_no_scratch_folder(bench: Any, checked: CheckedModel, fake: FakeSteps) -> None:
    bench.builder.build(checked, "ort/cpu/int8")
    fake.error = StepError(Verdict.CRASHED, "no", COMMAND)
    bench.builder.build(checked, "ort/cpu/fp32")
    assert {path.name for path in bench.work_dir.iterdir()} == {"checks", "locks", "outputs", "reproduce"}


def test_progress_tells_each_step_to_its_end(bench: Any, checked: CheckedModel) -> None:
    events = []
    bench.builder.build_all([(checked, "ort/cpu/int8")], lambda *event: events.append(event))
    assert {(stage, key, total) for stage, key, _, _, total in events} == {("build", "tiny ort/cpu/int8", 4.0)}
    assert [done for _, _, _, done, _ in events] == [0, 1, 2, 3, 4]


def test_a_model_is_checked_once(bench: Any, fake: FakeSteps) -> None:
    first = bench.check()
    assert bench.another_builder(steps=fake)
    assert bench.check() == first
    assert fake.calls["ingest"] == 1


def test_another_description_is_another_check(bench: Any, fake: FakeSteps) -> None:
    bench.check()
    bench.check(task="classification")
    assert fake.calls["ingest"] == 2


def test_a_refusal_names_model_and_file_and_leaves_nothing(bench: Any, fake: FakeSteps) -> None:
    bench.put("m.onnx", b"")
    before = sorted(bench.blobs._root.rglob("*"))
    with pytest.raises(UserInputError, match=r"model 'tiny': source m\.onnx is empty"):
        bench.check()
    assert sorted(bench.blobs._root.rglob("*")) == before


def test_code_of_the_users_own_is_refused_in_this_version(bench: Any) -> None:
    with pytest.raises(UserInputError, match="preprocess names code of your own"):
        bench.check(preprocess="my.module:prepare")


def test_a_metric_of_the_users_own_is_the_workers_to_call_and_no_reason_to_refuse(bench: Any, fake: FakeSteps) -> None:
    bench.check(metric="my_metrics:recall")
    assert fake.calls["ingest"] == 1


def run_program(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(steps_module, "COMPILE_ARGV", (sys.executable, "-c", code))


@pytest.mark.parametrize(
    ("code", "limits", "verdict", "words"),
    [
        (f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", {}, Verdict.CRASHED, "SIGSEGV"),
        ("import time; time.sleep(60)", {"timeout_s": 0.3}, Verdict.TIMEOUT, "no answer in 0.3 s"),
        ("raise ValueError('a bug in us')", {}, Verdict.CRASHED, "a bug in us"),
        ("import os; os.write(int(os.environ['EDGEFLEET_ANSWER_FD']), b'{}')", {}, Verdict.CRASHED, "no answer"),
        ("import os; os._exit(86)", {}, Verdict.OUT_OF_MEMORY, "allocate memory"),
    ],
)
def test_every_death_of_a_child_is_a_typed_result(
    bench: Any,
    checked: CheckedModel,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    limits: dict[str, Any],
    verdict: Verdict,
    words: str,
) -> None:
    run_program(monkeypatch, code)
    builder = bench.another_builder(steps=ChildSteps(StepLimits(build=ChildLimits(**limits))))
    answer = builder.build(checked, "ort/cpu/int8")
    assert isinstance(answer, NotBuilt)
    assert answer.tried.verdict is verdict
    assert words in answer.tried.reason
    assert bench.cache.find_build(answer.key) is None


def test_ctrl_c_kills_what_is_built_starts_nothing_more_and_the_next_build_works(
    bench: Any, checked: CheckedModel, fake: FakeSteps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "alive")
    starts = tmp_path / "starts"
    run_program(
        monkeypatch,
        f"import time; open({str(starts)!r}, 'a').write('started '); alive = open({str(tmp_path / 'alive')!r}, 'w');"
        " print('up', file=alive, flush=True); time.sleep(600)",
    )
    builder = bench.another_builder(steps=ChildSteps(StepLimits(build=ChildLimits(timeout_s=15.0))))
    items = [(checked, variant) for variant in ("ort/cpu/int8", "ort/cpu/fp16", "ort/cpu/fp32")]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    held: list[int] = []
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        held.append(os.open(tmp_path / "alive", os.O_RDONLY))
        assert os.read(held[0], 3) == b"up\n"
        signal.pthread_kill(main, signal.SIGINT)

    presser = threading.Thread(target=press, daemon=True)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            builder.build_all(items, lambda *_: None, workers=1)
    finally:
        signal.signal(signal.SIGINT, handler)
    presser.join()
    assert os.read(held[0], 1) == b"", "the child still holds it"
    os.close(held[0])
    assert starts.read_text(encoding="utf-8") == "started "
    assert not list(bench.work_dir.glob("build-*"))
    assert not (bench.work_dir / "reproduce").exists(), "a build that was stopped has not failed"
    assert [bench.cache.find_build(builder.key(*item)) for item in items] == [None] * 3
    answers = bench.another_builder(steps=fake).build_all(items, lambda *_: None)
    assert [type(answer) for answer in answers] == [Built] * 3


def test_a_build_that_waited_for_its_key_while_it_was_stopped_starts_no_child(
    checked: CheckedModel, bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_program(monkeypatch, f"open({str(tmp_path / 'starts')!r}, 'w')")
    stopping = threading.Event()
    stopping.set()
    with steps_module.stopped_by(stopping), pytest.raises(steps_module.StoppedError):
        bench.another_builder(steps=ChildSteps()).build(checked, "ort/cpu/int8")
    assert not (tmp_path / "starts").exists()


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("hang", Verdict.TIMEOUT),
        ("oom", Verdict.OUT_OF_MEMORY),
        ("segv", Verdict.CRASHED),
        ("exit", Verdict.CRASHED),
        ("garbage", Verdict.CRASHED),
    ],
)
def test_a_converter_that_misbehaves_is_contained(
    bench: Any, checked: CheckedModel, monkeypatch: pytest.MonkeyPatch, fault: str, verdict: Verdict
) -> None:
    monkeypatch.setenv("EDGEFLEET_TEST_RUNTIMES", "1")
    limits = ChildLimits(timeout_s=4.0, memory_bytes=512 * 1024**2)
    builder = bench.another_builder(steps=ChildSteps(StepLimits(build=limits)))
    answer = builder.build(checked, f"misbehave/{fault}/int8")
    assert isinstance(answer, NotBuilt)
    assert answer.tried.verdict is verdict
    assert answer.reproduce is not None
    assert Path(answer.reproduce, "command.sh").exists()
    assert bench.cache.find_build(answer.key) is None, "what dies once may not die again"


def test_a_check_that_crashes_is_the_users_error_with_a_way_to_repeat_it(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_program(monkeypatch, "import os; os.abort()")
    with pytest.raises(UserInputError, match="SIGABRT") as caught:
        bench.check()
    assert "reproduce/check-tiny/command.sh" in str(caught.value)


def test_a_reproduce_folder_repeats_the_failure(
    bench: Any, checked: CheckedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_program(monkeypatch, "import sys; sys.exit(7 if b'scratch' in sys.stdin.buffer.read() else 0)")
    answer = bench.another_builder().build(checked, "ort/cpu/int8")
    assert os.waitstatus_to_exitcode(os.system(f"sh {answer.reproduce}/command.sh")) == 7  # noqa: S605 - our own file


def test_a_misbehaving_variant_ships_the_source_and_is_never_run_here(
    bench: Any, checked: CheckedModel, fake: FakeSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFLEET_TEST_RUNTIMES", "1")
    document = bench.builder.build(checked, "misbehave/segv/fp32").document
    assert FileRole.ARTIFACT_OUTPUTS not in {file.role for file in document.files}
    assert fake.calls["compare"] == 0


@pytest.mark.parametrize("variant", ["ort/cpu/fp32", "ort/cpu/int8", "ort/cpu/int8-dynamic"])
def test_a_real_build_passes_parity_and_is_the_same_bytes_when_made_again(
    bench: Any, tmp_path: Path, variant: str
) -> None:
    checked = bench.check()
    first = bench.builder.build(checked, variant)
    assert isinstance(first, Built), first
    again = type(bench)(tmp_path / "another")
    again.root.mkdir(exist_ok=True)
    for path, file in bench.files.items():
        again.put(path, bench.blobs.read(file.digest))
    second = again.builder.build(again.check(), variant)
    assert second.document.canonical_json() == first.document.canonical_json()
