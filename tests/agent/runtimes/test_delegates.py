"""LiteRT external delegates: real shared libraries that refuse, crash, compute wrongly, or work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefleet_agent.blobs import Storage
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.jobs import run_job
from edgefleet_agent.probe import probe_engines_in_child
from edgefleet_agent.reconcile import step
from edgefleet_agent.records import (
    Action,
    Activate,
    Activated,
    AgentState,
    ArtifactReady,
    DesiredReceived,
    Event,
    Facts,
    Fetch,
    Say,
    StartTrial,
)
from edgefleet_agent.runtimes.base import UnsupportedError
from edgefleet_agent.runtimes.delegates import DelegateError, delegate_source, is_installed, open_delegate
from edgefleet_agent.runtimes.litert import RUNTIME
from edgefleet_agent.runtimes.litert_library import find_library
from edgefleet_agent.trial import TrialPorts, run_in_worker, run_trial, trial_of
from edgefleet_contract.accept import Accept, FallbackPolicy, PlacementAccept
from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_contract.child import ChildLimits
from edgefleet_contract.desired import Candidate, DesiredModel, DesiredState, release_digest
from edgefleet_contract.evidence import Gate, Trial, Verdict
from edgefleet_contract.job import LatencyBudget, ProbeAnswer, ProbeJob, QualifyJob
from edgefleet_contract.profile import EngineProbe, ProbeStatus, Profile
from edgefleet_contract.report import DeviceState, EvidenceReport, ReportBody, Transition
from edgefleet_contract.variant import parse_variant

MakeTflite = Callable[[str], tuple[Path, ArtifactDocument]]
UseDelegate = Callable[[str, str], None]

LIMITS = ChildLimits(timeout_s=60.0)
ALLOW = Accept(placement=PlacementAccept(fallback=FallbackPolicy.ALLOW))
BUDGET = LatencyBudget(min_n=40, max_n=60, min_duration_s=0.0, max_duration_s=2.0, warmup_max_s=0.02)


@pytest.mark.parametrize(
    ("mode", "status", "word"),
    [
        ("ok", ProbeStatus.AVAILABLE, "never run on hardware by us"),
        ("absent", ProbeStatus.MISSING, "no test device found"),
    ],
)
def test_a_delegate_is_probed_by_creating_it(
    use_delegate: UseDelegate, mode: str, status: ProbeStatus, word: str
) -> None:
    use_delegate("edgetpu", mode)
    found = RUNTIME.probe_engine("edgetpu")
    assert (found.target, found.status) == ("tflite/edgetpu", status)
    assert word in (found.reason or "")


def test_a_delegate_that_crashes_when_created_breaks_its_own_engine_only(
    use_delegate: UseDelegate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefleet_agent.probe._IN_CHILD_RUNTIMES", ("tflite",))
    use_delegate("gpu", "crash-at-once")
    use_delegate("nnapi", "ok")
    found = {probe.target: probe for probe in probe_engines_in_child(False, limits=LIMITS)}
    assert found["tflite/gpu"].status is ProbeStatus.BROKEN
    assert "signal 11 (SIGSEGV)" in str(found["tflite/gpu"].reason)
    assert found["tflite/nnapi"].status is found["tflite/xnnpack"].status is ProbeStatus.AVAILABLE
    assert len(found) == len({*found})


def test_a_probe_of_everything_leaves_delegates_to_jobs_of_their_own(use_delegate: UseDelegate) -> None:
    use_delegate("gpu", "ok")
    whole = run_job(ProbeJob(), LIMITS)
    assert isinstance(whole, ProbeAnswer)
    assert whole.alone == ("tflite/gpu",)
    assert "tflite/gpu" not in {probe.target for probe in whole.engines}


def test_a_file_that_is_no_library_is_broken_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libjunk.so").write_bytes(b"\x7fELF not really")
    monkeypatch.setenv("EDGEFLEET_TFLITE_DELEGATE_GPU", str(tmp_path / "libjunk.so"))
    found = RUNTIME.probe_engine("gpu")
    assert found.status is ProbeStatus.BROKEN
    assert "libjunk.so does not load" in str(found.reason)
    assert str(tmp_path) not in str(found.reason)


def test_a_library_without_the_delegates_entry_is_broken(compile_native: Callable[[str], Path]) -> None:
    library = compile_native("not_a_delegate")
    with pytest.raises(DelegateError, match="is no LiteRT delegate") as caught:
        open_delegate(
            find_library().interpreter, "gpu", delegate_source("gpu", {"EDGEFLEET_TFLITE_DELEGATE_GPU": str(library)})
        )
    assert caught.value.status is ProbeStatus.BROKEN


def test_a_delegate_that_is_named_and_not_there_is_missing() -> None:
    with pytest.raises(DelegateError, match="no file here") as caught:
        delegate_source("gpu", {"EDGEFLEET_TFLITE_DELEGATE_GPU": "/nowhere/lib.so"})
    assert caught.value.status is ProbeStatus.MISSING
    with pytest.raises(DelegateError, match="EDGEFLEET_TFLITE_DELEGATE_NNAPI"):
        delegate_source("nnapi", {}, "linux")


def test_customary_libraries_are_known_by_system() -> None:
    assert delegate_source("edgetpu", {}, "linux").library == "libedgetpu.so.1"
    assert delegate_source("edgetpu", {}, "darwin").library == "libedgetpu.1.dylib"


def test_a_library_is_looked_for_without_opening_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = delegate_source("edgetpu", {}, "linux")
    monkeypatch.setattr("edgefleet_agent.runtimes.delegates._SEARCHED", ())
    monkeypatch.setattr("edgefleet_agent.runtimes.delegates._LOADER_CACHE", tmp_path / "cache")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    assert not is_installed(source)
    (tmp_path / "cache").write_bytes(b"\0libedgetpu.so.1\0/usr/lib/libedgetpu.so.1\0")
    assert is_installed(source)
    (tmp_path / "cache").unlink()
    (tmp_path / "libedgetpu.so.1").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert is_installed(source)


@pytest.mark.parametrize("options", ["mode", "=ok", "a=1," * 40, "x=" + "y" * 5000])
def test_options_out_of_form_or_bounds_are_refused(tmp_path: Path, options: str) -> None:
    with pytest.raises(DelegateError, match="write key=value"):
        delegate_source("edgetpu", {"EDGEFLEET_TFLITE_DELEGATE_EDGETPU_OPTIONS": options}, "linux")


def test_a_delegate_that_takes_part_of_a_graph_is_read_back(
    digits_tflite: Path, use_delegate: UseDelegate, images: np.ndarray
) -> None:
    use_delegate("gpu", "ok")
    session = RUNTIME.load(digits_tflite, variant=parse_variant("tflite/gpu/fp32"), threads=1, spinning=False)
    placement = session.placement()
    assert placement is not None
    assert placement.nodes == {"gpu": 1, "builtin kernels": 29}
    assert placement.accelerated == pytest.approx(1 / 30)
    assert placement.time_accelerated is None
    assert placement.elsewhere["CONV_2D"] == 3
    plain = RUNTIME.load(digits_tflite, variant=parse_variant("tflite/cpu/fp32"), threads=1, spinning=False)
    feeds = {"image": images[:1].transpose(0, 2, 3, 1)}
    assert np.allclose(session.run(feeds)["logits"], plain.run(feeds)["logits"], atol=1e-4)


def test_any_other_delegate_has_an_engine_and_the_evidence_names_its_library(
    digits_tflite: Path, use_delegate: UseDelegate
) -> None:
    use_delegate("external", "ok")
    session = RUNTIME.load(digits_tflite, variant=parse_variant("tflite/external/fp32"), threads=1, spinning=False)
    placement = session.placement()
    assert placement is not None
    assert placement.nodes["external"] == 1
    assert placement.source.endswith("; delegate libdelegate.so")


def test_a_delegate_that_takes_nothing_is_not_believed(digits_tflite: Path, use_delegate: UseDelegate) -> None:
    use_delegate("gpu", "none")
    session = RUNTIME.load(digits_tflite, variant=parse_variant("tflite/gpu/fp32"), threads=1, spinning=False)
    placement = session.placement()
    assert placement is not None
    assert (placement.accelerated, placement.time_accelerated) == (0.0, 0.0)


def test_a_refusal_is_unsupported_with_what_the_delegate_said(digits_tflite: Path, use_delegate: UseDelegate) -> None:
    use_delegate("gpu", "refuse")
    with pytest.raises(UnsupportedError, match=r"refuses digits_fp32\.tflite: the test delegate refuses this graph"):
        RUNTIME.load(digits_tflite, variant=parse_variant("tflite/gpu/fp32"), threads=1, spinning=False)


def test_a_refusal_without_a_word_names_inputs_of_dynamic_size(digits_tflite: Path, use_delegate: UseDelegate) -> None:
    use_delegate("gpu", "static")
    with pytest.raises(UnsupportedError, match=r"static-sized tensors|inputs of dynamic size"):
        RUNTIME.load(digits_tflite, variant=parse_variant("tflite/gpu/fp32"), threads=1, spinning=False)


def qualified(artifact: MakeTflite, variant: str, accept: Accept = ALLOW) -> Trial:
    folder, _ = artifact(variant)
    trial = trial_of(run_in_worker(QualifyJob(artifact_dir=str(folder), accept=accept, latency=BUDGET), LIMITS))
    assert trial is not None
    return trial


@pytest.mark.parametrize(
    ("mode", "verdict", "gate", "word"),
    [
        ("absent", Verdict.UNSUPPORTED, Gate.LOAD, "no test device found"),
        ("refuse", Verdict.UNSUPPORTED, Gate.LOAD, "the test delegate refuses this graph"),
        ("crash", Verdict.CRASHED, None, "signal 11 (SIGSEGV)"),
        ("crash-prepare", Verdict.CRASHED, None, "signal 11 (SIGSEGV)"),
        ("fail-prepare", Verdict.UNSUPPORTED, Gate.LOAD, "failed to prepare"),
        ("crash-free", Verdict.CRASHED, None, "signal 11 (SIGSEGV)"),
        ("fail", Verdict.FAILED, Gate.LOAD, "an inference failed"),
        ("late", Verdict.FAILED, Gate.LATENCY, "an inference failed"),
        ("wrong", Verdict.FAILED, Gate.PARITY, "logits"),
        ("ok", Verdict.QUALIFIED, None, ""),
    ],
)
def test_each_way_a_delegate_ends_a_trial_has_a_verdict_of_its_own(
    tflite_artifact: MakeTflite,
    use_delegate: UseDelegate,
    mode: str,
    verdict: Verdict,
    gate: Gate | None,
    word: str,
) -> None:
    use_delegate("gpu", mode)
    trial = qualified(tflite_artifact, "tflite/gpu/fp32")
    assert (trial.verdict, trial.gate) == (verdict, gate), trial.reason
    assert word in (trial.reason or "")
    assert (trial.parity is not None) is (mode in {"late", "wrong", "ok"})  # what was found until then is kept


def test_fallback_nobody_asked_for_is_no_success(tflite_artifact: MakeTflite, use_delegate: UseDelegate) -> None:
    use_delegate("gpu", "ok")
    trial = qualified(tflite_artifact, "tflite/gpu/fp32", Accept())
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.PLACEMENT)
    assert "builtin kernels: 29, gpu: 1" in str(trial.reason)


def test_a_chain_tells_refusal_crash_and_wrong_numbers_apart_and_ends_on_xnnpack(
    tflite_artifact: MakeTflite, use_delegate: UseDelegate, tmp_path: Path
) -> None:
    use_delegate("gpu", "refuse")
    use_delegate("nnapi", "crash")
    use_delegate("edgetpu", "wrong")
    said = Device(tflite_artifact, tmp_path).reach(
        "tflite/gpu/fp32", "tflite/nnapi/fp32", "tflite/edgetpu/fp32", "tflite/xnnpack/fp32"
    )
    evidence = [report.evidence for report in said if isinstance(report, EvidenceReport)]
    assert [(found.variant, found.verdict, found.gate) for found in evidence] == [
        ("tflite/gpu/fp32", Verdict.UNSUPPORTED, Gate.LOAD),
        ("tflite/nnapi/fp32", Verdict.CRASHED, None),
        ("tflite/nnapi/fp32", Verdict.CRASHED, None),  # a crash is given a second try
        ("tflite/edgetpu/fp32", Verdict.FAILED, Gate.PARITY),
        ("tflite/xnnpack/fp32", Verdict.QUALIFIED, None),
    ]
    active = next(body for body in said if isinstance(body, Transition) and body.state is DeviceState.ACTIVE)
    assert active.variant == "tflite/xnnpack/fp32"
    reasons = [str(tried.reason) for tried in active.tried]
    words = ("refuses this graph", "SIGSEGV", "logits")
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))


class Device:
    """The agent's own rules and worker, without a network: artifacts lie on its disk already."""

    def __init__(self, artifact: MakeTflite, home: Path) -> None:
        self._artifact = artifact
        self._ports = TrialPorts(Storage(home, Filesystem()), LIMITS, False, run_in_worker)

    def reach(self, *chain: str) -> list[ReportBody]:
        """Wish for a chain of variants and return everything the device reports until nothing is left to do."""
        desired = self._desired([self._lay_out(variant) for variant in chain])
        facts = Facts(_profile(), now_ns=1)
        events: list[Event] = [DesiredReceived(desired)]
        state = AgentState()
        said: list[ReportBody] = []
        while events:
            state, actions = step(state, events.pop(0), facts)
            said += [action.body for action in actions if isinstance(action, Say)]
            events += [event for action in actions for event in self._do(action)]
        return said

    def _lay_out(self, variant: str) -> Candidate:
        folder, document = self._artifact(variant)
        target = self._ports.storage.folder(document.digest)
        folder.rename(target)
        size_bytes = (target / "artifact.json").stat().st_size
        return Candidate(
            variant=variant, artifact=document.digest, document_bytes=size_bytes, total_bytes=document.total_bytes
        )

    def _desired(self, chain: list[Candidate]) -> DesiredState:
        wish = DesiredModel(model="digits", release="sha256:" + "0" * 64, chain=tuple(chain), accept=ALLOW)
        release = release_digest(wish.model, wish.chain, wish.choose, wish.accept, wish.task)
        wish = wish.model_copy(update={"release": release})
        return DesiredState(site="lab", device="one", generation=1, revision=1, issued_at_ns=1, models=(wish,))

    def _do(self, action: Action) -> list[Event]:
        if isinstance(action, Fetch):
            return [ArtifactReady(action.token)]
        if isinstance(action, StartTrial):
            done = run_trial(action, self._ports, threading.Event())
            return [] if done is None else [done]
        return [Activated(action.token)] if isinstance(action, Activate) else []


def _profile() -> Profile:
    targets = ("tflite/gpu", "tflite/nnapi", "tflite/edgetpu", "tflite/xnnpack")
    return Profile(
        device="one", site="lab", agent_version="0", arch="x86_64", os="linux", kernel="6", python_version="3.11",
        cpu_model="test", cpu_count=2, memory_bytes=2**30, disk_free_bytes=2**30,
        engines=tuple(EngineProbe(target=target, status=ProbeStatus.AVAILABLE) for target in targets),
    )  # fmt: skip
