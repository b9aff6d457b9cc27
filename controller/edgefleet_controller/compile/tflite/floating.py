"""The fp32 TFLite file of a model: converted in the way that is proven right, with the fewest rewrites."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version

import onnx

from edgefleet_contract.artifact import TensorMap
from edgefleet_contract.coverage import CoverageSource
from edgefleet_controller.compile import rewrite
from edgefleet_controller.compile.fault import CompileFaultError, OperatorsFaultError, RefusedOperator
from edgefleet_controller.compile.graph.onnx_graph import with_constants
from edgefleet_controller.compile.npz import Array, Arrays
from edgefleet_controller.compile.ort import session
from edgefleet_controller.compile.rewrite import branches, library
from edgefleet_controller.compile.rewrite.graph import named
from edgefleet_controller.compile.tflite import blame, convert, freeze, layout, lost, prove, scalars, source, widen
from edgefleet_controller.compile.tflite.convert import ConversionError
from edgefleet_controller.compile.tflite.interpreter import Interpreter, RefusedError
from edgefleet_controller.compile.tflite.layout import Axes
from edgefleet_controller.compile.tflite.prove import Probes

logger = logging.getLogger(__name__)

_SPATIAL = frozenset({
    "AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Resize",
    "SpaceToDepth", "Upsample",
})  # fmt: skip
"""Operators that TFLite computes with channels last."""


@dataclass(frozen=True)
class FloatFile:
    """An fp32 file that computes what its source computes.

    Attributes:
        data: the file.
        inputs: source input → the file's name and order; an input that nothing reads is left out.
        outputs: the same for outputs.
        shapes: sizes of both that the file is made for, in the source's order of axes.
        rewrites: what was done to the source, in order.
        frozen: inputs that became constants, with their values.
    """

    data: bytes
    inputs: Mapping[str, TensorMap]
    outputs: Mapping[str, TensorMap]
    shapes: Mapping[str, tuple[int, ...]]
    rewrites: tuple[str, ...]
    frozen: Mapping[str, Array] = field(default_factory=dict)

    def feed(self, feeds: Arrays) -> dict[str, Array]:
        """Return one set of inputs by the file's names, in its order."""
        return {each.name: layout.to_file(feeds[name], each.axes) for name, each in self.inputs.items()}

    def run_all(self, interpreter: Interpreter, feeds: Iterable[Arrays]) -> list[dict[str, Array]]:
        """Return a file's outputs for each set of inputs, by the source's names and in its order of axes.

        The interpreter may hold another precision of this file. Raises RefusedError.
        """
        places = {port.name: place for place, port in enumerate(interpreter.outputs)}
        runs = [interpreter.run(self.feed(feed)) for feed in feeds]
        return [
            {name: layout.to_source(run[places[each.name]], each.axes) for name, each in self.outputs.items()}
            for run in runs
        ]


class WrongError(Exception):
    """A converted file loads and does not compute what its source computes, or cannot be run."""


@dataclass(frozen=True)
class Attempt:
    """One way to convert: a graph, which inputs keep their axes, and its names of the source's inputs and outputs."""

    model: onnx.ModelProto
    keep: tuple[str, ...]
    names: Mapping[str, str]
    rewrites: tuple[str, ...] = ()


def make(model: onnx.ModelProto, feeds: Sequence[Arrays], *, for_integers: bool = False) -> FloatFile:
    """Return the fp32 file of a model, made for the shapes of its samples.

    Args:
        model: the checked source.
        feeds: real inputs, one sample each.
        for_integers: operators without an integer kernel are replaced by those with one, where there are any.

    Raises:
        CompileFaultError: no way to convert gives a file that computes what the source computes.
    """
    frozen = freeze.parameters(model, feeds)
    probes = _probes(model, feeds, frozen)
    safe, names = source.with_safe_names(with_constants(model, frozen))
    sized = source.sized(safe, {other: probes.shapes[name] for other, name in names.items()})
    decided, branches_n = branches.taken(sized, freeze.PARAMETERS)
    fixed = source.simplify(decided)
    wrong = False
    failures: list[str] = []
    missing: list[str] = []
    lacks: list[tuple[str, ...]] = []
    refusals: list[str] = []
    done, prepared = library.apply(fixed, (), library.INTEGER_RULES)[::-1] if for_integers else ((), fixed)
    done = (*([named(branches.NAME, branches_n)] if branches_n else []), *done)
    for attempt in _attempts(prepared, names, (missing, refusals), done):
        try:
            return replace(_try(attempt, probes), frozen=frozen)
        except (ConversionError, RefusedError, WrongError) as error:
            logger.info("attempt with %s failed: %s", attempt.rewrites or "no rewrites", error)
            failures.append(str(error))
            lacking: tuple[str, ...] = getattr(error, "operators", ())
            missing += [each.partition(" ")[0] for each in lacking]
            lacks += [lacking] if lacking else []
            wrong = wrong or isinstance(error, WrongError)
    feed = {other: probes.feeds[0][names[other]] for other in (value.name for value in fixed.graph.input)}
    culprit = blame.first_wrong(fixed, feed) if wrong and not missing else None
    raise _unsupported(failures, refusals, _always(lacks), culprit)


def _probes(model: onnx.ModelProto, feeds: Sequence[Arrays], frozen: Collection[str]) -> Probes:
    try:
        return prove.make_probes(model, feeds, frozen)
    except session.RUNTIME_ERRORS as error:
        raise CompileFaultError("source", f"does not run on its samples: {session.short(error)}") from error


def _attempts(
    fixed: onnx.ModelProto, names: Mapping[str, str], notes: tuple[list[str], list[str]], done: tuple[str, ...]
) -> Iterator[Attempt]:
    """Yield ways to convert, the plainest first: images with channels last, everything as it is, rewritten graphs.

    Of the notes, the first is read late: it names the operators that earlier attempts lacked; the second gets why
    rewrites left nodes as they are.
    """
    inputs = tuple(value.name for value in fixed.graph.input)
    images = _images(fixed)
    plain = tuple(name for name in inputs if name not in images)
    layouts = tuple(dict.fromkeys((plain, inputs, ())))
    yield from (Attempt(fixed, kept, names, done) for kept in layouts)
    for more, rewritten in rewrite.for_tflite(fixed, frozenset(notes[0]), source.folded, notes[1]):
        for graph in (rewritten, source.simplify(rewritten)):
            yield from (Attempt(graph, kept, names, (*done, *more)) for kept in layouts)


def _images(model: onnx.ModelProto) -> frozenset[str]:
    """Return the inputs of rank 4 in a graph with spatial operators: those a device hands over with channels last."""
    if not any(node.op_type in _SPATIAL for node in model.graph.node):
        return frozenset()
    return frozenset(value.name for value in model.graph.input if len(value.type.tensor_type.shape.dim) == 4)


def _try(attempt: Attempt, probes: Probes) -> FloatFile:
    """Convert, load and compare. Raises ConversionError, RefusedError or WrongError."""
    data, interpreter = _converted(attempt, probes)
    inputs = _input_maps(interpreter, attempt, probes.feeds[0])
    made = FloatFile(data, inputs, {}, probes.shapes, attempt.rewrites)
    runs = [interpreter.run(made.feed(feed)) for feed in probes.feeds]
    by_name = {port.name: [run[place] for run in runs] for place, port in enumerate(interpreter.outputs)}
    in_file = {name: safe for safe, name in attempt.names.items()}
    outputs = {name: _output_map(name, in_file[name], by_name, probes) for name in probes.reference}
    return replace(made, outputs=outputs)


def _converted(attempt: Attempt, probes: Probes) -> tuple[bytes, Interpreter]:
    """Return the file and its interpreter: scalars without axes, int64 outputs that came out narrower widened."""
    data = _complete(lost.with_constant_states(convert.to_tflite(attempt.model, attempt.keep)), attempt, probes)
    data = lost.without_loose_ends(data)
    interpreter = Interpreter(data)
    ports = (*interpreter.inputs, *interpreter.outputs)
    one = {
        each.name for each in ports if each.shape == (1,) and probes.shapes.get(attempt.names.get(each.name, "")) == ()
    }
    if one:
        data = scalars.without_axis(data, one)
        interpreter = Interpreter(data)
    narrow = {
        port.name
        for port in interpreter.outputs
        if port.dtype == "int32" and probes.dtype(attempt.names.get(port.name, "")) == "int64"
    }
    if not narrow or not widen.is_bounded(attempt.model):
        return data, interpreter
    data = widen.as_int64(data, narrow)
    return data, Interpreter(data)


def _complete(data: bytes, attempt: Attempt, probes: Probes) -> bytes:
    """Return the file with every output written by an operator. Raises ConversionError, RefusedError or WrongError."""
    for name in lost.outputs(data):
        output = attempt.names[name]
        way = _way_to(data, output, lost.relatives(attempt.model, name), attempt, probes)
        if way is None:
            raise ConversionError(f"onnx2tf leaves output {output!r} without an operator that computes it")
        data = lost.with_transpose(data, name, *way)
    return data


def _way_to(
    data: bytes, output: str, kin: Collection[str], attempt: Attempt, probes: Probes
) -> tuple[int, Axes] | None:
    """Return the tensor of a file that holds an output's elements on every probe, and the axes that put them right.

    Without one that is its relative in the source, only one that is alone in that is taken.
    """
    reference = probes.reference[output]
    places = lost.candidates(data, reference[0])
    if not places:
        return None
    opened = lost.showing(data, places)
    interpreter = Interpreter(opened)
    made = FloatFile(opened, _input_maps(interpreter, attempt, probes.feeds[0]), {}, probes.shapes, ())
    runs = [interpreter.run(made.feed(feed)) for feed in probes.feeds]
    found = [
        (named, index, axes)
        for place, (named, index) in enumerate(places.items())
        for axes in lost.orders(runs[0][place].shape, reference[0].shape)
        if all(
            prove.difference(ours, run[place].transpose(axes), probes.noise[output]) is None
            for ours, run in zip(reference, runs, strict=True)
        )
    ]
    related = [each for each in found if each[0] in kin]
    if not related and len({index for _, index, _ in found}) != 1:
        return None
    _, index, axes = (related or found)[0]
    return index, axes


def _input_maps(interpreter: Interpreter, attempt: Attempt, feed: Arrays) -> dict[str, TensorMap]:
    maps = {}
    for port in interpreter.inputs:
        name = attempt.names.get(port.name, "")
        if name not in feed:
            raise WrongError(f"the file has an input {port.name!r} that the source does not have")
        array = feed[name]
        axes: Axes = () if port.name in attempt.keep else layout.channels_last(array.ndim)
        if layout.to_file(array, axes).shape != port.shape:
            axes = next(iter(layout.candidates(array.shape, port.shape)), ())
        if layout.to_file(array, axes).shape != port.shape or array.dtype.name != port.dtype:
            raise WrongError(
                f"input {name!r} is {array.dtype} {list(array.shape)}; the file takes {port.dtype} {list(port.shape)}"
            )
        maps[name] = TensorMap(name=port.name, axes=axes)
    return maps


def _output_map(name: str, in_file: str, made: Mapping[str, list[Array]], probes: Probes) -> TensorMap:
    """Return the order of axes in which the file's output is the source's on every probe. Raises WrongError."""
    if in_file not in made:
        raise WrongError(f"the file has no output {name!r}; it has {', '.join(map(repr, made)) or 'none'}")
    found, reference = made[in_file], probes.reference[name]
    if found[0].dtype != reference[0].dtype:
        raise WrongError(f"output {name!r} is {reference[0].dtype} and became {found[0].dtype}")
    why = f"shape {list(reference[0].shape)} became {list(found[0].shape)}"
    for axes in layout.candidates(reference[0].shape, found[0].shape):
        differences = (
            prove.difference(ours, layout.to_source(theirs, axes), probes.noise[name])
            for ours, theirs in zip(reference, found, strict=True)
        )
        wrong = next((each for each in differences if each is not None), None)
        if wrong is None:
            return TensorMap(name=in_file, axes=axes)
        why = wrong
    raise WrongError(f"the conversion computes output {name!r} wrongly: {why}")


def _always(lacks: Sequence[tuple[str, ...]]) -> tuple[RefusedOperator, ...]:
    """Return the operators that every attempt lacked which lacked any; those of the first where that is none."""
    first = lacks[0] if lacks else ()
    kept = tuple(each for each in first if all(each in other for other in lacks)) or first
    pairs = ((kind, name) for kind, _, name in (each.partition(" ") for each in kept))
    return tuple(RefusedOperator(kind, name, "onnx2tf has no TFLite operators for it") for kind, name in pairs)


def _unsupported(
    failures: list[str], refusals: list[str], missing: tuple[RefusedOperator, ...], culprit: str | None
) -> CompileFaultError:
    first, *others = dict.fromkeys([*failures, *refusals])
    named = ", or export the model without the named operator" if missing or refusals or culprit else ""
    first += f"; the first node that comes out wrong: {culprit}" if culprit else ""
    tried = f"; other ways failed too: {others[-1]}" if others else ""
    message = f"no TFLite file computes what this model computes: {first}{tried}"
    step = f"use another runtime's variant{named}"
    if missing:
        told_by = (CoverageSource.VENDOR_PARSER, f"onnx2tf {version('onnx2tf')}")
        return OperatorsFaultError("variant", message, missing, told_by, family="unsupported", next_step=step)
    return CompileFaultError("variant", message, family="unsupported", next_step=step)
