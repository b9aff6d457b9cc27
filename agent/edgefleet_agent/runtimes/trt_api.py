"""The names of TensorRT this agent uses. Data: a test holds them to each version's own list, and the code to them.

One code path serves TensorRT 10.3 to 11.4 and TensorRT-RTX: networks are strongly typed and precision stands in the
ONNX file, so nothing is used that a version lacks (precision flags, calibrators and EXPLICIT_BATCH went with 11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The library ships no types; these names tell a reader, and the test, of which class a variable is.
Trt = Any
"""The module: `tensorrt`, `tensorrt_rtx` or `tensorrt_rtx_bindings`."""
Builder = Any
IBuilderConfig = Any
ICudaEngine = Any
IExecutionContext = Any
INetworkDefinition = Any
IOptimizationProfile = Any
IHostMemory = Any
ILogger = Any
ITensor = Any
OnnxParser = Any
OnnxParserFlag = Any
ParserError = Any
Runtime = Any

VERSIONS = ("10.3.0", "10.7.0.post1", "10.13.3.9.post1", "10.16.1.11", "11.0.0.114", "11.4.0.106", "rtx-1.7.1.116")
"""The versions whose own lists the names are held to."""

USED: Mapping[str, tuple[str, ...]] = {
    "Builder": (
        "build_serialized_network",
        "create_builder_config",
        "create_network",
        "create_optimization_profile",
    ),
    "IBuilderConfig": (
        "DLA_core",
        "add_optimization_profile",
        "can_run_on_DLA",
        "clear_flag",
        "default_device_type",
        "set_flag",
        "set_memory_pool_limit",
    ),
    "ICudaEngine": (
        "create_execution_context",
        "device_memory_size_v2",
        "get_tensor_dtype",
        "get_tensor_mode",
        "get_tensor_name",
        "get_tensor_shape",
        "num_io_tensors",
    ),
    "IExecutionContext": ("execute_async_v3", "get_tensor_shape", "set_input_shape", "set_tensor_address"),
    "ILogger": ("ERROR", "INTERNAL_ERROR"),
    "INetworkDefinition": ("get_input", "get_layer", "num_inputs", "num_layers"),
    "IOptimizationProfile": ("set_shape",),
    "ITensor": ("name", "shape"),
    "OnnxParser": ("get_error", "num_errors", "parse", "set_flag"),
    "ParserError": ("desc", "node_name", "node_operator"),
    "Runtime": ("deserialize_cuda_engine", "num_DLA_cores"),
}
"""Class → members that are called or read, wherever the code names a variable of that class."""

ENUMS: Mapping[str, tuple[str, ...]] = {
    "BuilderFlag": ("GPU_FALLBACK", "TF32"),
    "DataType": ("BOOL", "FLOAT", "HALF", "INT32", "INT64", "INT8", "UINT8"),
    "DeviceType": ("DLA",),
    "MemoryPoolType": ("TACTIC_DRAM", "WORKSPACE"),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "TensorIOMode": ("INPUT",),
}
"""Enumeration → members that are used."""

OPTIONAL_ENUMS: Mapping[str, tuple[str, ...]] = {"OnnxParserFlag": ("ADJUST_FOR_DLA",)}
"""Members asked for by `hasattr`: newer than the oldest version, and used where they are."""
