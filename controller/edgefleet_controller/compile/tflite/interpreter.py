"""LiteRT on this machine's CPU: the one place of the compiler that runs TFLite files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgefleet_controller.compile.fault import one_line
from edgefleet_controller.compile.npz import Array, Arrays

LiteRtInterpreter: TypeAlias = Any
"""The vendor's interpreter; the package ships no types."""


class RefusedError(Exception):
    """The runtime does not load, prepare or run the file."""


@dataclass(frozen=True)
class Port:
    """An input or output of a file.

    Attributes:
        name: as the file spells it.
        shape: sizes as they are allocated.
        dtype: numpy's name of it.
        index: the tensor's place in the graph.
        declared: sizes as the file declares them; one that may change is -1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    index: int
    declared: tuple[int, ...] = ()


class Interpreter:
    """A loaded TFLite file, run with one thread.

    Args:
        data: the file.
        delegate: whether XNNPACK may take what it can, as it does on devices; a graph it cannot prepare is tried again
            without it. `delegated` tells whether it still does.
        shapes: tensor index of an input → its sizes, where they differ from the file's.

    Raises:
        RefusedError: the file cannot be prepared.
    """

    def __init__(
        self, data: bytes, *, delegate: bool = True, shapes: Mapping[int, tuple[int, ...]] | None = None
    ) -> None:
        self._data = data
        self._shapes = shapes or {}
        self.delegated = delegate
        try:
            self._interpreter = _prepared(data, self._shapes, delegate=delegate)
        except (RuntimeError, ValueError) as error:
            if not delegate:
                raise RefusedError(one_line(error)) from error
            self._do_without()
        self.inputs = tuple(_port(each) for each in self._interpreter.get_input_details())
        self.outputs = tuple(_port(each) for each in self._interpreter.get_output_details())

    def run(self, feeds: Arrays) -> list[Array]:
        """Return the outputs for one set of inputs by the file's names, in the file's order. Raises RefusedError."""
        try:
            return self._run(feeds)
        except (RuntimeError, ValueError) as error:
            if not self.delegated:
                raise RefusedError(one_line(error)) from error
            self._do_without()
        try:
            return self._run(feeds)
        except (RuntimeError, ValueError) as error:
            raise RefusedError(one_line(error)) from error

    def _run(self, feeds: Arrays) -> list[Array]:
        for port in self.inputs:
            self._interpreter.set_tensor(port.index, np.asarray(feeds[port.name], order="C"))
        self._interpreter.invoke()
        return [np.array(self._interpreter.get_tensor(port.index)) for port in self.outputs]

    def _do_without(self) -> None:
        self.delegated = False
        try:
            self._interpreter = _prepared(self._data, self._shapes, delegate=False)
        except (RuntimeError, ValueError) as error:
            raise RefusedError(one_line(error)) from error

    def run_all(self, feeds: Iterable[Arrays]) -> list[Array]:
        """Return each output for all feeds, stacked along a new first axis. Raises RefusedError."""
        columns = zip(*(self.run(feed) for feed in feeds), strict=True)
        return [np.stack(column) for column in columns]


def _prepared(data: bytes, shapes: Mapping[int, tuple[int, ...]], *, delegate: bool) -> LiteRtInterpreter:
    from ai_edge_litert.interpreter import Interpreter as LiteRt
    from ai_edge_litert.interpreter import OpResolverType

    resolver = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    made = LiteRt(model_content=data, num_threads=1, experimental_op_resolver_type=resolver)
    for index, shape in shapes.items():
        made.resize_tensor_input(index, shape)
    made.allocate_tensors()
    return made


def _port(details: Mapping[str, Any]) -> Port:
    shape = tuple(int(size) for size in details["shape"])
    declared = tuple(int(size) for size in details.get("shape_signature", ()))
    declared = declared if len(declared) == len(shape) else shape
    return Port(str(details["name"]), shape, np.dtype(details["dtype"]).name, int(details["index"]), declared)
