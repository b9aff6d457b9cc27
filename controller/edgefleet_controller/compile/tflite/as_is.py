"""A TFLite source as an artifact: the file itself, byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_contract.variant import parse_variant
from edgefleet_controller.compile.protocol import BuildAnswer, BuildRequest, OptionValue
from edgefleet_controller.compile.tflite import coverage, edgetpu_compiler, given


def build(request: BuildRequest) -> BuildAnswer:
    """Copy the source. For the Edge TPU, the vendor's compiler then works on the copy, where the builder has it.

    Raises:
        CompileFaultError: the source is damaged, or the vendor's compiler refuses it.
    """
    source, out = Path(request.source), Path(request.out)
    variant = parse_variant(request.variant)
    inputs, outputs = given.specs(source)
    shutil.copyfile(source, out)
    options: dict[str, OptionValue] = {}
    level: EvidenceLevel | None = None
    found = coverage.coverage_of(out, variant.target)
    if variant.engine == "edgetpu":
        options["edgetpu_compiler"], level = edgetpu_compiler.compile_file(out)
    same = out.read_bytes() == source.read_bytes()
    options["made"] = "the source file, byte for byte" if same else "compiled from the source file"
    return BuildAnswer(inputs=inputs, outputs=outputs, options=options, coverage=found, level=level)
