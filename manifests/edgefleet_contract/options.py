"""Options of a target that a manifest may set, and those an artifact carries to devices: data, checked on both sides.

Nothing here names a file, a library or a program, and no value can: which libraries a device loads (QNN's
`backend_path`, say) and which of its processors it uses are facts of the device, and come from its environment alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints

OptionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
_Text = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,:-]{1,128}$")]


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


OptionText = Annotated[_Text, BeforeValidator(_number_as_text, json_schema_input_type=_Text | int)]
"""No slash, no space: never a path of a folder, never a command. A whole number is taken as its digits."""
TargetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,32}/[a-z0-9-]{1,32}$")]
"""`runtime/engine`."""
TargetOptions = Annotated[dict[OptionName, OptionText], Field(max_length=32)]

_SWITCH = "0|1"
_BYTES = r"\d{1,15}"
_COUNT = r"[1-9]\d{0,3}"
_NAME = r"[A-Za-z0-9_]{1,32}(?:\.[A-Za-z0-9_]{1,32}){0,4}"
_SHAPE = rf"{_NAME}:\d{{1,6}}(?:x\d{{1,6}}){{0,7}}"
_SHAPES = rf"{_SHAPE}(?:,{_SHAPE}){{0,7}}"
_EXCLUDED = r"[A-Za-z0-9]{1,32}(?:,[A-Za-z0-9]{1,32}){0,15}"
_DEVICE = r"(?:CPU|(?:GPU|NPU)(?:\.\d)?)"
_DEVICES = rf"AUTO|{_DEVICE}|(?:AUTO|HETERO|MULTI):{_DEVICE}(?:,{_DEVICE}){{0,7}}"
_PERFORMANCE = (
    "burst|balanced|default|high_performance|high_power_saver|low_balanced|extreme_power_saver|low_power_saver|"
    "power_saver|sustained_high_performance"
)

_PRECISIONS: Mapping[str, tuple[str, ...]] = {"CPU": ("FP32", "ACCURACY"), "NPU": ("FP16", "ACCURACY")}
"""Of a device OpenVINO's provider takes not all precisions for; openvino_parser_utils.cc."""
_BF16_SOC_MODEL = 88
"""First of Qualcomm's chips, by its number, that QNN's provider computes bfloat16 on; qnn_execution_provider.cc."""
_SAID: Mapping[str, str] = {
    _BYTES: "a number of bytes",
    _COUNT: "a number from 1",
    _DEVICES: "CPU, GPU, NPU (or GPU.1, …), AUTO, or AUTO, HETERO or MULTI with devices, as HETERO:GPU,CPU",
    _EXCLUDED: "operator types, as NonZero,RoiAlign",
    _SHAPES: "inputs with sizes, as input:1x3x224x224,mask:1x8",
}
"""Patterns in words, where a reader would not make them out."""

PROVIDER_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "ort/cuda": {
        "arena_extend_strategy": "kNextPowerOfTwo|kSameAsRequested",
        "cudnn_conv1d_pad_to_nc1d": _SWITCH,
        "cudnn_conv_algo_search": "EXHAUSTIVE|HEURISTIC|DEFAULT",
        "cudnn_conv_use_max_workspace": _SWITCH,
        "do_copy_in_default_stream": _SWITCH,
        "enable_skip_layer_norm_strict_mode": _SWITCH,
        "fuse_conv_bias": _SWITCH,
        "gpu_mem_limit": _BYTES,
        "prefer_nhwc": _SWITCH,
        "sdpa_kernel": r"\d{1,4}",
        "tunable_op_enable": _SWITCH,
        "tunable_op_max_tuning_duration_ms": r"\d{1,6}",
        "tunable_op_tuning_enable": _SWITCH,
        "use_tf32": _SWITCH,
    },
    "ort/tensorrt": {
        "trt_auxiliary_streams": r"-1|\d",
        "trt_bf16_enable": _SWITCH,
        "trt_build_heuristics_enable": _SWITCH,
        "trt_builder_optimization_level": "[0-5]",
        "trt_context_memory_sharing_enable": _SWITCH,
        "trt_cuda_graph_enable": _SWITCH,
        "trt_dla_core": r"\d",
        "trt_dla_enable": _SWITCH,
        "trt_force_sequential_engine_build": _SWITCH,
        "trt_fp16_enable": _SWITCH,
        "trt_int8_enable": _SWITCH,
        "trt_layer_norm_fp32_fallback": _SWITCH,
        "trt_max_partition_iterations": r"\d{1,5}",
        "trt_max_workspace_size": _BYTES,
        "trt_min_subgraph_size": r"\d{1,5}",
        "trt_op_types_to_exclude": _EXCLUDED,
        "trt_profile_max_shapes": _SHAPES,
        "trt_profile_min_shapes": _SHAPES,
        "trt_profile_opt_shapes": _SHAPES,
        "trt_sparsity_enable": _SWITCH,
    },
    "ort/coreml": {
        "AllowLowPrecisionAccumulationOnGPU": _SWITCH,
        "EnableOnSubgraphs": _SWITCH,
        "MLComputeUnits": "ALL|CPUOnly|CPUAndGPU|CPUAndNeuralEngine",
        "ModelFormat": "MLProgram|NeuralNetwork",
        "RequireStaticInputShapes": _SWITCH,
        "SpecializationStrategy": "Default|FastPrediction",
    },
    "ort/qnn": {
        "enable_htp_fp16_precision": _SWITCH,
        "enable_htp_shared_memory_allocator": _SWITCH,
        "enable_htp_spill_fill_buffer": _SWITCH,
        "enable_vtcm_backup_buffer_sharing": _SWITCH,
        "htp_arch": "0|68|69|73|75|81",
        "htp_bf16_enable": _SWITCH,
        "htp_graph_finalization_optimization_mode": "[0-3]",
        "htp_performance_mode": _PERFORMANCE,
        "offload_graph_io_quantization": _SWITCH,
        "qnn_context_priority": "low|normal|normal_high|high",
        "rpc_control_latency": r"\d{1,6}",
        "soc_model": r"\d{1,6}",
        "vtcm_mb": r"\d{1,4}",
    },
    "ort/openvino": {
        "device_type": _DEVICES,
        "enable_opencl_throttling": "True|False|true|false",
        "enable_qdq_optimizer": "True|False|true|false",
        "model_priority": "LOW|MEDIUM|HIGH|DEFAULT",
        "num_of_threads": _COUNT,
        "num_streams": _COUNT,
        "precision": "FP32|FP16|ACCURACY",
    },
    "ort/xnnpack": {"intra_op_num_threads": _COUNT},
}
"""`runtime/engine` → option → what its value must look like. Artifacts carry these; the agent's runtime takes them.

Names and values as the providers' own code reads them (ONNX Runtime's sources at onnxruntime/onnxruntime-qnn cee6c0d9,
2026-03), without those that name files or libraries, hold addresses, only write diagnostics, or need what the agent
does not do (`enable_cuda_graph` wants bound buffers). Each name is in the library of onnxruntime-gpu 1.31.1 (CUDA,
TensorRT), onnxruntime-openvino 1.24.1, onnxruntime-qnn 2.7.0 or onnxruntime 1.32.0 for macOS (Core ML). Left out:
OpenVINO's `disable_dynamic_shapes`, which its code reads and then overwrites. OpenVINO's ran on its CPU device (1.24.1,
x86_64; not its precision FP16, which a GPU takes); no other was tried on its hardware by us.
"""

BUILD_OPTIONS: Mapping[str, Mapping[str, str]] = {"tensorrt-rtx/gpu": {"sm": r"\d{2,3}(?:,\d{2,3}){0,15}"}}
"""Options that only decide how an artifact is made; no device is told of them."""


def provider_problem(target: str, options: Mapping[str, str]) -> str | None:
    """Return what is wrong with the options an artifact carries for a target, or None."""
    return _problem(target, options, PROVIDER_OPTIONS.get(target, {}))


def manifest_problem(target: str, options: Mapping[str, str]) -> str | None:
    """Return what is wrong with the options a manifest sets for a target, or None."""
    return _problem(target, options, {**PROVIDER_OPTIONS.get(target, {}), **BUILD_OPTIONS.get(target, {})})


def _problem(target: str, options: Mapping[str, str], allowed: Mapping[str, str]) -> str | None:
    for name, value in options.items():
        if not allowed:
            takers = ", ".join(sorted({*PROVIDER_OPTIONS, *BUILD_OPTIONS}))
            return f"{target} takes no options from a manifest; those that do: {takers}"
        if name not in allowed:
            said = f"{target} takes no option {name[:64]!r} from a manifest; allowed: {', '.join(sorted(allowed))}"
            return f"{said}. What names files, libraries or processors is set on the device"
        if re.fullmatch(allowed[name], value) is None:
            return f"{target}: {name} is {value[:64]!r}; allowed: {_said(allowed[name])}"
    return _at_odds(options) if target in PROVIDER_OPTIONS else None


def _said(pattern: str) -> str:
    return _SAID.get(pattern) or pattern.replace("|", ", ")


def _at_odds(options: Mapping[str, str]) -> str | None:
    """Return which options a provider refuses together: OpenVINO's precisions by device, bfloat16 on older HTPs."""
    device = options.get("device_type", "").partition(".")[0]
    takes = _PRECISIONS.get(device)
    if takes is not None and "precision" in options and options["precision"] not in takes:
        return f"OpenVINO's {device} takes precision {' or '.join(takes)}, not {options['precision']}"
    if options.get("htp_bf16_enable") == "1" and int(options.get("soc_model", "0")) < _BF16_SOC_MODEL:
        return f"htp_bf16_enable needs soc_model, {_BF16_SOC_MODEL} or above"
    return None
