"""Health checks: what each finds, and what a user's broken file does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgefleet_contract.accept import Accept, EnergyAccept, IfUnmeasured, LatencyAccept, MemoryAccept
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Gate, LatencyVerdict, ParityCheck, ParityResult, ParityVerdict
from edgefleet_contract.report import DeviceState
from edgefleet_controller.api import HealthFinding, Severity
from edgefleet_controller.store import Store
from edgefleet_controller.store.catalog import parse_health_query

S_NS = 1_000_000_000
GOOD = "-- title: T\n-- severity: info\n-- unit: ms\n-- threshold: 2.5\n-- description: D\n"


def findings(store: Store, at_ns: int, check: str) -> list[HealthFinding]:
    return [finding for finding in store.health(at_ns).findings if finding.check == check]


@pytest.fixture
def user_dir(path: Path) -> Path:
    folder = path.parent.parent / "queries" / "health"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def healthy(wished: Store, make: Any) -> Store:
    wished.ingest([make.report(make.trial(latency=make.latency()), 1), make.report(make.transition(), 2)], make.now_ns)
    return wished


def test_a_healthy_fleet_has_no_findings(healthy: Store, make: Any) -> None:
    result = healthy.health(make.now_ns + 10 * S_NS)
    assert result.findings == ()
    assert result.checks == (
        "budget_breach",
        "failing_parity",
        "fallback_taken",
        "never_qualified",
        "offline",
        "throttled",
        "unmeasured_budget",
    )


def test_a_device_silent_for_longer_than_the_threshold_is_offline(healthy: Store, make: Any) -> None:
    assert findings(healthy, make.now_ns + 300 * S_NS, "offline") == []
    (finding,) = findings(healthy, make.now_ns + 301 * S_NS, "offline")
    assert (finding.device, finding.value, finding.threshold, finding.unit) == ("local", 301.0, 300.0, "s")
    assert (finding.severity, finding.detail) == (
        Severity.WARNING,
        "silent, though never signed off; 1 model(s) wished there",
    )


def test_a_stack_that_was_just_stopped_is_not_a_finding_and_one_stopped_long_ago_is(healthy: Store, make: Any) -> None:
    healthy.presence(make.presence(online=False), make.now_ns)
    assert findings(healthy, make.now_ns + 60 * S_NS, "offline") == []
    (finding,) = findings(healthy, make.now_ns + 600 * S_NS, "offline")
    assert finding.detail == "signed off; 1 model(s) wished there"


def test_a_device_nothing_is_wished_of_may_be_offline(store: Store, make: Any) -> None:
    store.presence(make.presence(), 1)
    assert findings(store, make.now_ns, "offline") == []


def test_failed_parity_is_critical_until_a_newer_trial_passes(wished: Store, make: Any) -> None:
    parity = ParityResult(verdict=ParityVerdict.FAIL, failed_check=ParityCheck.SQNR, n_samples=10, worst_sqnr_db=3.0)
    wished.ingest([make.report(make.missed(Gate.PARITY, parity=parity), 1)], 1)
    (finding,) = findings(wished, make.now_ns, "failing_parity")
    assert (finding.severity, finding.model, finding.value, finding.unit) == (Severity.CRITICAL, "digits", 3.0, "dB")
    assert finding.detail == "ort/cpu/int8 failed parity at sqnr: too much"
    wished.ingest([make.report(make.trial(), 2)], 1)
    assert findings(wished, make.now_ns, "failing_parity") == []


def test_failed_parity_is_a_warning_where_a_fallback_of_the_release_serves(wished: Store, make: Any) -> None:
    wished.ingest(
        [
            make.report(make.missed(Gate.PARITY), 1),
            make.report(make.trial(make.fp32), 2),
            make.report(make.transition(variant=make.fp32), 3),
        ],
        1,
    )
    (finding,) = findings(wished, make.now_ns, "failing_parity")
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize(
    ("gate", "part", "value", "unit", "says"),
    [
        (Gate.LATENCY, {"p95_ms": 0.0295, "p99_ms": 1.0}, 0.0295, "ms", "p95 0.0295 ms > limit 0.02 ms"),
        (Gate.LATENCY, {"p50_ms": 0.02, "p95_ms": 0.03}, 0.03, "ms", "p95 0.03 ms > limit 0.02 ms"),
        (Gate.MEMORY, {"peak_bytes": 3_145_728}, 3_145_728, "bytes", "peak 3 MiB > limit 2 MiB"),
        (Gate.ENERGY, {"per_inference_mj": 12.5}, 12.5, "mJ", "12.5 mJ > limit 10 mJ per inference"),
        (Gate.ENERGY, {"status": "modelled", "per_inference_mj": 12.5}, None, "ms", "too much"),
    ],
)
def test_a_missed_budget_is_found_with_measured_and_allowed(
    wished: Store, make: Any, gate: Gate, part: dict[str, Any], value: float | None, unit: str, says: str
) -> None:
    accept = Accept(
        latency=LatencyAccept(p50_ms=0.02, p95_ms=0.02),
        memory=MemoryAccept(peak_bytes=2_097_152),
        energy=EnergyAccept(per_inference_mj=10.0),
    )
    wished.put_desired(make.desired(generation=2, accept=accept))
    low = {"p50_ms": 0.01, "p95_ms": 0.01, "p99_ms": 0.01}
    measured = {
        Gate.LATENCY: lambda: {"latency": make.latency().model_copy(update={**low, **part})},
        Gate.MEMORY: lambda: {"memory": make.memory().model_copy(update=part)},
        Gate.ENERGY: lambda: {"energy": make.energy(**part)},
    }[gate]()
    wished.ingest([make.report(make.missed(gate, **measured))], 1)
    (finding,) = findings(wished, make.now_ns, "budget_breach")
    assert finding.detail == f"ort/cpu/int8 failed {gate.value}: {says}"
    assert (finding.value, value is None or finding.unit == unit) == (value, True)


def test_a_missed_latency_says_when_its_run_is_in_doubt(wished: Store, make: Any) -> None:
    doubt = {"verdict": LatencyVerdict.CONTENDED, "reason": "40 % stolen"}
    latency = make.latency(9.0).model_copy(update=doubt)
    wished.ingest([make.report(make.missed(Gate.LATENCY, latency=latency))], 1)
    (finding,) = findings(wished, make.now_ns, "budget_breach")
    assert finding.detail.endswith("p95 9 ms > limit 1.5 ms (run was contended: 40 % stolen)")


def test_a_throttled_device_is_found_until_a_newer_trial_runs_cool(healthy: Store, make: Any) -> None:
    healthy.ingest([make.report(make.trial(latency=make.latency(), thermal=make.hot()), 3)], 1)
    (finding,) = findings(healthy, make.now_ns, "throttled")
    assert (finding.severity, finding.value, finding.unit) == (Severity.WARNING, 95.5, "°C")
    assert finding.detail == "ort/cpu/int8 was timed while the device throttled: oc1 counted 3"
    cool = make.hot().model_copy(update={"throttled": False})
    healthy.ingest([make.report(make.trial(latency=make.latency(), thermal=cool), 4)], 1)
    assert findings(healthy, make.now_ns, "throttled") == []


@pytest.mark.parametrize(
    ("if_unmeasured", "energy", "says"),
    [
        (IfUnmeasured.WARN, "unmeasured", "not measured: limit 5 mJ; no power sensor"),
        (IfUnmeasured.WARN, "modelled", "only modelled: limit 5 mJ; a part of the board"),
        (IfUnmeasured.WARN, "measured", None),
        (IfUnmeasured.IGNORE, "unmeasured", None),
    ],
)
def test_a_limit_on_energy_that_was_not_proven_is_told_unless_the_manifest_ignores_it(
    wished: Store, make: Any, if_unmeasured: IfUnmeasured, energy: str, says: str | None
) -> None:
    limit = EnergyAccept(per_inference_mj=5.0, if_unmeasured=if_unmeasured)
    wished.put_desired(make.desired(generation=2, accept=Accept(energy=limit)))
    had = {
        "unmeasured": make.unmeasured(),
        "modelled": make.energy(status="modelled", reason="a part of the board"),
        "measured": make.energy(3.0),
    }[energy]
    wished.ingest([make.report(make.trial(energy=had)), make.report(make.transition(generation=2), 2)], 1)
    found = findings(wished, make.now_ns, "unmeasured_budget")
    assert [(one.detail, one.value, one.severity) for one in found] == (
        [] if says is None else [(f"ort/cpu/int8 serves, and its energy was {says}", 5.0, Severity.INFO)]
    )


def test_a_fallback_in_use_is_told_with_the_reason(wished: Store, make: Any) -> None:
    wished.ingest(
        [
            make.report(make.missed(Gate.LATENCY), 1),
            make.report(make.trial(make.fp32), 2),
            make.report(make.transition(variant=make.fp32), 3),
        ],
        1,
    )
    (finding,) = findings(wished, make.now_ns, "fallback_taken")
    assert finding.detail == "ort/cpu/fp32 serves instead of ort/cpu/int8 (failed: too much)"


def test_a_refused_model_never_qualified(wished: Store, make: Any) -> None:
    wished.ingest([make.report(make.transition(DeviceState.REFUSED, None, reason="nothing fits"))], 1)
    (finding,) = findings(wished, make.now_ns, "never_qualified")
    assert finding.detail == "refused: nothing fits"


def test_a_model_still_on_its_way_is_given_time(wished: Store, make: Any) -> None:
    assert findings(wished, make.now_ns + 599 * S_NS, "never_qualified") == []
    (finding,) = findings(wished, make.now_ns + 601 * S_NS, "never_qualified")
    assert (finding.detail, finding.value) == ("pending", 601.0)


def test_a_users_check_is_run_with_its_threshold(wished: Store, user_dir: Path) -> None:
    (user_dir / "mine.sql").write_text(
        GOOD + "SELECT 'local' AS device, NULL AS model, 'x' AS detail, :threshold AS value"
    )
    (finding,) = findings(wished, 0, "mine")
    assert (finding.title, finding.value, finding.threshold, finding.unit) == ("T", 2.5, 2.5, "ms")


def test_a_row_may_have_its_own_severity_and_unit(wished: Store, user_dir: Path) -> None:
    row = "SELECT 'local' AS device, NULL AS model, 'x' AS detail, 1 AS value, "
    (user_dir / "mine.sql").write_text(GOOD + f"{row} 'critical' AS severity, 'W' AS unit")
    (finding,) = findings(wished, 0, "mine")
    assert (finding.severity, finding.unit) == (Severity.CRITICAL, "W")
    (user_dir / "mine.sql").write_text(GOOD + f"{row} NULL AS unit")
    (finding,) = findings(wished, 0, "mine")
    assert (finding.severity, finding.unit) == (Severity.INFO, "ms")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT 1", "lacks `-- title"),
        (GOOD + "SELECT 1 AS one", "needed: device, model, detail, value"),
        (GOOD + "VACUUM", "only one SELECT"),
        (GOOD + "SELECT 1 AS device, 2 AS model, 3 AS detail, 'x' AS value", "needed: a number"),
        (GOOD.replace("info", "awful") + "SELECT 1", "severity 'awful'; allowed: info, warning, critical"),
    ],
)
def test_a_users_broken_check_is_a_finding_and_the_others_still_run(
    wished: Store, user_dir: Path, text: str, says: str
) -> None:
    (user_dir / "mine.sql").write_text(text)
    result = wished.health(0)
    (finding,) = (one for one in result.findings if one.check == "mine")
    assert says in finding.detail
    assert "offline" in result.checks


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD + "-- title: again\n", "'title' twice"),
        (GOOD + "-- colour: red\n", "does not know it"),
        (GOOD.replace("2.5", "1e999"), "threshold '1e999'"),
        (GOOD.replace("D\n", "\n"), "lacks `-- description"),
    ],
)
def test_a_header_that_is_not_right_says_why(text: str, says: str) -> None:
    with pytest.raises(UserInputError, match=says):
        parse_health_query(text)
