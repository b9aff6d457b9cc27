"""`fleet build`, `export` and `explain` through the real command line and real compile children."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from edgefleet_contract.artifact import ArtifactDocument
from edgefleet_contract.base import digest_bytes
from edgefleet_contract.job import BenchAnswer
from edgefleet_controller import tuned_file, tuning
from edgefleet_controller.cli.app import app
from edgefleet_controller.cli.applying import prepare
from edgefleet_controller.cli.tuning import with_accept
from edgefleet_controller.tuning import TuneLimits

runner = CliRunner()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense layer with a ReLU: small, and with weights to quantise."""
    weights = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path_factory.mktemp("models") / "Dense_Layer.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture(scope="module")
def samples(model: Path) -> Path:
    path = model.with_name("samples.npz")
    np.savez(path, x=np.random.default_rng(2).normal(size=(96, 8)).astype(np.float32))
    return path


def fleet(home: Path, *words: object) -> Result:
    return runner.invoke(app, [str(word) for word in words], env={"FLEET_HOME": str(home), "COLUMNS": "160"})


def built(home: Path, *words: object) -> list[dict[str, Any]]:
    result = fleet(home, "build", *words, "-o", "json")
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)["builds"]
    return rows


def test_a_bare_model_is_built_checked_and_written_as_a_folder(
    home: Path, model: Path, samples: Path, tmp_path: Path
) -> None:
    [row] = built(home, model, "--samples", samples, "--variant", "ort/cpu/int8", "--out", tmp_path)
    assert (row["model"], row["verdict"], row["evidence"]) == ("dense-layer", "pass", "executed-on-device")
    assert row["parity"]["n_samples"] == 48
    file = Path(row["file"])
    assert file.stat().st_size == row["bytes"]
    document = json.loads((file.parent / "artifact.json").read_text())
    assert document["provenance"]["materials"][0]["name"] == "source"
    assert not list(tmp_path.rglob(".*partial"))


def test_a_build_asked_twice_is_built_once_and_the_bytes_are_the_same(
    home: Path, model: Path, samples: Path, tmp_path: Path
) -> None:
    asked = (model, "--samples", samples, "--variant", "ort/cpu/int8-dynamic", "--out")
    [first] = built(home, *asked, tmp_path / "a")
    [again] = built(home, *asked, tmp_path / "b")
    [anew] = built(tmp_path / "other-home", *asked, tmp_path / "c")
    assert (again["cached"], anew["cached"]) == (True, False)
    assert first["artifact"] == again["artifact"] == anew["artifact"]
    assert len({Path(row["file"]).read_bytes() for row in (first, again, anew)}) == 1


def test_two_processes_that_ask_at_once_build_it_once(model: Path, samples: Path, tmp_path: Path) -> None:
    argv = [str(Path(sys.executable).with_name("fleet")), "build", str(model), "--samples", str(samples)]
    argv += ["--variant", "ort/cpu/fp32", "-o", "json"]
    env = {"FLEET_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    both = [subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    rows = [json.loads(process.communicate()[0])["builds"][0] for process in both]
    assert sorted(row["cached"] for row in rows) == [False, True]
    assert rows[0]["artifact"] == rows[1]["artifact"]


def test_without_samples_they_are_drawn_and_the_verdict_is_weak(home: Path, model: Path) -> None:
    [row] = built(home, model, "--variant", "ort/cpu/fp32")
    assert row["verdict"] == "weak"
    assert "random" in row["reason"]


def test_a_variant_nobody_builds_is_unsupported_with_a_reason_and_no_good_one_exits_3(home: Path, model: Path) -> None:
    result = fleet(home, "build", model, "--variant", "ort/cpu/int16x8", "-o", "json")
    assert result.exit_code == 3
    [row] = json.loads(result.stdout)["builds"]
    assert row["verdict"] == "unsupported"
    assert "int16x8" in row["reason"]


@pytest.mark.parametrize(("fault", "word"), [("segv", "SIGSEGV"), ("exit", "code 3"), ("garbage", "answer")])
def test_a_converter_that_misbehaves_is_one_failed_variant_and_the_others_are_built(
    fault: str, word: str, home: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFLEET_TEST_RUNTIMES", "1")
    bad, good = built(home, model, "--variant", f"misbehave/{fault}/int8", "--variant", "ort/cpu/fp32")
    assert (bad["verdict"], good["verdict"]) == ("failed", "weak")
    assert word in bad["reason"]
    command = Path(bad["reproduce"], "command.sh").read_text()
    assert "edgefleet_controller.compile" in command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--variant", "ort/gpu/fp32"], "unknown engine"),
        (["--samples", "nowhere.npz"], "no such file"),
        (["--calibration", "nowhere.npz"], "no such file"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_built(words: list[str], said: str, home: Path, model: Path) -> None:
    result = fleet(home, "build", model, *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_folder_that_holds_something_else_is_not_overwritten(home: Path, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "dense-layer" / "ort-cpu-fp32"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("mine")
    result = fleet(home, "build", model, "--variant", "ort/cpu/fp32", "--out", tmp_path)
    assert result.exit_code == 2
    assert "no artifact's folder" in result.stderr
    assert (mine / "thesis.txt").read_text() == "mine"


def test_an_export_runs_with_the_plain_runtime_alone_and_gives_the_golden_outputs(
    home: Path, examples: Path, tmp_path: Path
) -> None:
    source = examples / "models" / "mnist_cnn_fp32.onnx"
    given = (
        "--samples",
        examples / "data" / "digits.npz",
        "--preprocess-from",
        f"{examples / 'quickstart.yaml'}:digits",
    )
    [row] = built(home, source, *given, "--variant", "ort/cpu/fp32", "--out", tmp_path / "out")
    result = fleet(home, "export", Path(row["file"]).parent, tmp_path / "exported")
    assert result.exit_code == 0, result.output
    script = tmp_path / "exported" / "run.py"
    said = subprocess.run([sys.executable, "-I", script], capture_output=True, text=True, check=True).stdout
    golden = np.load(tmp_path / "exported" / "artifact_outputs.npz")["logits"][0]
    assert f"{golden[0]:.3f}"[:5] in said
    assert len(script.read_text().splitlines()) <= 14


def test_an_export_of_a_transposed_file_prints_the_golden_outputs_by_the_sources_names_and_axes(
    home: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(4)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["edge"]), helper.make_node("Sigmoid", ["edge"], ["kept:0"])],
        "g",
        [value("image", TensorProto.FLOAT, [1, 2, 4, 5])],
        [value("edge", TensorProto.FLOAT, [1, 3, 2, 3]), value("kept:0", TensorProto.FLOAT, [1, 3, 2, 3])],
        [onnx.numpy_helper.from_array(random.normal(size=(3, 2, 3, 3)).astype(np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    source, folder = tmp_path / "edges.onnx", tmp_path / "exported"
    source.write_bytes(made.SerializeToString())
    [row] = built(home, source, "--variant", "tflite/cpu/fp32", "--out", tmp_path / "out")
    assert fleet(home, "export", Path(row["file"]).parent, folder).exit_code == 0
    held = ArtifactDocument.model_validate_json((folder / "artifact.json").read_bytes()).io.output_map
    assert held["kept:0"].axes  # else this shows nothing
    assert held["kept:0"].name != "kept:0"
    run = [sys.executable, "-I", str(folder / "run.py")]
    said = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60).stdout
    with np.load(folder / "artifact_outputs.npz") as loaded:
        golden = dict(loaded)
    told = re.findall(r"(\S+) \(([\d, ]+)\) \[([^]]+)\]", said)
    assert [(name, shape) for name, shape, _ in told] == [("edge", "1, 3, 2, 3"), ("kept:0", "1, 3, 2, 3")]
    for name, _, values in told:
        np.testing.assert_allclose([float(each) for each in values.split()], golden[name].ravel()[:8], atol=1e-4)


def test_an_artifact_is_exported_by_its_digest(home: Path, model: Path, tmp_path: Path) -> None:
    [row] = built(home, model, "--variant", "ort/cpu/fp32")
    assert fleet(home, "export", row["artifact"], tmp_path / "e").exit_code == 0
    assert fleet(home, "export", "sha256:" + "0" * 64, tmp_path / "f").exit_code == 2
    assert fleet(home, "export", "nonsense", tmp_path / "f").exit_code == 2


def test_a_model_is_explained_operator_by_operator(home: Path, model: Path) -> None:
    result = fleet(home, "explain", model, "--variant", "ort/cpu/fp32", "-o", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [(each["index"], each["type"], each["placed"]) for each in told["operators"]] == [
        (0, "MatMul", "cpu"),
        (1, "Relu", "cpu"),
    ]
    assert told["operators"][0]["name"] == "dense"
    assert told["source"] == "runtime"


def test_what_only_a_device_can_tell_is_said_so(home: Path, model: Path) -> None:
    result = fleet(home, "explain", model, "--variant", "ort/qnn/int8")
    assert result.exit_code == 2
    assert "qnn" in result.stderr


@pytest.mark.parametrize("what", ["nets/small", "nothing.pt"])
def test_what_is_neither_there_nor_a_devices_name_is_not_looked_for_in_the_fleet(home: Path, what: str) -> None:
    result = fleet(home, "explain", what)
    assert result.exit_code == 2
    assert f"{what}: no such file or folder" in result.stderr


def test_an_artifact_is_explained_from_its_folder(home: Path, model: Path, samples: Path, tmp_path: Path) -> None:
    [row] = built(home, model, "--samples", samples, "--variant", "ort/cpu/int8", "--out", tmp_path)
    result = fleet(home, "explain", Path(row["file"]).parent)
    assert result.exit_code == 0, result.output
    for word in ("ort/cpu/int8", "calibration", "checked on the builder", "onnxruntime"):
        assert word in result.stdout


def test_a_damaged_document_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "artifact.json").write_text('{"format": "other"}')
    result = fleet(home, "explain", tmp_path)
    assert result.exit_code == 2
    assert "not an artifact's document" in result.stderr


def test_a_search_marks_the_frontier_and_its_recipe_is_what_apply_builds_by(
    home: Path, model: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(model.read_bytes())
    picture = tmp_path / "m.html"
    timed: list[str] = []
    bench = tuning._bench

    def counted(file: str, document: ArtifactDocument) -> BenchAnswer | str:
        timed.append(digest_bytes(Path(file).read_bytes()))
        return bench(file, document)

    monkeypatch.setattr(tuning, "_bench", counted)
    words = ("tune", source, "--samples", samples, "--targets", "ort/cpu/int8,ort/cpu/fp32", "--plot", picture)
    result = fleet(home, *words, "-o", "json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["api"] == "fleet/v1"
    assert len(told["points"]) == 8, "the method the default came to by itself is not built twice"
    assert all(point["p50_ms"] for point in told["points"] if point["verdict"] == "pass")
    assert any(point["frontier"] for point in told["points"])
    assert len(timed) == len(set(timed)), "one file is timed once, whatever recipes came to it"
    assert "<svg" in picture.read_text()
    beside = tmp_path / "m.onnx.tuned.json"
    chosen = {**json.loads(beside.read_text()), "recipes": {"ort/cpu/int8": {"calibration": "entropy"}}}
    beside.write_text(json.dumps(chosen))
    (tmp_path / "samples.npz").write_bytes(samples.read_bytes())
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(
        "fleet: v1\nmodels: {m: {source: m.onnx, samples: samples.npz}}\ndeployments: [{model: m, to: all}]"
    )
    recipe = prepare(manifest).request(prune=False).recipes["m"]["ort/cpu/int8"]
    assert recipe.calibration == "entropy"


def test_a_picture_in_another_form_is_refused_before_anything_is_built(home: Path, model: Path) -> None:
    result = fleet(home, "tune", model, "--plot", "x.pdf")
    assert result.exit_code == 2
    assert ".html and .png" in result.stderr


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_place_that_cannot_be_written_is_refused_before_the_search(home: Path, model: Path, option: str) -> None:
    result = fleet(home, "tune", model, option, "/proc/no/x.png")
    assert result.exit_code == 2
    assert f"{option} /proc/no/x.png: cannot be written" in result.stderr


@pytest.mark.parametrize(("out", "words"), [("/proc/no", "nothing can be written in /proc"), (None, "is a file")])
def test_a_folder_that_cannot_be_written_is_refused_before_the_build(
    home: Path, model: Path, out: str | None, words: str
) -> None:
    result = fleet(home, "build", model, "--variant", "ort/cpu/fp32", "--out", out or model)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize("command", ["build", "explain", "tune"])
def test_a_file_larger_than_any_model_is_refused_without_being_read(home: Path, tmp_path: Path, command: str) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as stream:
        stream.truncate(2 * 1024**3 + 1)
    result = fleet(home, command, path)
    assert result.exit_code == 2
    assert "has 2147483649 bytes; allowed" in result.stderr


def test_a_search_holds_what_the_manifest_accepts_of_its_model(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(
        "fleet: v1\nmodels: {m: {source: m.onnx, samples: s.npz}}\ndeployments:\n"
        "- {model: m, to: all, accept: {parity: {min_agreement: 0.9}}}\n"
        "- {model: m, to: cpu, accept: {parity: {min_agreement: 0.95, min_sqnr_db: 20}}}\n"
    )
    limits = with_accept(TuneLimits(max_bytes=9), str(manifest), "m")
    assert limits == TuneLimits(max_bytes=9, min_agreement=0.95, min_sqnr_db=20.0)
    assert with_accept(TuneLimits(min_agreement=0.5), f"{manifest}:m", "m").min_agreement == 0.5
    assert with_accept(TuneLimits(), "m.onnx", "m") == TuneLimits()


def test_what_does_not_fit_a_model_is_said_with_its_place_in_the_manifest(
    home: Path, model: Path, samples: Path
) -> None:
    manifest = model.with_name("states.yaml")
    manifest.write_text(
        f"fleet: v1\nmodels:\n  dense:\n    source: {model.name}\n    samples: {samples.name}\n"
        "    state: {yy: x}\ndeployments:\n  - {model: dense, to: all}\n",
        encoding="utf-8",
    )
    said = fleet(home, "build", manifest, "--variant", "ort/cpu/fp32")
    assert said.exit_code == 2, said.output
    assert "states.yaml:6:17: model 'dense': state names output 'yy'; the model has 'y'" in " ".join(
        said.output.split()
    )


@pytest.fixture
def artifact(home: Path, model: Path, tmp_path: Path) -> Path:
    [row] = built(home, model, "--variant", "ort/cpu/fp32", "--out", tmp_path / "out")
    return Path(row["file"]).parent


def test_an_export_deletes_nothing_that_is_no_part_of_an_artifact(home: Path, artifact: Path, tmp_path: Path) -> None:
    place = tmp_path / "exported"
    for _ in range(2):
        assert fleet(home, "export", artifact, place).exit_code == 0
    (place / "notes.txt").write_text("mine")
    result = fleet(home, "export", artifact, place)
    assert result.exit_code == 2
    assert "notes.txt" in result.stderr
    assert (place / "notes.txt").read_text() == "mine"


def test_an_export_to_a_file_or_to_the_folder_one_stands_in_is_refused(
    home: Path, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    Path("file").write_text("mine")
    for place, why in (("file", "is no folder"), (".", "is the folder this command runs in")):
        result = fleet(home, "export", artifact, place)
        assert result.exit_code == 2
        assert why in result.stderr
    assert [each.name for each in here.iterdir()] == ["file"]


def test_a_mistyped_model_is_answered_with_its_neighbour(home: Path, model: Path) -> None:
    result = fleet(home, "build", model.with_name("Dense_Layr.onnx"))
    assert result.exit_code == 2
    assert f"did you mean {str(model)!r}?" in result.stderr


def test_a_folder_without_an_artifact_is_named(home: Path, model: Path) -> None:
    result = fleet(home, "explain", model.parent)
    assert result.exit_code == 2
    assert f"{model.parent} holds no artifact.json" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--max-p50", "fast"), "--max-p50 'fast': "),
        (("--max-size", "big"), "--max-size 'big': "),
        (("--targets", "ort/cpx"), "unknown engine of ort 'cpx'; allowed: cpu,"),
    ],
)
def test_a_wrong_limit_or_target_is_named_with_what_is_allowed(
    home: Path, model: Path, words: tuple[str, str], said: str
) -> None:
    result = fleet(home, "tune", model, *words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_search_that_finds_nothing_leaves_the_earlier_result(home: Path, model: Path, samples: Path) -> None:
    beside = model.with_name(model.name + tuned_file.SUFFIX)
    beside.write_text("earlier")
    given = ("--samples", samples, "--targets", "ort/cpu/fp32", "--max-size", "1B")
    result = fleet(home, "tune", model, *given)
    assert result.exit_code == 3
    assert beside.read_text() == "earlier"
    assert "nothing was written for fleet apply" in result.stderr
    beside.unlink()
