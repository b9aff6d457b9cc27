from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefleet_contract.errors import TransportError, UserInputError
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.report import Tried
from edgefleet_controller import api
from edgefleet_controller.api import DeviceModelRow, ExitCode, Phase, ProgressEvent, RevisionStatus
from edgefleet_controller.cli.applying import _send_files, prepare
from edgefleet_controller.cli.progress import PlainView
from edgefleet_hil.doubles import online_device
from edgefleet_hil.scripted import Cli, Clock, FakeBackend, ScriptedApi

PENDING = api.RevisionStatus(revision=3, phase=Phase.BUILDING)

MakeEvent = Callable[..., ProgressEvent]


def test_a_private_stack_is_started_for_the_apply_and_stopped_after_it(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    scripted.revisions = [complete]
    assert cli("apply", str(manifest)).exit_code == 0
    assert backend.log == [f"start fleet apply {manifest} shared=False port=None", "stop"]


def test_a_running_stack_is_used_and_left_running(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    backend.stack_runs = True
    scripted.revisions = [complete]
    assert cli("apply", str(manifest)).exit_code == 0
    assert backend.log == []


def test_a_stack_another_terminal_has_just_started_is_waited_for_and_then_used(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    backend.stack_runs = True
    backend.starting_polls_n = 2
    scripted.revisions = [complete]
    result = cli("apply", str(manifest))
    assert result.exit_code == 0
    assert backend.log == []
    assert result.stderr.count("fleet up is starting; waiting for the controller") == 1


def test_the_first_agent_of_a_running_stack_is_waited_for_before_anything_is_asked(
    cli: Cli,
    backend: FakeBackend,
    scripted: ScriptedApi,
    manifest: Path,
    complete: RevisionStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend.stack_runs = True
    scripted.revisions = [complete]
    unknown = online_device("local").model_copy(update={"profile": None})
    late = [(), (unknown,), (online_device("local"),)]
    monkeypatch.setattr(scripted, "devices", lambda _: api.DevicesResult(devices=late.pop(0)))
    result = cli("apply", str(manifest))
    assert result.exit_code == 0
    assert late == []
    assert result.stderr.count("waiting for the first agent") == 1


def test_an_agent_that_never_comes_ends_the_wait_with_where_to_look(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path, clock: Clock
) -> None:
    backend.stack_runs = True
    scripted.script(api.DevicesResult(devices=()))
    result = cli("apply", str(manifest))
    assert result.exit_code == 1
    assert "the first agent is not ready after 60 s" in result.stderr
    assert "next: read the logs in" in result.stderr
    assert scripted.asked("apply") == []
    assert 60 < clock.now_s < 62


def test_a_stack_that_ends_while_it_is_waited_for_gives_way_to_a_private_one(
    cli: Cli,
    backend: FakeBackend,
    scripted: ScriptedApi,
    manifest: Path,
    complete: RevisionStatus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend.stack_runs = True
    backend.starting_polls_n = 1000
    scripted.revisions = [complete]
    monkeypatch.setattr(backend, "starting", lambda _: backend.starting_polls_n > 995)
    assert cli("apply", str(manifest)).exit_code == 0
    assert backend.log[0].startswith("start fleet apply")


@pytest.mark.parametrize("place", ["before", "after", "equals", "environment"])
def test_the_server_may_be_named_anywhere(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus, place: str
) -> None:
    scripted.revisions = [complete]
    url = "http://controller:4180"
    command = ["apply", str(manifest)]
    args = {
        "before": ["--server", url, *command],
        "after": [*command, "--server", url],
        "equals": [*command, f"--server={url}"],
        "environment": command,
    }[place]
    env = {"FLEET_SERVER": url} if place == "environment" else {}
    assert cli(*args, env=env).exit_code == 0
    assert backend.log == [f"remote {url} secret"]


def test_json_is_one_object_of_the_documented_shape(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus, make_event: MakeEvent
) -> None:
    scripted.revisions = [complete.model_copy(update={"events": (make_event(1, "built"),)})]
    result = cli("apply", str(manifest), "-o", "json")
    data = json.loads(result.stdout)
    assert data["api"] == "fleet/v1"
    assert (data["revision"], data["phase"], data["exit_code"]) == (3, "complete", 0)
    assert "events" not in data
    (row,) = data["devices"]
    assert (row["device"], row["model"], row["state"], row["variant"]) == ("local", "digits", "active", "ort/cpu/int8")
    assert row["tried"] == [{"variant": "tflite/edgetpu/int8", "verdict": "unsupported", "reason": "no Edge TPU found"}]
    assert {key: row["parity"][key] for key in ("verdict", "agreement", "worst_sqnr_db")} == {
        "verdict": "pass",
        "agreement": 0.999,
        "worst_sqnr_db": 31.2,
    }
    assert row["parity"]["metric"]["kind"] == "top1"
    assert row["latency"]["ci95_p95_ms"] == [0.049, 0.052]
    assert row["memory"]["peak_bytes"] == 31457280
    assert (row["energy"]["status"], row["energy"]["reason"]) == ("unmeasured", "no power sensor on this device")
    assert row["placement"]["nodes"] == {"CPUExecutionProvider": 12}
    assert row["evidence"] == "executed-on-device"


def test_yaml_says_the_same_as_json(cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus) -> None:
    import yaml

    scripted.revisions = [complete]
    as_yaml = yaml.safe_load(cli("apply", str(manifest), "-o", "yaml").stdout)
    assert as_yaml == json.loads(cli("apply", str(manifest), "-o", "json").stdout)


def test_progress_goes_to_stderr_and_nothing_but_the_result_to_stdout(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus, make_event: MakeEvent
) -> None:
    scripted.revisions = [PENDING.model_copy(update={"events": (make_event(1, "calibrating"),)}), complete]
    result = cli("apply", str(manifest), "-o", "json")
    assert "build digits ort/cpu/int8: calibrating" in result.stderr
    assert json.loads(result.stdout)["phase"] == "complete"
    assert "\x1b" not in result.output


def test_events_are_asked_for_only_once(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus, make_event: MakeEvent
) -> None:
    scripted.revisions = [PENDING.model_copy(update={"events": (make_event(7, "calibrating"),)}), complete]
    cli("apply", str(manifest))
    assert [query.after_event for query in scripted.asked("revision")] == [0, 7]


def test_only_files_the_controller_lacks_are_sent_and_each_content_once(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    scripted.revisions = [complete]
    result = cli("apply", str(manifest))
    assert len(scripted.asked("put_blob")) == 2
    assert "sent 2 file(s)" in result.stderr
    cli("apply", str(manifest))
    assert len(scripted.asked("put_blob")) == 2


def test_the_request_names_every_file_by_content(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    scripted.revisions = [complete]
    cli("apply", str(manifest), "--prune", "--yes")
    (request,) = scripted.asked("apply")
    assert set(request.files) == {"digits.onnx", "digits.npz"}
    assert request.files["digits.npz"].size_bytes == 22
    assert request.prune


@pytest.mark.parametrize(
    ("phase", "code"),
    [(Phase.COMPLETE, 0), (Phase.FAILED, 3), (Phase.ABORTED, 4), (Phase.ERROR, 1)],
)
def test_a_final_phase_without_an_exit_code_has_its_own(
    cli: Cli, scripted: ScriptedApi, manifest: Path, phase: Phase, code: int
) -> None:
    scripted.revisions = [api.RevisionStatus(revision=3, phase=phase)]
    result = cli("apply", str(manifest), "-o", "json")
    assert result.exit_code == code
    assert json.loads(result.stdout)["exit_code"] == code


def test_the_controllers_exit_code_counts(cli: Cli, scripted: ScriptedApi, manifest: Path) -> None:
    scripted.revisions = [api.RevisionStatus(revision=3, phase=Phase.FAILED, exit_code=5)]
    assert cli("apply", str(manifest)).exit_code == 5


def test_a_timeout_ends_with_4_and_the_rows_so_far(
    cli: Cli, scripted: ScriptedApi, manifest: Path, active_row: DeviceModelRow
) -> None:
    scripted.revisions = [PENDING.model_copy(update={"devices": (active_row,)})]
    result = cli("apply", str(manifest), "--timeout", "5s", "-o", "json")
    assert result.exit_code == ExitCode.PARTIAL
    data = json.loads(result.stdout)
    assert (data["exit_code"], data["phase"], len(data["devices"])) == (4, "building", 1)
    assert "not done after 5 s" in result.stderr
    assert "--timeout 1h" in result.stderr
    assert len(scripted.asked("revision")) == 6


def test_ctrl_c_on_a_running_stack_detaches_and_says_how_to_attach_again(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path
) -> None:
    backend.stack_runs = True
    scripted.revisions = [PENDING, KeyboardInterrupt()]
    result = cli("apply", str(manifest), "-o", "json")
    assert result.exit_code == ExitCode.DETACHED
    assert "fleet status" in result.stderr
    assert f"fleet apply {manifest}" in result.stderr
    assert json.loads(result.stdout)["exit_code"] == 130


def test_ctrl_c_on_a_private_stack_stops_it_and_says_that_work_resumes(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path
) -> None:
    scripted.revisions = [PENDING, KeyboardInterrupt()]
    result = cli("apply", str(manifest))
    assert result.exit_code == ExitCode.DETACHED
    assert backend.log[-1] == "stop"
    assert f"To go on: fleet apply {manifest}" in result.stderr


def test_no_wait_starts_the_apply_and_leaves(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path
) -> None:
    backend.stack_runs = True
    scripted.revisions = [PENDING]
    result = cli("apply", str(manifest), "--no-wait", "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["phase"] == "building"
    assert len(scripted.asked("revision")) == 1


def test_no_wait_is_refused_before_a_stack_is_started_that_would_end_with_the_command(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path
) -> None:
    result = cli("apply", str(manifest), "--no-wait")
    assert result.exit_code == ExitCode.USAGE
    assert "fleet up" in result.stderr
    assert scripted.asked("apply") == []
    assert backend.log == []


def test_nothing_changed_is_one_line_and_still_the_table(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    scripted.accepted = api.ApplyAccepted(revision=3, changed=False)
    scripted.revisions = [complete]
    result = cli("apply", str(manifest))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "no change: revision 3 is already active on 1 device(s)"
    assert "ort/cpu/int8" in result.stdout
    assert json.loads(cli("apply", str(manifest), "-o", "json").stdout)["changed"] is False


def test_the_past_of_a_finished_apply_is_not_told_again(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    scripted.accepted = api.ApplyAccepted(revision=3, changed=False)
    scripted.revisions = [complete]
    cli("apply", str(manifest))
    (asked,) = scripted.asked("revision")
    assert asked.after_event == 2**53 - 1


def test_an_unfinished_revision_is_followed_even_when_nothing_changed(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    scripted.accepted = api.ApplyAccepted(revision=3, changed=False)
    scripted.revisions = [PENDING, complete]
    assert cli("apply", str(manifest)).exit_code == 0


def test_a_refusal_names_device_model_measured_value_limit_and_next_command(
    cli: Cli, scripted: ScriptedApi, manifest: Path, refused_row: DeviceModelRow
) -> None:
    scripted.revisions = [
        api.RevisionStatus(revision=3, phase=Phase.FAILED, exit_code=3, devices=(refused_row,), reason="1 refused")
    ]
    result = cli("apply", str(manifest))
    assert result.exit_code == ExitCode.GATE_FAILED
    assert "kiosk-1/lite0: refused" in result.stderr
    assert "ort/cpu/fp32: failed: p95 31 ms is above the limit of 20 ms" in result.stderr
    assert "next: fleet evidence --device kiosk-1 --model lite0" in result.stderr


@pytest.mark.parametrize(
    ("verdicts", "command"),
    [
        (["unsupported"], "fleet devices show kiosk-1"),
        (["unsupported", "build-failed"], "fleet query builds"),
        (["unsupported", "crashed"], "fleet evidence --device kiosk-1 --model lite0"),
        ([], "fleet evidence --device kiosk-1 --model lite0"),
    ],
)
def test_the_next_command_shows_what_there_is_about_a_refusal(
    cli: Cli, scripted: ScriptedApi, manifest: Path, refused_row: DeviceModelRow, verdicts: list[str], command: str
) -> None:
    tried = tuple(Tried(variant="ort/cpu/fp32", verdict=Verdict(verdict), reason="why") for verdict in verdicts)
    row = refused_row.model_copy(update={"tried": tried})
    scripted.revisions = [api.RevisionStatus(revision=3, phase=Phase.FAILED, exit_code=3, devices=(row,))]
    assert f"next: {command}\n" in cli("apply", str(manifest)).stderr


def removal(action: str) -> api.PlanResult:
    row = api.DeviceModelPlan(device="local", model="old", chain=(), action=action)
    return api.PlanResult(changed=True, builds=(), devices=(row,))


def test_prune_without_a_terminal_needs_yes(cli: Cli, scripted: ScriptedApi, manifest: Path) -> None:
    scripted.script(removal("remove"))
    result = cli("apply", str(manifest), "--prune")
    assert result.exit_code == ExitCode.USAGE
    assert "local/old" in result.stderr
    assert "--yes" in result.stderr
    assert scripted.asked("apply") == []


def test_prune_that_removes_nothing_does_not_ask(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus
) -> None:
    scripted.script(removal("deploy"))
    scripted.revisions = [complete]
    assert cli("apply", str(manifest), "--prune").exit_code == 0


def test_an_error_with_a_path_is_placed_in_the_manifest(cli: Cli, scripted: ScriptedApi, manifest: Path) -> None:
    error = UserInputError("no device matches 'all'", next_step="fleet devices")
    error.path = ("deployments", 0, "to")  # type: ignore[attr-defined]
    scripted.errors["apply"] = error
    result = cli("apply", str(manifest))
    assert result.exit_code == ExitCode.USAGE
    assert "manifest.yaml:5:" in result.stderr
    assert "no device matches 'all'" in result.stderr
    assert "next: fleet devices" in result.stderr
    assert result.stdout == ""


def test_a_lost_controller_is_an_error_and_the_private_stack_is_stopped(
    cli: Cli, backend: FakeBackend, scripted: ScriptedApi, manifest: Path
) -> None:
    scripted.revisions = [TransportError("the controller could not be reached")]
    result = cli("apply", str(manifest))
    assert result.exit_code == ExitCode.ERROR
    assert "could not be reached" in result.stderr
    assert backend.log[-1] == "stop"


@pytest.mark.parametrize("timeout", ["10", "soon", "-1s", ""])
def test_a_timeout_without_a_unit_is_refused_by_name(
    cli: Cli, backend: FakeBackend, manifest: Path, timeout: str
) -> None:
    result = cli("apply", str(manifest), "--timeout", timeout)
    assert result.exit_code == ExitCode.USAGE
    assert "--timeout" in result.stderr
    assert backend.log == []


def test_a_bad_manifest_starts_nothing(cli: Cli, backend: FakeBackend, manifest: Path) -> None:
    manifest.write_text(manifest.read_text().replace("source:", "sorce:"), encoding="utf-8")
    result = cli("apply", str(manifest))
    assert result.exit_code == ExitCode.USAGE
    assert "manifest.yaml:3:" in result.stderr
    assert "did you mean 'source'" in result.stderr
    assert backend.log == []


def test_a_plan_shows_builds_chain_bytes_and_what_is_skipped(
    cli: Cli, scripted: ScriptedApi, manifest: Path, active_row: DeviceModelRow
) -> None:
    row = api.DeviceModelPlan(
        device="local",
        model="digits",
        chain=("ort/cpu/int8", "ort/cpu/fp32"),
        skipped=active_row.tried,
        bytes_to_move=2048,
        action="deploy",
    )
    build = api.BuildPlan(model="digits", variant="ort/cpu/int8", cached=False)
    scripted.script(api.PlanResult(changed=True, builds=(build,), devices=(row,)))
    result = cli("plan", str(manifest))
    assert result.exit_code == 0
    for text in ("deploy", "2.0 KiB", "ort/cpu/fp32", "no Edge TPU found"):
        assert text in result.stdout
    assert json.loads(cli("plan", str(manifest), "-o", "json").stdout)["devices"][0]["bytes_to_move"] == 2048
    assert scripted.asked("apply") == []


@pytest.mark.parametrize("command", [["plan"], ["apply", "--prune"]])
def test_a_plan_is_asked_for_after_the_files_it_looks_into_were_sent(
    cli: Cli, scripted: ScriptedApi, manifest: Path, complete: RevisionStatus, command: list[str]
) -> None:
    scripted.script(api.PlanResult(changed=True, builds=(), devices=()))
    scripted.revisions = [complete]
    name, *options = command
    assert cli(name, str(manifest), *options).exit_code == 0
    order = [operation for operation, _ in scripted.calls if operation in {"put_blob", "plan"}]
    assert order == ["put_blob", "put_blob", "plan"]


@pytest.mark.parametrize(("changed", "code"), [(False, 0), (True, 2)])
def test_the_detailed_exit_code_tells_whether_something_would_change(
    cli: Cli, scripted: ScriptedApi, manifest: Path, changed: bool, code: int
) -> None:
    scripted.script(api.PlanResult(changed=changed, builds=(), devices=()))
    assert cli("plan", str(manifest), "--detailed-exitcode").exit_code == code
    assert cli("plan", str(manifest)).exit_code == 0


def test_with_the_detailed_exit_code_a_bad_manifest_is_1_so_that_2_stays_clear(cli: Cli, manifest: Path) -> None:
    manifest.write_text("fleet: v2\n", encoding="utf-8")
    assert cli("plan", str(manifest), "--detailed-exitcode").exit_code == 1
    assert cli("plan", str(manifest)).exit_code == 2


def test_the_upload_bar_moves_within_a_file_and_is_full_only_when_all_are_taken(
    scripted: ScriptedApi, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, float | None]] = []

    class Seen(PlainView):
        def show(self, event: ProgressEvent) -> None:
            shown.append((event.text, event.done))

    def put_blob(_digest: str, path: Path, *, on_sent: api.OnSent) -> None:
        size_bytes = path.stat().st_size
        for sent_bytes in (size_bytes // 2, size_bytes):
            on_sent(sent_bytes)

    monkeypatch.setattr(scripted, "put_blob", put_blob)
    _send_files(scripted, prepare(manifest).files, Seen())
    sizes = [(name, (manifest.parent / name).stat().st_size) for name in ("digits.onnx", "digits.npz")]
    (first, first_bytes), (second, second_bytes) = sizes
    assert shown == [
        (f"sending {first}", 0), (f"sending {first}", first_bytes // 2),
        (f"sending {second}", first_bytes), (f"sending {second}", first_bytes + second_bytes // 2),
        ("sent 2 file(s)", first_bytes + second_bytes),
    ]  # fmt: skip
