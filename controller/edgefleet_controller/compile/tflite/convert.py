"""onnx2tf, contained: it prints, overwrites its input, may call `sys.exit`, and makes up custom operators."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from edgefleet_controller.compile.tflite import flatbuffer
from edgefleet_controller.compile.tflite.quiet import quiet

logger = logging.getLogger(__name__)

_NAME = "scratch"
_TAIL_CHARS = 300


class ConversionError(Exception):
    """The converter does not manage this graph; the message says why, `operators` name what it lacks."""

    def __init__(self, message: str, operators: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.operators = operators


def to_tflite(model: onnx.ModelProto, keep_inputs: Iterable[str]) -> bytes:
    """Return the fp32 TFLite file of a fixed-shape graph.

    Args:
        model: simplified, shapes fixed.
        keep_inputs: inputs whose axes stay as they are; the others of rank 3 to 5 come out with channels last.

    Raises:
        ConversionError: the converter failed, or lowered operators to custom ones that no runtime has.
    """
    with TemporaryDirectory(prefix="onnx2tf-") as folder:
        source = Path(folder, f"{_NAME}.onnx")
        source.write_bytes(model.SerializeToString())
        _run(source, list(keep_inputs))
        return _result(Path(folder, "out"))


def _run(source: Path, keep_inputs: list[str]) -> None:
    printed = io.StringIO()
    try:
        with quiet() as printed, _in_folder(source.parent):
            import onnx2tf

            onnx2tf.convert(
                input_onnx_file_path=source.name,
                output_folder_path="out",  # a name it caches its schema by
                non_verbose=True,
                verbosity="error",
                not_use_onnxsim=True,
                report_op_coverage=True,
                keep_shape_absolutely_input_names=keep_inputs or None,
            )
    except (Exception, SystemExit) as error:  # hundreds of builders raise whatever they stumble over
        logger.info("onnx2tf failed", exc_info=True)
        said = " ".join(str(error).split()) or " ".join(printed.getvalue().split())[-_TAIL_CHARS:]
        raise ConversionError(f"onnx2tf: {type(error).__name__}: {said[:_TAIL_CHARS]}") from error


def _result(out: Path) -> bytes:
    written = out / f"{_NAME}_op_coverage_report.json"
    if not written.is_file():
        raise ConversionError("onnx2tf ended without an error and without a report")
    report = json.loads(written.read_text(encoding="utf-8"))
    custom = _custom_operators(report)
    if custom:
        raise ConversionError(f"onnx2tf has no TFLite operators for {', '.join(custom)}", custom)
    path = out / f"{_NAME}_float32.tflite"
    if not path.is_file():
        raise ConversionError("onnx2tf ended without an error and without a file")
    data = path.read_bytes()
    left = flatbuffer.custom_operators(data)
    if left:
        raise ConversionError(f"onnx2tf left custom operators no runtime has: {', '.join(left)}", left)
    return data


def _custom_operators(report: dict[str, list[dict[str, object]]]) -> tuple[str, ...]:
    """Return what was lowered to custom operators, as `type node`; the report's coverage counts those as covered."""
    lowered = report.get("custom_lowered_nodes") or []
    return tuple(sorted({f"{each.get('onnx_op')} {each.get('node_name') or ''}".strip() for each in lowered}))


@contextlib.contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Work in a scratch folder: some paths of the converter leave files in the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
