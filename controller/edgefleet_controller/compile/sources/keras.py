"""A Keras model (`.keras`) as a source, exported to ONNX; what answers are compared with is Keras' own.

Keras and TensorFlow are imported here only, in a compile child, and only when a manifest names such a source. Keras'
safe mode stays on: a model that holds code (Lambda layers) is refused.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx

from edgefleet_contract.artifact import Dim, TensorSpec
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.ingest import onnx_check
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.ort.target import save_plain

OPSET = 18
NEEDED = ("keras", "tensorflow or tensorflow-cpu", "tf2onnx")
EXTRA = "pip install 'edgefleet[keras]'"
Keras: TypeAlias = Any
"""Keras' module and objects: it is an extra, so its types are not there to be checked."""


class KerasSource:
    """A Keras model.

    Args:
        path: the `.keras` file.

    Raises:
        CompileFaultError: something is not installed, the file cannot be read, or it holds code.
    """

    def __init__(self, path: Path) -> None:
        self._keras = require_keras()
        try:
            self._model = self._keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # noqa: BLE001 - the reader raises whatever a damaged or foreign archive leads it to
            _fault(f"is no model Keras {self._keras.__version__} can read", error, "save it again: model.save(path)")
        self.names = tuple(str(each.name) for each in self._model.inputs or ())
        if not self.names:
            raise CompileFaultError(
                "source",
                "does not say what it takes: only models with declared inputs can be a source",
                next_step="begin it with keras.Input(shape, name=…), and save it again",
            )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes; sizes that may change by name."""
        return tuple(_spec(each) for each in self._model.inputs)

    def call(self, feeds: Arrays) -> list[Array]:
        """Return the outputs for one set of inputs, in the model's order. Raises what Keras raises."""
        given = [feeds[name] for name in self.names]
        found = self._model(given[0] if len(given) == 1 else given, training=False)
        return [np.array(self._keras.ops.convert_to_numpy(each)) for each in self._keras.tree.flatten(found)]

    def export(self, out: Path) -> None:
        """Write the model as ONNX without notes and metadata.

        Raises:
            CompileFaultError: it cannot be called or exported, or inputs are dropped.
        """
        try:
            # Keras exports only what was called once.
            self.call({each.name: np.zeros([_size(dim) for dim in each.shape], each.dtype) for each in self.inputs})
            self._model.export(str(out), format="onnx", verbose=False, opset_version=OPSET)
            made = onnx.load(out)
        except Exception as error:  # noqa: BLE001 - tf2onnx raises in its own way what it lacks
            step = "replace the layer it names, or give an ONNX or TFLite file"
            _fault(f"cannot be exported to ONNX by Keras {self._keras.__version__}", error, step)
        save_plain(made, out)
        inputs, outputs = onnx_check.io_specs(made)
        names = {spec.name for spec in inputs}
        if names != set(self.names) or len(outputs) != len(self._model.outputs):
            has, wanted = (", ".join(sorted(each)) for each in (names, self.names))
            raise CompileFaultError(
                "source",
                f"was exported with inputs {has} and {len(outputs)} outputs; it has {wanted} and "
                f"{len(self._model.outputs)}",
            )


class Runner:
    """Keras on this machine's CPU."""

    def __init__(self, source: KerasSource, output_names: tuple[str, ...]) -> None:
        self.output_names = output_names
        self._source = source

    def run(self, feeds: Arrays) -> list[Array]:
        """Return the outputs for one set of inputs, in the model's order. Raises what Keras raises."""
        return self._source.call(feeds)


def require_keras() -> Keras:
    """Return Keras. Raises CompileFaultError where it, TensorFlow or tf2onnx is not installed."""
    missing = [name for name in NEEDED if not any(_installed(each) for each in name.split(" or "))]
    if missing:
        raise CompileFaultError(
            "source",
            f"is Keras'; reading it takes Keras 3, TensorFlow and tf2onnx, and the controller lacks {missing[0]}",
            next_step=f"{EXTRA} where the controller runs, or export the model yourself: model.export('model.onnx', "
            "format='onnx')",
        )
    os.environ.update({"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"})
    import keras  # type: ignore[import-not-found,unused-ignore]  # an extra

    return keras


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _spec(tensor: Keras) -> TensorSpec:
    shape: tuple[Dim, ...] = tuple(
        int(size) if size is not None else "batch" if axis == 0 else f"dim{axis}"
        for axis, size in enumerate(tensor.shape)
    )
    return TensorSpec.model_validate({"name": str(tensor.name), "dtype": str(tensor.dtype), "shape": shape})


def _size(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 1


def _fault(what: str, error: Exception, step: str) -> NoReturn:
    said = f"{type(error).__name__}: {session.short(error)}"
    raise CompileFaultError("source", f"{what}: {said}", next_step=step) from error
