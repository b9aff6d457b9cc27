"""Join an ONNX model with the files that hold its weights. Runs in a compile child."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]  # it ships no types
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.graph import onnx_graph
from edgefleet_controller.compile.ingest import onnx_check
from edgefleet_controller.compile.protocol import JoinAnswer, JoinRequest

_CURE = "bring the model's other files with it, in its own folder"


def join(request: JoinRequest) -> JoinAnswer:
    """Write the model with all of its weights into one file.

    Raises:
        CompileFaultError: not a model, a file it names is missing, lies outside of the root or is too short, or the
            whole has more bytes than one protobuf message holds.
    """
    source, root = Path(request.source), Path(request.root)
    try:
        model = onnx.load(source, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise CompileFaultError("source", f"is not an ONNX model: {error}") from error
    external = [tensor for tensor in onnx_graph.all_tensors(model.graph) if tensor.HasField("data_location")]
    total_bytes = source.stat().st_size
    for tensor in external:
        total_bytes += _load(tensor, source.parent, root)
        if total_bytes > onnx_check.MAX_SOURCE_BYTES:
            raise CompileFaultError(
                "source",
                f"has more than {onnx_check.MAX_SOURCE_BYTES} bytes with its weights: no single ONNX file holds that",
                next_step="quantise or shrink the model before it is given to the fleet",
            )
    try:
        Path(request.out).write_bytes(model.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise CompileFaultError("source", f"cannot be written as one file: {error}") from error
    return JoinAnswer(tensors_n=len(external), total_bytes=total_bytes)


def _load(tensor: onnx.TensorProto, folder: Path, root: Path) -> int:
    """Read one tensor's bytes into the model; return how many. Raises CompileFaultError."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return 0
    info: Any = ExternalDataInfo(tensor)  # its annotations deny that offset and length may be missing
    place = (folder / info.location).resolve()
    where = f"weight {tensor.name!r} is kept in {info.location!r}"
    if Path(info.location).is_absolute() or not place.is_relative_to(root):
        raise CompileFaultError("source", f"{where}, which leaves the folder {root}", next_step=_CURE)
    if not place.is_file():
        raise CompileFaultError("source", f"{where}, which is not there", next_step=_CURE)
    offset, size_bytes = info.offset or 0, place.stat().st_size
    length = info.length if info.length is not None else size_bytes - offset
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise CompileFaultError(
            "source", f"{where} from byte {offset} on, {length} bytes; that file has {size_bytes}", next_step=_CURE
        )
    try:
        load_external_data_for_tensor(tensor, str(folder))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise CompileFaultError("source", f"{where}, which cannot be read: {error}", next_step=_CURE) from error
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
    return int(length)
