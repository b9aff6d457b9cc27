"""Pydantic's errors as problems people can mend: one for each mistake, at its place, with the nearest right word.

A union that fails reports each of its branches; here the branch that fits what was written is kept, and where
none fits, one sentence says what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edgefleet_contract.errors import ManifestError
from edgefleet_controller.load.language import allowed_keys
from edgefleet_controller.load.nodes import MappingNode, Node, SequenceNode, Step, child, offending
from edgefleet_controller.words import nearest, shorten

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]

UNIONS: Mapping[str, str] = {
    "preprocess": "a mapping of input names to transforms, or module:function",
    "metric": "a mapping such as {kind: top1}, or module:function",
    "mean": "a number, or a list of one a channel",
    "std": "a number above 0, or a list of one a channel",
    "chain": "a list of variants, or a mapping of class names to such lists",
    "waves": "a number of devices such as 1, or a share such as 10%",
}
"""Key → what may stand there, for every key whose value has several forms. A test holds it to the schema."""

PATTERNS: Mapping[str, str] = {
    "^[a-z0-9]": "not a name; allowed: 1 to 63 lower-case letters, digits and '-', not at either end",
    "^[A-Za-z_]": "not module:function",
    "^[^": "not a path; control characters are not allowed",
}
"""Start of a pattern of the contract → its meaning in words."""

KINDS: Mapping[str, str] = {
    "string_type": "expected text",
    "model_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "tuple_type": "expected a list",
    "string_too_short": "expected text, got nothing",
    "too_short": "needs at least one entry",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
}
"""Type of a pydantic error → the words used for it; others keep pydantic's."""

_ALLOWED = re.compile(r"unknown .*?'(?P<got>[^']*)'.*; allowed: (?P<allowed>.*)$", re.DOTALL)
_QUOTED = re.compile(r"'([^']*)'")


@dataclass(frozen=True)
class _Trace:
    """Where an error's path leads in the file.

    Attributes:
        path: the parts that are the user's own keys and indices.
        rest: parts below a scalar or a missing key, which the file does not have.
        misfit: whether the path went into a branch of a union that does not fit what was written.
    """

    path: Path
    step: Step
    rest: Path
    misfit: bool


def explain(error: ValidationError, root: Node) -> Iterator[ManifestError]:
    """Yield each problem pydantic found, placed in the file, in pydantic's order."""
    details = error.errors(include_url=False)
    traces = [_follow(root, detail["loc"]) for detail in details]
    deep = {detail["loc"][:end] for detail in details for end in range(len(detail["loc"]))}
    said = {prefix for trace in traces for prefix in _better_said(trace)}
    misspelt = set(_misspelt(details, traces))
    for detail, trace in zip(details, traces, strict=True):
        if detail["type"] == "too_short" and detail["loc"] in deep:
            continue  # pydantic counts what was left after the errors inside
        if detail["type"] == "missing" and (trace.path, trace.rest[-1:]) in misspelt:
            continue  # the misspelt key is named with what it should be
        if not trace.misfit:
            yield _problem(detail, trace)
        elif trace.path not in said:
            said.add(trace.path)
            yield _misfit(trace)


def _better_said(trace: _Trace) -> Iterator[Path]:
    """Yield the paths of unions of which this error shows that some branch fitted, so that it says more."""
    for end in range(len(trace.path) + (not trace.misfit)):
        yield trace.path[:end]


def _follow(root: Node, loc: Sequence[str | int]) -> _Trace:
    step, path, misfit = Step(root), [], False
    for index, part in enumerate(loc):
        below = child(step.node, part)
        if below is not None:
            step = below
            path.append(part)
        elif _is_branch(path, part):
            misfit = misfit or not _branch_fits(str(part), step.node)
        else:
            return _Trace(tuple(path), step, tuple(loc[index:]), misfit)
    return _Trace(tuple(path), step, (), misfit)


def _is_branch(path: Sequence[str | int], part: str | int) -> bool:
    """Tell whether `part` names a branch of a union, as pydantic spells it: a type, with its brackets."""
    key = next((name for name in reversed(path) if isinstance(name, str)), None)
    named = isinstance(part, str) and re.match(r"dict\[|tuple\[|constrained-|function-|float$|int$|MetricSpec$", part)
    return bool(named) and any(name in UNIONS for name in path) and key is not None


def _branch_fits(branch: str, node: Node) -> bool:
    if isinstance(node, MappingNode):
        return branch.startswith("dict[") or branch[0].isupper()
    return isinstance(node, SequenceNode) and branch.startswith("tuple[")


def _misfit(trace: _Trace) -> ManifestError:
    key = next(name for name in reversed(trace.path) if isinstance(name, str) and name in UNIONS)
    where = _dotted(trace.path)
    return ManifestError(
        f"{where}: expected {UNIONS[key]}", location=trace.step.at, offending=offending(trace.step.node)
    )


def _problem(detail: ErrorDetails, trace: _Trace) -> ManifestError:
    if detail["type"] == "extra_forbidden":
        return _unknown_key(trace)
    if detail["type"] == "missing":
        return _missing_key(trace)
    if "[key]" in trace.rest:
        return ManifestError(_words(detail, trace.path), location=trace.step.at, offending=shorten(str(trace.path[-1])))
    message, suggestion = _meaning(detail)
    return ManifestError(
        f"{_dotted(trace.path)}: {message}" if trace.path else message,
        location=trace.step.at,
        offending=offending(trace.step.node),
        suggestion=suggestion,
        next_step=_quote_hint(detail, trace),
    )


def _unknown_key(trace: _Trace) -> ManifestError:
    *above, key = trace.path
    allowed = allowed_keys(above)
    at = trace.step.key.at if trace.step.key else trace.step.at
    where = f" in {_dotted(above)}" if above else ""
    return ManifestError(
        f"unknown key{where}; allowed: {', '.join(allowed)}",
        location=at,
        offending=shorten(str(key)),
        suggestion=nearest(str(key), allowed),
    )


def _misspelt(details: Sequence[ErrorDetails], traces: Sequence[_Trace]) -> Iterator[tuple[Path, Path]]:
    """Yield (place, required key) of keys that are missing because they are written wrong."""
    for detail, trace in zip(details, traces, strict=True):
        if detail["type"] == "extra_forbidden":
            *above, key = trace.path
            meant = nearest(str(key), allowed_keys(above))
            if meant is not None:
                yield tuple(above), (meant,)


def _missing_key(trace: _Trace) -> ManifestError:
    key = trace.rest[-1] if trace.rest else "a key"
    where = _dotted(trace.path) if trace.path else "the manifest"
    return ManifestError(f"{where} needs the key {key!r}", location=trace.step.at)


def _words(detail: ErrorDetails, path: Path) -> str:
    where = _dotted(path[:-1])
    return f"{where}: {_meaning(detail)[0]}" if where else _meaning(detail)[0]


def _meaning(detail: ErrorDetails) -> tuple[str, str | None]:
    """Return what is wrong in words, and what was probably meant."""
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        match = _ALLOWED.search(message)
        return message, nearest(match["got"], match["allowed"].split(", ")) if match else None
    if detail["type"] in {"enum", "literal_error"}:
        allowed = _QUOTED.findall(detail["ctx"]["expected"])
        return f"unknown value; allowed: {', '.join(allowed)}", nearest(str(detail["input"]), allowed)
    if detail["type"] == "string_pattern_mismatch":
        pattern = detail["ctx"]["pattern"]
        return next((text for start, text in PATTERNS.items() if pattern.startswith(start)), detail["msg"]), None
    return KINDS.get(detail["type"], detail["msg"][:1].lower() + detail["msg"][1:]), None


def _quote_hint(detail: ErrorDetails, trace: _Trace) -> str | None:
    scalar = not isinstance(trace.step.node, (MappingNode, SequenceNode))
    if detail["type"] == "string_type" and scalar and detail["input"] is not None:
        return "put it in quotes if text is meant"
    return None


def _dotted(path: Sequence[str | int]) -> str:
    """Return a path as people write it: `deployments[0].accept.latency`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
