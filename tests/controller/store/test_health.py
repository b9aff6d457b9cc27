"""Health checks: what each finds, and what a user's broken file does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgefleet_contract.errors import UserInputError
from edgefleet_contract.evidence import Gate, ParityCheck, ParityResult, ParityVerdict
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
    assert result.checks == ("budget_breach", "failing_parity", "fallback_taken", "never_qualified", "offline")


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


def test_a_missed_budget_is_found_with_what_was_measured(wished: Store, make: Any) -> None:
    wished.ingest([make.report(make.missed(Gate.LATENCY, latency=make.latency(9.0)), 1)], 1)
    (finding,) = findings(wished, make.now_ns, "budget_breach")
    assert (finding.value, finding.detail) == (9.0, "ort/cpu/int8 failed latency: too much")


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
