"""ONNX Runtime's execution providers by engine, and what each is given on this device.

`EDGEFLEET_ORT_OPTIONS_<ENGINE>=key=value,key=value` hands provider options to an engine, such as
`EDGEFLEET_ORT_OPTIONS_CUDA=device_id=1`: which of its processors a device uses is a fact of the device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from edgefleet_agent.runtimes.engine_options import EngineOptionsError, engine_options

CPU_PROVIDER = "CPUExecutionProvider"

PROVIDERS: Mapping[str, str] = {
    "cpu": CPU_PROVIDER,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}

_COMES_WITH: Mapping[str, str] = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu, and TensorRT itself",
    "coreml": "onnxruntime on macOS",
    "qnn": "onnxruntime-qnn 1.x (2.x is a plug-in provider, which this version does not load)",
    "openvino": "onnxruntime-openvino",
    "xnnpack": "a build of ONNX Runtime with --use_xnnpack",
}

_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    # Without a backend the provider takes no node; HTP is Qualcomm's NPU.
    "qnn": {"backend_path": "libQnnHtp.so"},
}

_VARIABLE = "EDGEFLEET_ORT_OPTIONS_"

_LOG_NOISE = re.compile(
    r"\x1b\[[0-9;]*m"  # colour
    r"|\d\S+ \S+ \[\w:[^\]]*\] "  # date, time, [severity, file:line, function]
    r"|/onnxruntime_src/\S+ .*?(?=\[ONNXRuntimeError\])|\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : "
    r"|(?:/[\w.+-]+)+/(?=lib)"  # the folder of a library
)

ABSENT_SIGNS = (
    "cannot open shared object",
    "no CUDA-capable device",
    "driver version is insufficient",
    "CUDA failure 100",
    "No such file",
    "Please install all dependencies",
)
"""What a provider says when hardware, driver or libraries are not there; anything else means that it is broken."""


def absent_reason(engine: str, version: str) -> str:
    """Return why an engine's provider is not in the installed library, and what to install."""
    return f"{PROVIDERS[engine]} is not in the installed onnxruntime {version}; it comes with {_COMES_WITH[engine]}"


def providers_of(
    engine: str, environ: Mapping[str, str] = os.environ, carried: Mapping[str, str] | None = None
) -> list[tuple[str, dict[str, str]]]:
    """Return the provider asked for with its options, then the CPU's for what the first does not take.

    What the device says comes before what an artifact carries, and that before our defaults.

    Raises:
        EngineOptionsError: the options in the environment do not have their form.
    """
    own = engine_options(_VARIABLE + engine.upper(), environ)
    asked = (PROVIDERS[engine], {**_DEFAULTS.get(engine, {}), **(carried or {}), **own})
    return [asked] if engine == "cpu" else [asked, (CPU_PROVIDER, {})]


def tidy_log(text: str) -> str:
    """Return what a provider logged without colours, times, source places and folders, each line once."""
    lines = (_LOG_NOISE.sub("", line).strip() for line in text.splitlines())
    return " ".join(dict.fromkeys(line for line in lines if line))


def options_problem(engine: str) -> str | None:
    """Return what is wrong with the options an engine is given here, or None."""
    try:
        providers_of(engine)
    except EngineOptionsError as error:
        return str(error)
    return None
