"""LSTM, GRU and RNN of a fixed number of steps, unrolled into matrix products.

Any direction, initial state, activations, clipping, peepholes and layout; lengths may be constants or come at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from edgefleet_controller.compile.rewrite import recurrent_cells
from edgefleet_controller.compile.rewrite.graph import Builder, attribute, given
from edgefleet_controller.compile.rewrite.recurrent_cells import GATES_N, Cell

MAX_STEPS_N = 256
"""Each step is some twenty nodes; beyond this a file is slow to load and to plan."""


@dataclass(frozen=True)
class Frame:
    """What all directions share.

    Attributes:
        steps_n, batch_n, hidden: sizes.
        batch_first: `layout` 1.
        lengths: name of the steps each sequence has, `[batch]`, where that is not all of them.
    """

    steps_n: int
    batch_n: int
    hidden: int
    batch_first: bool
    lengths: str | None


def unrolled(node: onnx.NodeProto, builder: Builder) -> bool:
    """A recurrent operator with constant weights."""
    shape, cells = builder.shape(node.input[0]), _cells(node, builder)
    if shape is None or cells is None or builder.opset < 13:
        return False
    batch_first = bool(attribute(node, "layout", 0))
    steps_n, batch_n = shape[:2][:: -1 if batch_first else 1]
    if steps_n > MAX_STEPS_N:
        builder.refuse(node, f"it has {steps_n} steps, and at most {MAX_STEPS_N} are unrolled")
        return False
    frame = Frame(steps_n, batch_n, cells[0].hidden, batch_first, _lengths(node, builder, steps_n))
    name = builder.add("Transpose", [node.input[0]], perm=[1, 0, 2]) if batch_first else node.input[0]
    states, lasts, memories = [], [], []
    for place, cell in enumerate(cells):
        backwards = attribute(node, "direction", "forward") == "reverse" or place == 1
        order = range(steps_n)[:: -1 if backwards else 1]
        start = [_initial(node, builder, input_place, place, frame) for input_place in (5, 6)]
        rows, last, memory = _run(builder, name, cell, order, start, frame)
        states.append(rows)
        lasts.append(last)
        memories.append(memory)
    _outputs(node, builder, states, (lasts, memories), frame)
    return True


def _lengths(node: onnx.NodeProto, builder: Builder, steps_n: int) -> str | None:
    name = given(node, 4)
    constant = builder.value(name or "")
    return None if constant is not None and np.all(constant == steps_n) else name


def _cells(node: onnx.NodeProto, builder: Builder) -> list[Cell] | None:
    weights, recurrent = (builder.value(node.input[place]) for place in (1, 2))
    biases, peepholes = (builder.value(given(node, place) or "") for place in (3, 7))
    missing = (given(node, 3) and biases is None) or (given(node, 7) and peepholes is None)
    if weights is None or recurrent is None or missing:
        return None
    functions = recurrent_cells.activations(node, len(weights))
    if functions is None:
        return None
    hidden, gates_n = recurrent.shape[2], GATES_N[node.op_type]
    zero = np.zeros((len(weights), 2 * gates_n * hidden), dtype=np.float32)
    both = (zero if biases is None else biases).reshape(len(weights), 2, gates_n * hidden)
    return [
        Cell(
            kind=node.op_type,
            hidden=hidden,
            inputs=weights[place],
            state=recurrent[place],
            input_bias=both[place, 0],
            state_bias=both[place, 1],
            peepholes=None if peepholes is None else peepholes[place].reshape(3, hidden),
            reset_after=bool(attribute(node, "linear_before_reset", 0)),
            activations=functions[place],
            clip=attribute(node, "clip"),
            coupled=bool(attribute(node, "input_forget", 0)),
        )
        for place in range(len(weights))
    ]


def _initial(node: onnx.NodeProto, builder: Builder, place: int, direction: int, frame: Frame) -> str:
    """Return the state or memory `[batch, hidden]` a direction starts from."""
    name = given(node, place) if place == 5 or node.op_type == "LSTM" else None
    if name is None:
        return builder.constant(np.zeros((frame.batch_n, frame.hidden), dtype=np.float32))
    axis = 1 if frame.batch_first else 0
    return builder.add("Gather", [name, builder.constant(np.asarray(direction, dtype=np.int64))], axis=axis)


def _run(
    builder: Builder, name: str, cell: Cell, order: Sequence[int], start: Sequence[str], frame: Frame
) -> tuple[list[str], str, str]:
    """Add one direction's steps; return what each gives, in the order of time, the last state and the last memory."""
    state, memory = start
    made: dict[int, str] = {}
    product = builder.add("MatMul", [name, builder.constant(cell.inputs.T.copy())])
    projected = builder.add("Add", [product, builder.constant(cell.input_bias)])
    for place in order:
        given_now = builder.add("Gather", [projected, builder.constant(np.asarray(place, dtype=np.int64))], axis=0)
        new, kept = recurrent_cells.step(builder, cell, given_now, state, memory)
        if frame.lengths is None:
            state, memory, made[place] = new, kept, new
            continue
        inside = _inside(builder, frame.lengths, place)
        made[place] = builder.add("Where", [inside, new, builder.constant(np.zeros((), dtype=np.float32))])
        memory = builder.add("Where", [inside, kept, memory]) if kept != memory else memory
        state = builder.add("Where", [inside, new, state])
    if frame.lengths is not None:
        state, memory = _zero_where_empty(builder, frame.lengths, state, memory)
    return [made[place] for place in sorted(made)], state, memory


def _zero_where_empty(builder: Builder, lengths: str, state: str, memory: str) -> tuple[str, str]:
    """A sequence without steps ends in zeros, not in its initial state: so does ONNX Runtime."""
    inside, zero = _inside(builder, lengths, 0), builder.constant(np.zeros((), dtype=np.float32))
    state, memory = (builder.add("Where", [inside, name, zero]) for name in (state, memory))
    return state, memory


def _inside(builder: Builder, lengths: str, place: int) -> str:
    """Return which sequences still last at a step, `[batch, 1]`."""
    constant = builder.value(lengths)
    if constant is not None:
        return builder.constant((place < constant)[:, None])
    numbers = builder.add("Cast", [lengths], to=onnx.TensorProto.INT32)
    column = builder.add("Reshape", [numbers, builder.constant([-1, 1])])
    return builder.add("Less", [builder.constant(np.asarray(place, dtype=np.int32)), column])


def _outputs(
    node: onnx.NodeProto,
    builder: Builder,
    states: Sequence[Sequence[str]],
    ends: tuple[Sequence[str], Sequence[str]],
    frame: Frame,
) -> None:
    """Add `Y` [steps, directions, batch, hidden], `Y_h` and `Y_c` [directions, batch, hidden], where they are used."""
    wanted = [*node.output, "", "", ""][:3]
    shape = [frame.batch_n, frame.hidden]
    if wanted[0]:
        rows = [
            builder.add("Reshape", [each, builder.constant([1, 1, *shape])])
            for row in zip(*states, strict=True)
            for each in row
        ]
        joined = builder.add("Concat", rows, axis=0)
        whole = builder.constant([frame.steps_n, len(states), *shape])
        _shaped(builder, joined, whole, wanted[0], [2, 0, 1, 3] if frame.batch_first else None)
    for name, lasts in zip(wanted[1:], ends, strict=True):
        if name:
            rows = [builder.add("Reshape", [end, builder.constant([1, *shape])]) for end in lasts]
            joined = builder.add("Concat", rows, axis=0)
            whole = builder.constant([len(lasts), *shape])
            _shaped(builder, joined, whole, name, [1, 0, 2] if frame.batch_first else None)


def _shaped(builder: Builder, joined: str, shape: str, output: str, order: list[int] | None) -> None:
    if order is None:
        builder.add("Reshape", [joined, shape], [output])
    else:
        builder.add("Transpose", [builder.add("Reshape", [joined, shape])], [output], perm=order)
