"""A compile child: one request on standard input, one answer. Started by the controller with limits."""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

from pydantic import TypeAdapter

from edgefleet_contract.base import clip_reason
from edgefleet_contract.child import serve_child
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile import registry
from edgefleet_controller.compile.fault import CompileFaultError
from edgefleet_controller.compile.protocol import (
    BuildAnswer,
    BuildRequest,
    CompileAnswer,
    CompileRequest,
    CoverageAnswer,
    CoverageRequest,
    FaultAnswer,
    IngestRequest,
    JoinRequest,
    RandomSamplesRequest,
)

Asked = IngestRequest | BuildRequest | JoinRequest | RandomSamplesRequest | CoverageRequest
_REQUEST: TypeAdapter[Asked] = TypeAdapter(CompileRequest)


def handle(request: bytes) -> bytes:
    """Return the answer to one request; a `CompileFaultError` becomes a `FaultAnswer`."""
    asked = _REQUEST.validate_json(request)
    try:
        answer = _do(asked)
    except CompileFaultError as fault:
        answer = FaultAnswer(
            family=fault.family,
            what=fault.what,
            reason=clip_reason(fault.message),
            next_step=fault.next_step,
            at=fault.at,
        )
    return answer.model_dump_json().encode()


def _do(asked: Asked) -> CompileAnswer:
    if isinstance(asked, IngestRequest):
        from edgefleet_controller.compile.ingest.model import ingest

        return ingest(asked)
    if isinstance(asked, JoinRequest):
        from edgefleet_controller.compile.sources.join import join

        return join(asked)
    if isinstance(asked, RandomSamplesRequest):
        from edgefleet_controller.compile.ingest.random_samples import draw

        return draw(asked)
    if isinstance(asked, CoverageRequest):
        from edgefleet_controller.compile.coverage import coverage

        return CoverageAnswer(coverage=coverage(asked))
    return _build(asked)


def _build(asked: BuildRequest) -> BuildAnswer:
    """Build a variant, of the source or, where the target needs that, of the source with its constants bound."""
    from edgefleet_controller.compile.graph import plain_source

    asked = plain_source.plain(asked)
    if asked.constants:
        from edgefleet_controller.compile.rewrite import bind_constants

        if bind_constants.needed(asked):
            return bind_constants.told(_widened(bind_constants.bound(asked)), asked)
    return _widened(asked)


def _widened(asked: BuildRequest) -> BuildAnswer:
    """Build a variant, of a float32 copy of the source where the source is float16 and the target knows none."""
    from edgefleet_controller.compile.graph import halves

    module = importlib.import_module(_module_of(asked))
    given = halves.widened(asked)
    answer: BuildAnswer = module.build(given)
    return answer if given is asked else halves.told(answer, asked)


def _module_of(asked: BuildRequest) -> str:
    if Path(asked.source).suffix == ".tflite":
        return "edgefleet_controller.compile.tflite.as_is"
    return registry.target_of(parse_variant(asked.variant)).module


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    serve_child(handle)
