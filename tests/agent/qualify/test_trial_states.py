"""Trials of a model that passes state on: judged over sequences, with its own states fed back."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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


def recurrent(path: Path, *, kept: str = "next", half: bool = False, gain: float = 1.0) -> Path:
    """Write `y`, `hidden` = f(x, before); `kept` is what comes out as the state."""
    random = np.random.default_rng(3)
    weights = {"wx": (4, 8, 0.7), "wh": (8, 8, 0.3), "wy": (8, 5, gain)}
    values = {name: random.normal(size=(rows, columns)) * size for name, (rows, columns, size) in weights.items()}
    rounded = {name: each.astype(np.float16 if half else np.float32) for name, each in values.items()}
    nodes = [
        helper.make_node("MatMul", ["x", "wx"], ["left"]),
        helper.make_node("MatMul", ["before", "wh"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["next"]),
        helper.make_node("MatMul", ["next", "wy"], ["y"]),
        helper.make_node("Identity", [kept], ["hidden"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [value("x", TensorProto.FLOAT, [1, 4]), value("before", TensorProto.FLOAT, [1, 8])],
        [value("y", TensorProto.FLOAT, [1, 5]), value("hidden", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(each.astype(np.float32), name) for name, each in rounded.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def artifact(folder: Path, variant: str, candidate: Path) -> Path:
    """Lay out an artifact whose source is the sound net and whose file is another; its own outputs are the file's."""
    source = recurrent(folder / "source.onnx")
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
    tmp_path: Path, small_budget: LatencyBudget, variant: str, half: bool
) -> None:
    trial = tried(artifact(tmp_path, variant, recurrent(tmp_path / "c.onnx", half=half)), small_budget)
    assert trial.verdict is Verdict.QUALIFIED, trial.reason
    assert trial.parity is not None
    assert [output.name for output in trial.parity.outputs] == ["y"]
    assert trial.parity.n_samples == 96
    assert trial.latency is not None


@pytest.mark.parametrize("variant", ["ort/cpu/fp32", "ort/cpu/fp16", "ort/cpu/int8"])
def test_an_artifact_that_does_not_pass_its_state_on_fails_and_its_single_steps_do_not(
    tmp_path: Path, small_budget: LatencyBudget, variant: str
) -> None:
    trial = tried(artifact(tmp_path, variant, recurrent(tmp_path / "c.onnx", kept="before")), small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.PARITY)
    assert trial.reason is not None
    assert trial.reason.endswith(
        "single steps from the source's own states pass: what it passes on from step to step goes wrong"
    )


def test_an_artifact_that_answers_wrongly_fails_in_single_steps_too(
    tmp_path: Path, small_budget: LatencyBudget
) -> None:
    trial = tried(artifact(tmp_path, "ort/cpu/int8", recurrent(tmp_path / "c.onnx", gain=1.5)), small_budget)
    assert (trial.verdict, trial.gate) == (Verdict.FAILED, Gate.PARITY)
    assert trial.reason is not None
    assert trial.reason.endswith("single steps from the source's own states fail too")
