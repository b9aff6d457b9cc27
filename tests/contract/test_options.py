"""Options a manifest may set and an artifact may carry: none names a file, a library or an address."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from edgefleet_contract.manifest import ModelSpec
from edgefleet_contract.options import (
    BUILD_OPTIONS,
    PROVIDER_OPTIONS,
    OptionText,
    TargetName,
    TargetOptions,
    manifest_problem,
    provider_problem,
)
from edgefleet_contract.variant import ENGINES

LIBRARIES = {
    "ort/qnn": ("backend_path", "libEvil.so"),
    "ort/tensorrt": ("trt_extra_plugin_lib_paths", "evil.so"),
    "ort/cuda": ("user_compute_stream", "12345"),
    "ort/openvino": ("load_config", "config.json"),
    "ort/coreml": ("ModelCacheDirectory", "tmp"),
}


@pytest.mark.parametrize(("target", "option"), LIBRARIES.items())
def test_what_names_a_file_a_library_or_an_address_is_refused(target: str, option: tuple[str, str]) -> None:
    problem = provider_problem(target, dict([option]))
    assert problem is not None
    assert f"no option '{option[0]}'" in problem
    assert "set on the device" in problem


def test_every_table_is_of_a_target_there_is() -> None:
    for target in (*PROVIDER_OPTIONS, *BUILD_OPTIONS):
        runtime, _, engine = target.partition("/")
        assert engine in ENGINES[runtime]


def test_no_allowed_option_sounds_like_a_place() -> None:
    for options in PROVIDER_OPTIONS.values():
        for name in options:
            assert not any(
                word in name.lower().replace("profile", "")
                for word in ("path", "lib", "dir", "file", "stream_", "cache", "config")
            )


@given(st.text(alphabet="./\\ ;$|&\n\0abc01:,-_", max_size=12), st.sampled_from(sorted(PROVIDER_OPTIONS)))
def test_no_value_that_is_let_through_holds_a_path_or_a_command(value: str, target: str) -> None:
    text = TypeAdapter(OptionText)
    for name in PROVIDER_OPTIONS[target]:
        try:
            text.validate_python(value)
        except ValidationError:
            continue
        if provider_problem(target, {name: value}) is None:
            assert not set(value) & set("/\\ ;$|&\n\0")
            assert ".." not in value


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        ("ort/cpu", {"a": "1"}, "ort/cpu takes no options from a manifest; those that do: ort/coreml, ort/cuda"),
        ("ort/cuda", {"use_tf32": "yes"}, "use_tf32 is 'yes'; allowed: 0, 1"),
        ("ort/cuda", {"usetf32": "0"}, "takes no option 'usetf32' from a manifest; allowed: arena_extend_strategy"),
        ("tensorrt-rtx/gpu", {"sm": "86;89"}, "sm is '86;89'"),
        ("ort/tensorrt", {"trt_profile_min_shapes": "input"}, "allowed: inputs with sizes, as input:1x3x224x224"),
        ("ort/openvino", {"device_type": "TPU"}, "allowed: CPU, GPU, NPU"),
        ("ort/openvino", {"device_type": "HETERO:"}, "allowed: CPU, GPU, NPU"),
        ("ort/openvino", {"device_type": "CPU.0"}, "allowed: CPU, GPU, NPU"),
        ("ort/openvino", {"disable_dynamic_shapes": "true"}, "takes no option 'disable_dynamic_shapes'"),
        ("ort/openvino", {"device_type": "CPU", "precision": "FP16"}, "CPU takes precision FP32 or ACCURACY, not FP16"),
        ("ort/openvino", {"device_type": "NPU.1", "precision": "FP32"}, "NPU takes precision FP16 or ACCURACY"),
        ("ort/qnn", {"htp_arch": "70"}, "allowed: 0, 68, 69, 73, 75, 81"),
        ("ort/qnn", {"htp_bf16_enable": "1", "soc_model": "60"}, "needs soc_model, 88 or above"),
        ("ort/xnnpack", {"intra_op_num_threads": "0"}, "allowed: a number from 1"),
    ],
)
def test_what_is_refused_is_named_with_what_is_allowed(target: str, options: dict[str, str], words: str) -> None:
    assert words in str(manifest_problem(target, options))
    with pytest.raises(ValidationError):
        ModelSpec.model_validate({"source": "m.onnx", "samples": "s.npz", "options": {target: options}})


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("ort/cuda", {"fuse_conv_bias": "1", "tunable_op_enable": "1", "tunable_op_max_tuning_duration_ms": "200"}),
        ("ort/tensorrt", {"trt_bf16_enable": "1", "trt_profile_max_shapes": "image:8x3x224x224,onnx.mask:8x16"}),
        ("ort/tensorrt", {"trt_op_types_to_exclude": "NonZero,RoiAlign"}),
        ("ort/openvino", {"device_type": "AUTO"}),
        ("ort/openvino", {"device_type": "HETERO:GPU.1,CPU", "precision": "FP16"}),
        ("ort/openvino", {"device_type": "GPU", "precision": "FP32"}),
        ("ort/qnn", {"htp_bf16_enable": "1", "soc_model": "88", "enable_htp_shared_memory_allocator": "1"}),
    ],
)
def test_what_the_providers_code_reads_is_let_through(target: str, options: dict[str, str]) -> None:
    assert manifest_problem(target, options) is None
    assert provider_problem(target, options) is None


def test_an_option_of_the_build_is_none_a_device_takes() -> None:
    assert manifest_problem("tensorrt-rtx/gpu", {"sm": "86,89"}) is None
    assert "takes no options" in str(provider_problem("tensorrt-rtx/gpu", {"sm": "86,89"}))


def test_options_are_bounded() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TargetOptions).validate_python({f"o{index}": "1" for index in range(33)})
    with pytest.raises(ValidationError):
        TypeAdapter(TargetName).validate_python("../x")


def test_a_number_is_taken_as_its_digits_and_a_truth_value_is_not_guessed() -> None:
    given = {"source": "m.onnx", "samples": "s.npz", "options": {"ort/cuda": {"use_tf32": 0}}}
    assert ModelSpec.model_validate(given).options == {"ort/cuda": {"use_tf32": "0"}}
    with pytest.raises(ValidationError):
        ModelSpec.model_validate({**given, "options": {"ort/cuda": {"use_tf32": False}}})
