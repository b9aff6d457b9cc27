"""TFLite files as sources: read, refused, shipped byte for byte, and compared by other kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefleet_contract.artifact import EvidenceLevel, FileRole
from edgefleet_contract.base import digest_bytes
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.build import Built, ChildSteps, NotBuilt
from edgefleet_controller.compile import coverage
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import CoverageRequest, ModelRecord
from edgefleet_controller.compile.sources import formats as sources
from edgefleet_controller.compile.tflite import flatbuffer, given, graph, interpreter, quantise
from edgefleet_controller.compile.tflite.precision import precision_of

DIGEST = "sha256:" + "5" * 64


@pytest.fixture(scope="session")
def digits(repository: Path) -> bytes:
    return (repository / "tests" / "data" / "tflite" / "digits_fp32.tflite").read_bytes()


@pytest.fixture(scope="session")
def wake_word(repository: Path) -> bytes:
    """An int8 file whose model keeps state between inferences."""
    return (repository / "tests" / "data" / "tflite" / "okay_nabu.tflite").read_bytes()


@pytest.fixture
def tflite(bench: Any, digits: bytes, examples: Path) -> Any:
    """A bench whose model is the digit classifier as a TFLite file, with 24 real digits in the file's own layout."""
    with np.load(examples / "data" / "digits.npz") as given_digits:
        images = (given_digits["image"][:24, ..., None].astype(np.float32) - 33.3285) / 78.5655
        labels = given_digits["labels"][:24]
    bench.put("m.tflite", digits)
    bench.put_arrays("d.npz", {"image": images, "labels": labels})
    bench.model = bench.check(source="m.tflite", samples="d.npz", task="classification")
    return bench


def changed(data: bytes, change: Callable[[Any], None]) -> bytes:
    model = flatbuffer.read(data)
    change(model)
    return flatbuffer.write(model)


# -- reading -----------------------------------------------------------------------------------------------------


def test_a_file_is_read_with_its_names_dynamic_sizes_and_what_runs_it(digits: bytes) -> None:
    record, _ = given.open_source(digits, DIGEST)
    assert (record.format, record.precision, record.reference) == ("tflite", "fp32", "tflite/xnnpack/fp32")
    assert [(each.name, each.dtype, each.shape) for each in (*record.inputs, *record.outputs)] == [
        ("image", "float32", ("batch", 28, 28, 1)),
        ("logits", "float32", ("batch", 10)),
    ]
    assert record.batch_is_dynamic
    assert (record.opset, record.operators["CONV_2D"]) == (None, 3)


def test_integer_edges_keep_their_dtypes(wake_word: bytes) -> None:
    record, _ = given.open_source(wake_word, DIGEST)
    assert record.precision == "int8"
    assert [(each.dtype, each.shape) for each in (*record.inputs, *record.outputs)] == [
        ("int8", (1, 3, 40)),
        ("uint8", (1, 1)),
    ]


@pytest.mark.parametrize(
    ("make", "precision"),
    [
        (quantise.fp16, "fp16"),
        (quantise.int8_dynamic, "int8-dynamic"),
        (lambda data: static(data, 8), "int8"),
        (lambda data: static(data, 16), "int16x8"),
    ],
)
def test_the_precision_is_read_from_the_tensors(digits: bytes, make: Callable[[bytes], bytes], precision: str) -> None:
    assert precision_of(graph.read(make(digits))) == precision


def static(data: bytes, bits: int) -> bytes:
    feeds = [{"image": np.random.default_rng(seed).normal(size=(1, 28, 28, 1)).astype(np.float32)} for seed in range(4)]
    return next(iter(quantise.static(data, feeds, activation_bits=bits).files.values()))


def test_a_model_that_keeps_state_is_not_called_nondeterministic(bench: Any, wake_word: bytes) -> None:
    bench.put("m.tflite", wake_word)
    frames = np.random.default_rng(0).integers(-100, 100, size=(8, 3, 40)).astype(np.int8)
    bench.put_arrays("f.npz", {"serving_default_input_1:0": frames})
    inputs = [each.name for each in given.open_source(wake_word, DIGEST)[0].inputs]
    checked = bench.check(
        source="m.tflite", samples={"file": "f.npz", "inputs": {inputs[0]: "serving_default_input_1:0"}}
    )
    assert checked.model.reference == "tflite/xnnpack/int8"


def test_a_graph_that_xnnpack_prepares_and_cannot_run_is_run_without_it(
    monkeypatch: pytest.MonkeyPatch, digits: bytes
) -> None:
    real = interpreter.Interpreter._run

    def run(self: interpreter.Interpreter, feeds: Any) -> Any:
        if self.delegated:
            raise RuntimeError("Node number 3 (XNNPACK) failed to invoke")
        return real(self, feeds)

    monkeypatch.setattr(interpreter.Interpreter, "_run", run)
    assert given.open_source(digits, DIGEST)[0].reference == "tflite/cpu/fp32"


def test_zeros_that_a_model_does_not_take_say_nothing_of_its_kernels(
    monkeypatch: pytest.MonkeyPatch, digits: bytes
) -> None:
    def run(self: interpreter.Interpreter, feeds: Any) -> Any:
        raise RuntimeError("gather index out of bounds")

    monkeypatch.setattr(interpreter.Interpreter, "_run", run)
    assert given.open_source(digits, DIGEST)[0].reference == "tflite/xnnpack/fp32"


# -- where its operators would run -------------------------------------------------------------------------------


def coverage_of(path: Path, variant: str) -> Any:
    return coverage.coverage(CoverageRequest(model=str(path), variant=variant, work_dir=str(path.parent)))


def test_the_edge_tpus_table_is_asked_about_a_file_as_it_is(wake_word: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(wake_word)
    found = coverage_of(tmp_path / "m.tflite", "tflite/edgetpu/int8")
    assert found.target == "tflite/edgetpu"
    assert found.first_blocking is not None
    assert found.first_blocking.type == "CALL_ONCE"
    with pytest.raises(CompileFaultError, match="no table says"):
        coverage_of(tmp_path / "m.tflite", "tflite/xnnpack/int8")


# -- refusing ----------------------------------------------------------------------------------------------------


def nan_weights(model: Any) -> None:
    tensor = next(
        each for each in model.subgraphs[0].tensors if each.type == 0 and model.buffers[each.buffer].data is not None
    )
    model.buffers[tensor.buffer].data = np.full(len(model.buffers[tensor.buffer].data), 0xFF, np.uint8)


def foreign_operator(model: Any, name: bytes) -> None:
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode = 32, 32, name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (nan_weights, "holds NaN in weight"),
        (lambda model: foreign_operator(model, b"edgetpu-custom-op"), "compiled for the Edge TPU already"),
        (lambda model: foreign_operator(model, b"FlexErf"), "refused by LiteRT"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_to_do(
    digits: bytes, change: Callable[[Any], None], words: str
) -> None:
    with pytest.raises(CompileFaultError, match=words) as caught:
        given.open_source(changed(digits, change), DIGEST)
    assert caught.value.next_step


def test_a_file_cut_short_is_refused(bench: Any, digits: bytes) -> None:
    bench.put("m.tflite", digits[: len(digits) // 2])
    with pytest.raises(UserInputError, match=r"damaged TFLite file|refused by LiteRT"):
        bench.check(source="m.tflite")


def test_samples_must_have_the_files_own_layout(tflite: Any) -> None:
    tflite.put_arrays("d.npz", {"image": np.zeros((4, 1, 28, 28), np.float32)})
    with pytest.raises(UserInputError, match=r"got \[4, 1, 28, 28\], the model wants \[batch, 28, 28, 1\]"):
        tflite.check(source="m.tflite", samples="d.npz")


# -- what it can become ------------------------------------------------------------------------------------------


def record(precision: str, engine: str = "xnnpack") -> ModelRecord:
    return ModelRecord(
        source=DIGEST, format="tflite", precision=precision, reference=f"tflite/{engine}/{precision}", inputs=(),
        outputs=(), nodes_n=1, parameters_n=1, domains=(), batch_is_dynamic=False, operators={},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("ort/cpu/fp32", "ort takes ONNX"),
        ("tensorrt/gpu/fp16", "tensorrt takes ONNX"),
        ("tflite/xnnpack/fp32", "shipped as it is"),
        ("tflite/xnnpack/int8", None),
        ("tflite/edgetpu/int8", None),
    ],
)
def test_only_tflite_in_the_files_precision_can_be_made(variant: str, words: str | None) -> None:
    reason = sources.refusal(record("int8"), parse_variant(variant))
    assert (reason is None) if words is None else (reason is not None and words in reason)


def test_a_file_xnnpack_cannot_prepare_is_not_built_for_it() -> None:
    reason = sources.refusal(record("fp32", "cpu"), parse_variant("tflite/xnnpack/fp32"))
    assert reason is not None
    assert "tflite/cpu/fp32 runs it" in reason


def test_default_chains_name_the_files_precision_and_engines_that_take_it() -> None:
    chains = sources.own_chains(record("int8"))
    assert chains is not None
    assert chains["coral"] == ("tflite/edgetpu/int8", "tflite/xnnpack/int8", "tflite/cpu/int8")
    assert chains["phone"] == chains["cpu"] == ("tflite/xnnpack/int8", "tflite/cpu/int8")
    phone = sources.own_chains(record("fp16"))
    assert phone is not None
    assert phone["phone"][0] == "tflite/gpu/fp16"


# -- building ----------------------------------------------------------------------------------------------------


def test_the_file_is_shipped_byte_for_byte_and_its_kernels_are_compared(tflite: Any, digits: bytes) -> None:
    built = tflite.builder.build(tflite.model, "tflite/xnnpack/fp32")
    assert isinstance(built, Built)
    model = built.document.file(FileRole.MODEL)
    assert model is not None
    assert (model.name, model.digest) == ("model.tflite", digest_bytes(digits))
    assert built.document.options == {"made": "the source file, byte for byte"}
    check = built.document.host_check
    assert check is not None
    assert (check.ran_as, check.verdict, check.agreement) == ("tflite/cpu/fp32", "pass", 1.0)
    assert check.level is EvidenceLevel.EXECUTED_ON_DEVICE
    assert "its own source" in (check.reason or "")
    assert check.metric_reference == check.metric_measured


def test_the_built_in_kernels_are_compared_with_the_reference(tflite: Any) -> None:
    built = tflite.builder.build(tflite.model, "tflite/cpu/fp32")
    assert isinstance(built, Built)
    check = built.document.host_check
    assert check is not None
    assert (check.ran_as, check.verdict) == ("tflite/cpu/fp32", "pass")
    assert check.worst_sqnr_db is not None


def test_kernels_that_disagree_make_the_check_weak_and_say_so(tflite: Any) -> None:
    class Disagreeing(ChildSteps):
        def outputs(self, job: Any) -> Any:
            answer = super().outputs(job)
            if job.variant == "tflite/cpu/fp32":
                with np.load(job.out) as found:
                    arrays = {name: -found[name] for name in found.files}
                np.savez(job.out, **arrays)
            return answer

    built = tflite.another_builder(steps=Disagreeing()).build(tflite.model, "tflite/xnnpack/fp32")
    assert isinstance(built, Built)
    check = built.document.host_check
    assert check is not None
    assert check.verdict == "weak"
    assert "tflite/cpu/fp32 disagrees" in (check.reason or "")


def test_other_variants_are_unsupported_and_known_so_without_a_build(tflite: Any) -> None:
    for outcome in (
        tflite.builder.cached(tflite.model, "ort/cpu/int8"),
        tflite.builder.build(tflite.model, "ort/cpu/int8"),
    ):
        assert isinstance(outcome, NotBuilt)
        assert outcome.tried.verdict is Verdict.UNSUPPORTED
        assert "its source is a TFLite file in fp32" in (outcome.tried.reason or "")
