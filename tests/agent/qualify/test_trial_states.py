"""Trials of a model that passes state on: judged over sequences, with its own states fed back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefleet_agent.qualify.trial import run_trial
from edgefleet_agent.samples import load_samples, save_arrays
from edgefleet_agent.tasks import open_model, outputs_of
from edgefleet_contract.artifact import ArtifactDocument, ArtifactFile, FileRole, IoContract
from edgefleet_contract.base import digest_bytes
from edgefleet_contract.evidence import Gate, Task, Trial, Verdict
from edgefleet_contract.job import LatencyBudget, QualifyJob

STATE = {"hidden": "before"}
ROLES = {
    "model.onnx": FileRole.MODEL,
    "samples.npz": FileRole.SAMPLES,
    "source_outputs.npz": FileRole.SOURCE_OUTPUTS,
    "artifact_outputs.npz": FileRole.ARTIFACT_OUTPUTS,
}


def artifact(folder: Path, variant: str, source: Path, candidate: Path) -> Path:
    """Lay out an artifact of a source whose file is the candidate; its own outputs are the file's."""
    shutil.copy(candidate, folder / "model.onnx")
    x = np.random.default_rng(4).normal(size=(96, 4)).astype(np.float32)
    sequences = np.repeat([0, 1, 2], [40, 40, 16])
    session = open_model(source, "ort/cpu/fp32")
    states, hidden = [], np.zeros((1, 8), np.float32)
    for index, number in enumerate(sequences):
        hidden = np.zeros((1, 8), np.float32) if index and number != sequences[index - 1] else hidden
        states.append(hidden)
        hidden = session.run({"x": x[index : index + 1], "before": hidden})["hidden"]
    arrays = {"x": x, "sequences": sequences, "before": np.stack(states), "rate": np.ones(96)}
    save_arrays(folder / "samples.npz", arrays)
    samples = load_samples(folder / "samples.npz")
    taken = type(samples)({name: samples.inputs[name] for name in ("x", "before")}, None, samples.sequences)
    for name, path in (("source_outputs", source), ("artifact_outputs", folder / "model.onnx")):
        save_arrays(folder / f"{name}.npz", outputs_of(open_model(path, "ort/cpu/fp32"), taken, {}, STATE))
    files = tuple(
        ArtifactFile(
            name=name, role=role, size_bytes=len(data := (folder / name).read_bytes()), digest=digest_bytes(data)
        )
        for name, role in ROLES.items()
    )
    document = ArtifactDocument(
        model="walk", variant=variant, source="sha256:" + "0" * 64, build_key="sha256:" + "0" * 64, files=files,
        io=IoContract(inputs=session.inputs, outputs=session.outputs, state=STATE, bound=("rate",)),
    )  # fmt: skip
    (folder / "artifact.json").write_bytes(document.canonical_json())
    return folder


def tried(folder: Path, budget: LatencyBudget) -> Trial:
    return run_trial(QualifyJob(artifact_dir=str(folder), task=Task.REGRESSION, latency=budget))


@pytest.mark.parametrize(("variant", "half"), [("ort/cpu/fp32", False), ("ort/cpu/fp16", True)])
def test_an_honest_artifact_qualifies_by_its_answers_alone(
    tmp_path: Path, recurrent: Callable[..., Path], small_budget: LatencyBudget, variant: str, half: bool
) -> None:
    trial = tried(artifact(tmp_path, variant, recurrent("source"), recurrent("candidate", half=half)), small_budget)
    assert trial.verdict is Verdict.QUALIFIED, trial.reason
    assert trial.parity is not None
    assert [output.name for output in trial.parity.outputs] == ["y"]
    assert trial.parity.n_samples == 96
    assert trial.latency is not None


@pytest.mark.parametrize("variant", ["ort/cpu/fp32", "ort/cpu/fp16", "ort/cpu/int8"])
def test_an_artifact_that_does_not_pass_its_state_on_fails_and_its_single_steps_do_not(
    tmp_path: Path, recurrent: Callable[..., Path], small_budget: LatencyBudget, variant: str
) -> None:
    trial = tried(artifact(tmp_path, variant, recurrent("source"), recurrent("candidate", kept="before")), small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.PARITY)
    assert trial.reason is not None
    assert trial.reason.endswith(
        "single steps from the source's own states pass: what it passes on from step to step goes wrong"
    )


def test_an_artifact_that_answers_wrongly_fails_in_single_steps_too(
    tmp_path: Path, recurrent: Callable[..., Path], small_budget: LatencyBudget
) -> None:
    trial = tried(
        artifact(tmp_path, "ort/cpu/int8", recurrent("source"), recurrent("candidate", gain=1.5)), small_budget
    )
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.PARITY)
    assert trial.reason is not None
    assert trial.reason.endswith("single steps from the source's own states fail too")
