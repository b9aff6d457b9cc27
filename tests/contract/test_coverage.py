"""What a coverage report says of itself."""

from __future__ import annotations

import pytest

from edgefleet_contract.coverage import Coverage, CoverageSource, OperatorCoverage, Placed


@pytest.mark.parametrize(
    ("target", "index"), [("ort/cpu", 1), ("tflite/cpu", 1), ("tflite/xnnpack", 0), ("tensorrt/gpu", 0)]
)
def test_what_runs_on_the_cpu_blocks_only_where_something_else_was_meant(target: str, index: int) -> None:
    operators = tuple(
        OperatorCoverage(index=place, name="n", type="Add", placed=placed)
        for place, placed in enumerate((Placed.CPU, Placed.UNSUPPORTED))
    )
    report = Coverage(target=target, source=CoverageSource.RUNTIME, source_version="1", operators=operators)
    assert report.first_blocking == operators[index]
