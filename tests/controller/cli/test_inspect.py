from __future__ import annotations

import csv
import io
import json

import pytest

from edgefleet_contract.evidence import Conditions, Evidence, Gate, Verdict
from edgefleet_contract.profile import EngineProbe, ProbeStatus
from edgefleet_controller import api
from edgefleet_controller.api import DeviceModelRow, DeviceRow, EvidenceRow, RevisionStatus
from edgefleet_hil.doubles import online_device
from edgefleet_hil.scripted import Cli, FakeBackend, ScriptedApi

READERS = [["devices"], ["devices", "list"], ["devices", "show", "local"], ["evidence"], ["health"], ["query", "x"]]


@pytest.fixture
def evidence_row(active_row: DeviceModelRow, conditions: Conditions) -> api.EvidenceRow:
    evidence = Evidence(
        verdict=Verdict.FAILED,
        gate=Gate.LATENCY,
        reason="p95 31 ms is above the limit of 20 ms",
        parity=active_row.parity,
        latency=active_row.latency,
        memory=active_row.memory,
        conditions=conditions,
        model="digits",
        variant="ort/cpu/int8",
        artifact=active_row.artifact,
        release=active_row.artifact,
        generation=1,
        started_at_ns=0,
        duration_s=3.0,
    )
    return api.EvidenceRow(device="local", received_at_ns=1_700_000_000_000_000_000, evidence=evidence)


@pytest.fixture
def device_row(active_row: DeviceModelRow) -> api.DeviceRow:
    row = online_device("local")
    assert row.profile is not None
    probe = EngineProbe(target="tflite/edgetpu", status=ProbeStatus.MISSING, reason="no Edge TPU found")
    profile = row.profile.model_copy(update={"engines": (probe,), "labels": {"room": "lobby"}})
    return row.model_copy(update={"models": (active_row,), "profile": profile, "desired_generation": 2})


@pytest.fixture
def store(
    backend: FakeBackend,
    scripted: ScriptedApi,
    device_row: DeviceRow,
    evidence_row: EvidenceRow,
    complete: RevisionStatus,
) -> ScriptedApi:
    """A store with something of everything, and no stack running."""
    finding = api.HealthFinding(
        check="budget-breach",
        title="Budget breach",
        severity=api.Severity.WARNING,
        device="local",
        model="digits",
        detail="p95 is close to its limit",
        value=19.0,
        threshold=20.0,
        unit="ms",
    )
    backend.store_exists = True
    scripted.script(
        api.DevicesResult(devices=(device_row,)),
        api.EvidenceResult(evidence=(evidence_row,)),
        api.HealthResult(checks=("budget-breach",), findings=(finding,)),
        api.QueryResult(columns=("device", "p95_ms"), rows=(("local", 0.05), ("kiosk,1", None))),
        api.StatusResult(
            version="0.1.0", store="fleet.db", running=False, devices=(device_row,), revision=complete, findings=1
        ),
    )
    return scripted


@pytest.mark.parametrize("args", READERS)
def test_with_nothing_to_read_a_reader_says_what_to_type_and_exits_1(cli: Cli, args: list[str]) -> None:
    result = cli(*args)
    assert result.exit_code == 1
    assert "nothing here yet: type fleet apply manifest.yaml" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("args", READERS)
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_every_reader_prints_one_object_with_the_api_version(
    cli: Cli, store: ScriptedApi, args: list[str], form: str
) -> None:
    import yaml

    result = cli(*args, "-o", form)
    assert result.exit_code == 0
    data = json.loads(result.stdout) if form == "json" else yaml.safe_load(result.stdout)
    assert data["api"] == "fleet/v1"


def test_the_output_option_may_stand_before_the_subcommand_list(cli: Cli, store: ScriptedApi) -> None:
    assert json.loads(cli("devices", "-o", "json").stdout)["devices"][0]["device"] == "local"


def test_a_running_stack_is_asked_before_the_store(cli: Cli, backend: FakeBackend, store: ScriptedApi) -> None:
    backend.stack_runs, backend.store_exists = True, False
    assert cli("devices").exit_code == 0


def test_status_with_nothing_here_is_friendly_and_exits_0(cli: Cli) -> None:
    result = cli("status")
    assert result.exit_code == 0
    assert "nothing here yet: type fleet apply manifest.yaml" in result.stdout
    data = json.loads(cli("status", "-o", "json").stdout)
    assert (data["running"], data["devices"], data["revision"], data["findings"]) == (False, [], None, 0)


def test_status_fits_one_screen_and_names_devices_revision_and_findings(cli: Cli, store: ScriptedApi) -> None:
    result = cli("status", columns=80)
    lines = result.stdout.splitlines()
    assert len(lines) <= 24
    for text in ("revision 3 complete", "local", "ort/cpu/int8", "1 health finding(s)", "0 of 2"):
        assert text in result.stdout


def test_a_device_is_shown_with_its_engines_labels_and_figures(cli: Cli, store: ScriptedApi) -> None:
    out = cli("devices", "show", "local").stdout
    for text in ("tflite/edgetpu", "no Edge TPU found", "room=lobby", "0.982", "0.981", "50 µs"):
        assert text in out


def test_an_unknown_device_is_refused_with_the_known_ones(cli: Cli, store: ScriptedApi) -> None:
    result = cli("devices", "show", "locl")
    assert result.exit_code == 2
    assert "no device 'locl'; known: local" in result.stderr


def test_evidence_shows_gate_and_reason_of_what_failed(cli: Cli, store: ScriptedApi) -> None:
    out = cli("evidence").stdout
    assert "failed at latency: p95 31 ms is above the limit of 20 ms" in out
    assert "abababababab" in out


def test_evidence_is_filtered_by_the_controller(cli: Cli, store: ScriptedApi) -> None:
    cli("evidence", "--device", "local", "--model", "digits", "--limit", "5")
    (wanted,) = store.asked("evidence")
    assert (wanted.device, wanted.model, wanted.limit) == ("local", "digits", 5)


@pytest.mark.parametrize(
    "args", [["evidence", "--device", "No Such!"], ["evidence", "--limit", "0"], ["query", "x", "--limit", "100001"]]
)
def test_values_a_request_does_not_take_are_usage_errors_by_name(cli: Cli, store: ScriptedApi, args: list[str]) -> None:
    result = cli(*args)
    assert result.exit_code == 2
    assert args[-2].removeprefix("--") in result.stderr


@pytest.mark.parametrize(("fail_on", "code"), [(None, 0), ("warning", 3), ("critical", 0)])
def test_health_fails_only_on_findings_bad_enough(cli: Cli, store: ScriptedApi, fail_on: str | None, code: int) -> None:
    option = ["--fail-on", fail_on] if fail_on else []
    assert cli("health", *option).exit_code == code


def test_health_lists_findings_with_value_threshold_and_unit(cli: Cli, store: ScriptedApi) -> None:
    out = cli("health").stdout
    for text in ("warning", "budget-breach", "p95 is close to its limit", "19 ms", "20 ms"):
        assert text in out


def test_no_findings_is_one_line_that_names_the_checks(cli: Cli, store: ScriptedApi) -> None:
    store.script(api.HealthResult(checks=("offline", "never-qualified"), findings=()))
    assert cli("health", "--fail-on", "warning").stdout == "no findings; 2 check(s): offline, never-qualified\n"


def test_worse_findings_come_first(cli: Cli, store: ScriptedApi) -> None:
    warning = store.scripted(api.HealthResult).findings[0]
    critical = warning.model_copy(update={"severity": api.Severity.CRITICAL})
    info = warning.model_copy(update={"severity": api.Severity.INFO})
    store.script(api.HealthResult(checks=("a",), findings=(warning, critical, info)))
    severities = [line.split()[0] for line in cli("health").stdout.splitlines() if "budget-breach" in line]
    assert severities == ["critical", "warning", "info"]


def test_a_query_prints_csv_that_a_csv_reader_reads(cli: Cli, store: ScriptedApi) -> None:
    result = cli("query", "SELECT device, p95_ms FROM fleet_evidence", "-o", "csv", "--limit", "7")
    assert list(csv.reader(io.StringIO(result.stdout))) == [["device", "p95_ms"], ["local", "0.05"], ["kiosk,1", ""]]
    assert store.asked("query")[0].limit == 7


def test_a_cut_query_says_so_on_stderr(cli: Cli, store: ScriptedApi) -> None:
    store.script(store.scripted(api.QueryResult).model_copy(update={"truncated": True}))
    result = cli("query", "x", "-o", "csv")
    assert "only the first 2 rows" in result.stderr
    assert "only" not in result.stdout


def test_text_of_the_user_is_never_taken_for_markup(cli: Cli, store: ScriptedApi) -> None:
    store.script(api.QueryResult(columns=("[bold]a",), rows=(("[red]x[/red] :smile:",),)))
    out = cli("query", "x").stdout
    assert "[bold]a" in out
    assert "[red]x[/red] :smile:" in out


def test_evidence_of_an_unknown_device_says_what_there_is_evidence_of(cli: Cli, store: ScriptedApi) -> None:
    store.script(api.EvidenceResult(evidence=()))
    result = cli("evidence", "--device", "lokal", "-o", "json")
    assert json.loads(result.stdout)["evidence"] == []
    assert "no evidence of that; there is: local/digits" in result.stderr


def test_ctrl_c_is_one_word_and_130(cli: Cli, store: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgefleet_controller.cli.inspect.require_reader", interrupted)
    result = cli("health", "-o", "json")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "stopped\n")


def test_a_name_that_is_no_file_where_there_is_no_fleet_is_told(cli: Cli) -> None:
    result = cli("explain", "nothing")
    assert result.exit_code == 2
    assert "no such file or folder" in result.stderr
