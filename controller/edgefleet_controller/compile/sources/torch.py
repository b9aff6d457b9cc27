"""PyTorch as a source: a `torch.export` program or a function of the user's that returns a module, exported to ONNX.

PyTorch is imported here only, in a compile child, and only when a manifest names such a source. What answers are
compared with is PyTorch's own: an export that computes something else, which PyTorch does not notice, is then refused
by the comparison of every artifact with its source.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx

from edgefleet_contract.artifact import Dim, InputTransform, TensorSpec
from edgefleet_controller.compile import npz
from edgefleet_controller.compile.archive import ArchiveError
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import onnx_check, preprocess
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.ort.target import save_plain
from edgefleet_controller.compile.protocol import SamplesFile

OPSET = 18
"""What the exporter itself writes (torch.onnx, PyTorch 2.9 to 2.13); newer ones it reaches by conversion."""
MIN_TORCH = (2, 9)
"""From here on `torch.onnx.export` takes `dynamo=True` as its default way, and a whole exported program."""
EXTRA = "pip install 'edgefleet[torch]'"
_MODULE_NAME = "edgefleet_source"
"""What a user's file is imported as: never under a name that hides an installed package."""
logger = logging.getLogger(__name__)
Torch: TypeAlias = Any
"""PyTorch's module, module instances and tensors: it is an extra, so its types are not there to be checked."""


@dataclass(frozen=True)
class TorchSource:
    """A source in PyTorch.

    Attributes:
        program: the exported program.
        load: makes what is run, anew each time.
        names: its inputs, in order.
    """

    program: Torch
    load: Callable[[], Torch]
    names: tuple[str, ...]


class Runner:
    """PyTorch on this machine's CPU, with one thread."""

    def __init__(self, source: TorchSource, output_names: tuple[str, ...]) -> None:
        self.output_names = output_names
        self._torch, self._source = require_torch(), source
        self._module = source.load()
        self._torch.set_num_threads(1)

    def run(self, feeds: Arrays) -> list[Array]:
        """Return the outputs for one set of inputs, in the module's order. Raises what PyTorch raises."""
        flat = [self._torch.from_numpy(np.array(feeds[name])) for name in self._source.names]
        pytree = self._torch.utils._pytree  # noqa: SLF001 - what torch.export itself takes inputs apart with
        args, kwargs = pytree.tree_unflatten(flat, self._source.program.call_spec.in_spec)
        with self._torch.no_grad():
            leaves, _ = pytree.tree_flatten(self._module(*args, **kwargs))
        return [np.array(leaf.detach().numpy()) for leaf in leaves]


def require_torch() -> Torch:
    """Return PyTorch.

    Raises:
        CompileFaultError: it is not installed, or too old.
    """
    try:
        found = version("torch")
    except PackageNotFoundError:
        found = ""
    if not found or tuple(int(part) for part in found.split(".")[:2]) < MIN_TORCH:
        got = f"PyTorch {found} is" if found else "no PyTorch is"
        raise CompileFaultError(
            "source",
            f"is PyTorch's; reading it takes PyTorch {'.'.join(map(str, MIN_TORCH))} or newer, and {got} installed "
            "on the controller",
            next_step=f"{EXTRA} where the controller runs, or export the model to ONNX yourself",
        )
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"copyreg|torch")
    import torch  # type: ignore[import-not-found,unused-ignore]  # an extra

    return torch


def open_program(path: Path) -> TorchSource:
    """Return a program saved by `torch.export.save`.

    Raises:
        CompileFaultError: no PyTorch, not such a file, or one that takes what is no tensor.
    """
    torch = require_torch()
    try:
        program = torch.export.load(path)
    except Exception as error:  # the reader raises whatever a damaged or foreign archive leads it to
        raise CompileFaultError(
            "source",
            f"is no program PyTorch {torch.__version__} can read: {_said(error)}",
            next_step="save it again: torch.export.save(torch.export.export(model.eval(), example), 'model.pt2')",
        ) from error
    return _source(program, program.module)


def open_module(path: Path, function: str, inputs: Mapping[str, Array]) -> TorchSource:
    """Return the module that a function of the user's file makes, exported with inputs of one sample.

    Args:
        path: the user's file; its code runs here.
        function: its function, called without arguments.
        inputs: `forward`'s parameters by name, with a batch axis of one.

    Raises:
        CompileFaultError: no PyTorch, or the code fails, returns no module, or cannot be exported.
    """
    torch = require_torch()
    make = _maker(torch, path, function)
    model = make()
    wanted = _parameters(model, inputs)
    example = {name: torch.from_numpy(np.array(inputs[name])) for name in wanted}
    try:
        program = torch.export.export(model, (), example)
    except Exception as error:  # tracing runs the user's code
        raise CompileFaultError(
            "source",
            f"cannot be exported by torch.export: {_said(error)}",
            next_step="make forward() free of what depends on values, or give an ONNX file",
        ) from error
    return _source(program, make)


def example_inputs(file: SamplesFile, transforms: Mapping[str, InputTransform]) -> dict[str, Array]:
    """Return one prepared sample of every array a module could take, by input name, with a batch axis of one.

    Without an exported program nothing tells dtypes: prepared samples and float64 become float32.

    Raises:
        CompileFaultError: the samples cannot be read.
    """
    try:
        arrays = npz.read(Path(file.path))
    except ArchiveError as error:
        raise CompileFaultError("samples", f"cannot be read: {error}") from error
    renamed = {array: name for name, array in file.inputs.items()}
    named = {renamed.get(name, name): array for name, array in arrays.items() if array.ndim and len(array)}
    return {name: _example(array[:1], transforms.get(name)) for name, array in named.items()}


def _example(array: Array, transform: InputTransform | None) -> Array:
    wanted = "float32" if transform is not None or array.dtype == np.float64 else str(array.dtype)
    return preprocess.apply(array, transform, wanted).astype(wanted)


def export(source: TorchSource, out: Path) -> None:
    """Write a program as ONNX without notes and metadata.

    Raises:
        CompileFaultError: PyTorch's exporter lacks an operator, or drops inputs or outputs.
    """
    torch = require_torch()
    try:
        made = torch.onnx.export(source.program, dynamo=True, opset_version=OPSET, verbose=False)
        model: onnx.ModelProto = made.model_proto
    except Exception as error:  # the exporter wraps whatever went wrong in its own way
        raise CompileFaultError(
            "source",
            f"cannot be exported to ONNX by PyTorch {torch.__version__}: {_said(error)}",
            next_step="replace the operator it names, or give an ONNX file",
        ) from error
    save_plain(model, out)
    inputs, outputs = onnx_check.io_specs(model)
    want_n, names = len(source.program.graph_signature.user_outputs), tuple(spec.name for spec in inputs)
    if names != source.names or len(outputs) != want_n:
        raise CompileFaultError(
            "source",
            f"was exported with inputs {', '.join(names)} and {len(outputs)} outputs; it has {', '.join(source.names)} "
            f"and {want_n}",
            next_step="leave out what does not depend on tensors",
        )


def input_specs(path: Path) -> tuple[TensorSpec, ...]:
    """Return what a program takes; sizes that may change by name. Raises CompileFaultError as `open_program`."""
    source = open_program(path)
    by_name = {node.name: node.meta["val"] for node in source.program.graph.nodes if node.op == "placeholder"}
    return tuple(_spec(name, by_name[name]) for name in source.names)


def _spec(name: str, value: Torch) -> TensorSpec:
    shape: tuple[Dim, ...] = tuple(size if isinstance(size, int) else str(size) for size in value.shape)
    return TensorSpec.model_validate({"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape})


def _source(program: Torch, load: Callable[[], Torch]) -> TorchSource:
    names = tuple(program.graph_signature.user_inputs)
    foreign = [name for name in names if not isinstance(name, str)]
    if foreign or not names:
        raise CompileFaultError(
            "source",
            f"takes {', '.join(map(repr, foreign)) or 'nothing'} as an input; only tensors can be samples",
            next_step="export it with tensors as its only inputs",
        )
    return TorchSource(program, load, names)


def _maker(torch: Torch, path: Path, function: str) -> Callable[[], Torch]:
    found = getattr(_import(path), function, None)
    if not callable(found):
        raise CompileFaultError("source", f"names {function!r}, which is no function of its file")

    def make() -> Torch:
        try:
            model = found()
        except Exception as error:  # noqa: BLE001 - it is the user's code, which may raise anything
            _failed(f"{function}() failed", error)
        if not isinstance(model, torch.nn.Module):
            raise CompileFaultError("source", f"{function}() returned {type(model).__name__}, not a torch.nn.Module")
        return model.eval()

    return make


def _import(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise CompileFaultError("source", "is no file of Python code")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE_NAME] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - it is the user's code, which may raise anything
        _failed("its file cannot be imported", error)
    return module


def _failed(what: str, error: Exception) -> NoReturn:
    raise CompileFaultError(
        "source",
        f"{what}: {_said(error)}",
        next_step="only this one file travels: what it imports must be installed where the controller runs",
    ) from error


def _parameters(model: Torch, inputs: Mapping[str, Array]) -> list[str]:
    """Return the parameters of `forward` that samples are given for. Raises CompileFaultError where one is missing."""
    parameters = inspect.signature(model.forward).parameters.values()
    plain = [each for each in parameters if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}]
    missing = [each.name for each in plain if each.default is each.empty and each.name not in inputs]
    if missing:
        has = ", ".join(map(repr, inputs)) or "none"
        raise CompileFaultError(
            "samples",
            f"have no array {missing[0]!r}, which forward() takes; they have {has}",
            next_step="name the arrays as forward()'s parameters, or map them with `samples: {file: …, inputs: {…}}`",
        )
    return [each.name for each in plain if each.name in inputs]


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {session.short(error)}" if isinstance(error, Exception) else type(error).__name__
