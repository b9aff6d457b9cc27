"""The evidence table: scenario and energy stand where a row has something to say of them."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from edgefleet_contract.accept import Scenario
from edgefleet_contract.evidence import EnergyResult, EnergyStatus, Evidence, LatencyResult, Verdict
from edgefleet_contract.units import format_ms
from edgefleet_controller.api import DeviceModelRow, EvidenceRow, QueryResult
from edgefleet_controller.cli.render_state import draw_evidence, draw_query

MEASURED = EnergyResult(status=EnergyStatus.MEASURED, per_inference_mj=12.34)
UNMEASURED = EnergyResult(status=EnergyStatus.UNMEASURED, reason="no power sensor")


@pytest.fixture
def proof(active_row: DeviceModelRow) -> Evidence:
    return Evidence(
        model="digits",
        variant="ort/cpu/int8",
        artifact=f"sha256:{'ab' * 32}",
        release=f"sha256:{'cd' * 32}",
        generation=2,
        started_at_ns=1,
        duration_s=2.0,
        verdict=Verdict.QUALIFIED,
        parity=active_row.parity,
        latency=active_row.latency,
        memory=active_row.memory,
    )


def table(*proofs: Evidence, columns: int = 100) -> list[str]:
    stream = io.StringIO()
    rows = [EvidenceRow(device="local", received_at_ns=time.time_ns(), evidence=proof) for proof in proofs]
    draw_evidence(Console(file=stream, width=columns, highlight=False, markup=False), rows)
    return stream.getvalue().splitlines()


def served(proof: Evidence, latency: LatencyResult, **more: Any) -> Evidence:
    under = latency.model_copy(update={"scenario": Scenario.MULTI_STREAM})
    return proof.model_copy(update={"latency": under, **more})


def test_the_usual_scenario_and_a_device_without_sensors_take_no_room(proof: Evidence) -> None:
    lines = table(proof, proof.model_copy(update={"energy": UNMEASURED}))
    assert "energy" not in lines[0]
    assert "stream" not in "\n".join(lines)
    assert len(lines) == 4


def test_another_scenario_is_named_below_its_variant(proof: Evidence, latency: LatencyResult) -> None:
    lines = table(proof, served(proof, latency))
    assert [line.count("multi-stream") for line in lines] == [0, 0, 0, 0, 1]


def test_energy_is_shown_where_it_was_measured(proof: Evidence) -> None:
    lines = table(proof, proof.model_copy(update={"energy": MEASURED}))
    assert "energy" in lines[0]
    assert [line.count("12.3 mJ") for line in lines] == [0, 0, 0, 1]


@pytest.mark.parametrize(("columns", "digests"), [(80, False), (100, False), (110, True)])
def test_the_widest_table_keeps_every_figure_whole(
    proof: Evidence, latency: LatencyResult, columns: int, digests: bool
) -> None:
    lines = table(served(proof, latency, energy=MEASURED), columns=columns)
    assert max(map(cell_len, lines)) <= columns
    out = "\n".join(lines)
    for text in ("12.3 mJ", "qualified", "50 µs", "30.0 MiB"):
        assert text in out
    assert ("abababababab" in out) == digests


def test_a_querys_fractions_have_six_digits_and_whole_numbers_all() -> None:
    stream = io.StringIO()
    row = (0.946886162447, 1_795_509_543_425_539_801, 12345678.25, None, "x")
    draw_query(Console(file=stream, width=100), QueryResult(columns=("a", "b", "c", "d", "e"), rows=(row,)))
    assert stream.getvalue().splitlines()[-1].split() == ["0.946886", "1795509543425539801", "12345678.25", "x"]


@pytest.mark.parametrize("columns", [20, 40, 60, 100])
def test_no_screen_is_too_narrow_for_a_whole_figure(proof: Evidence, columns: int) -> None:
    assert proof.latency is not None
    counted = proof.latency.model_copy(update={"n": 107_465})
    words = " ".join(table(proof.model_copy(update={"latency": counted}), columns=columns)).split()
    assert "107465" in words
    assert format_ms(counted.p95_ms).split()[0] in words
