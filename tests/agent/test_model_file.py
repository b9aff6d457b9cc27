"""What a bare model file is and claims, and that bench and compare take it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefleet_agent.compare import compare
from edgefleet_agent.model_file import bare_variant, claimed_precision, is_tflite
from edgefleet_agent.samples import load_arrays
from edgefleet_agent.tasks import do_job
from edgefleet_agent.tflite_scan import is_whole
from edgefleet_contract.artifact import InputTransform, Layout, TensorMap
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import ParityVerdict
from edgefleet_contract.job import BenchAnswer, BenchJob, CompareJob, LatencyBudget, OutputsAnswer, OutputsJob


@pytest.fixture(scope="session")
def digits_tflite(repository: Path) -> Path:
    return repository / "tests/data/tflite/digits_fp32.tflite"


@pytest.fixture(scope="session")
def wake_word(repository: Path) -> Path:
    return repository / "tests/data/tflite/okay_nabu.tflite"


def test_a_file_is_known_by_its_first_bytes(digits_tflite: Path, digit_model: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "model.bin"
    hidden.write_bytes(digits_tflite.read_bytes())
    assert bare_variant(hidden) == "tflite/xnnpack/fp32"
    assert bare_variant(digit_model, "int8") == "ort/cpu/int8"
    assert not is_tflite(tmp_path / "absent.bin")


def test_a_damaged_file_is_what_its_suffix_says(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"x" * 20)
    assert bare_variant(tmp_path / "m.tflite") == "tflite/xnnpack/fp32"


def test_the_precision_a_tflite_file_claims_is_read_from_its_weights(digits_tflite: Path, wake_word: Path) -> None:
    assert claimed_precision(digits_tflite) == "fp32"
    assert claimed_precision(wake_word) == "int8"


@given(st.integers(0, 90))
def test_a_file_that_was_cut_short_is_not_whole(
    tmp_path_factory: pytest.TempPathFactory, digits_tflite: Path, percent: int
) -> None:
    data = digits_tflite.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "m.tflite"
    path.write_bytes(data[: len(data) * percent // 100])
    assert not is_whole(path)
    assert is_whole(digits_tflite)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 80_000), st.integers(0, 255)), max_size=20), st.integers(8, 80_824))
def test_any_damage_still_claims_some_precision(
    tmp_path_factory: pytest.TempPathFactory, wake_word: Path, changes: list[tuple[int, int]], size_bytes: int
) -> None:
    data = bytearray(wake_word.read_bytes())
    for place, byte in changes:
        data[8 + place] = byte
    path = tmp_path_factory.mktemp("damaged") / "m.tflite"
    path.write_bytes(data[:size_bytes])
    assert isinstance(claimed_precision(path), str)


@pytest.mark.parametrize("swapped", [False, True])
def test_onnx_and_tflite_of_one_model_are_compared_through_the_order_of_axes(
    digit_model: Path, digits_tflite: Path, digit_samples: Path, digit_preprocess: dict[str, InputTransform],
    swapped: bool,
) -> None:  # fmt: skip
    pair = [str(digit_model), str(digits_tflite)]
    left, right = reversed(pair) if swapped else pair
    answer = compare(
        CompareJob(reference=left, candidate=right, samples=str(digit_samples), preprocess=digit_preprocess)
    )
    assert (answer.verdict, answer.precision) == (ParityVerdict.PASS, "fp32"), answer.reason
    assert answer.parity.n_samples == 64
    assert answer.assumed == (() if swapped else ("input 'image' has the axes of 'image' in the order [0, 2, 3, 1]",))


def test_two_tflite_files_are_fed_as_their_source_is(
    digits_tflite: Path, digit_samples: Path, digit_preprocess: dict[str, InputTransform]
) -> None:
    path = str(digits_tflite)
    job = CompareJob(reference=path, candidate=path, samples=str(digit_samples), preprocess=digit_preprocess)
    answer = compare(job)
    assert answer.verdict is ParityVerdict.PASS
    assert answer.parity.outputs[0].bit_exact


def test_models_that_do_not_fit_each_other_are_refused_in_words(
    digit_model: Path, wake_word: Path, digit_samples: Path, digit_preprocess: dict[str, InputTransform]
) -> None:
    job = CompareJob(
        reference=str(digit_model), candidate=str(wake_word), samples=str(digit_samples), preprocess=digit_preprocess
    )
    with pytest.raises(UserInputError, match="inputs of the two models do not fit: image"):
        compare(job)


@pytest.mark.parametrize("layout", [Layout.NCHW, Layout.NHWC])
def test_a_bare_tflite_file_is_timed_on_samples_prepared_for_either_order(
    digits_tflite: Path, digit_samples: Path, digit_preprocess: dict[str, InputTransform], small_budget: LatencyBudget,
    layout: Layout,
) -> None:  # fmt: skip
    preprocess = {"image": digit_preprocess["image"].model_copy(update={"layout": layout})}
    answer = do_job(
        BenchJob(model=str(digits_tflite), samples=str(digit_samples), latency=small_budget, preprocess=preprocess)
    )
    assert isinstance(answer, BenchAnswer)
    assert answer.conditions.runtime == "tflite"
    assert answer.latency.p50_ms > 0


def test_outputs_are_written_in_the_sources_terms(
    digits_tflite: Path, digit_samples: Path, digit_preprocess: dict[str, InputTransform], tmp_path: Path
) -> None:
    job = OutputsJob(
        model=str(digits_tflite),
        variant="tflite/xnnpack/fp32",
        samples=str(digit_samples),
        preprocess=digit_preprocess,
        input_map={"image": TensorMap(name="image", axes=(0, 2, 3, 1))},
        output_map={"scores": TensorMap(name="logits")},
        out=str(tmp_path / "out.npz"),
    )
    answer = do_job(job)
    assert isinstance(answer, OutputsAnswer)
    assert [given.name for given in answer.outputs] == ["scores"]
    assert load_arrays(tmp_path / "out.npz")["scores"].shape == (64, 10)
