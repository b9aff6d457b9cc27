from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent import commands
from edgefleet_agent.__main__ import build_parser, main
from edgefleet_agent.activate import Activator
from edgefleet_agent.blobs import Storage
from edgefleet_agent.config import ConfigError, config_from, parse_broker, parse_labels, parse_period_s
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.jobs import JobDeath
from edgefleet_agent.records import AgentState, Finding, ModelProgress, Serving, Settled
from edgefleet_agent.state import StateStore, open_database
from edgefleet_contract.child import ChildEnd, ChildOutcome
from edgefleet_contract.evidence import Trial, Verdict
from edgefleet_contract.job import QualifyAnswer
from edgefleet_contract.profile import ProbedProfile, Profile

RUN = ["run", "--home", "/tmp/x", "--broker", "mqtt://broker:1884", "--device", "one", "--site", "lab"]


def test_options_become_a_configuration() -> None:
    options = build_parser().parse_args([*RUN, "--label", "zone=a", "--heartbeat", "2s", "--test-runtimes"])
    config = config_from(options, {})
    assert (config.broker.host, config.broker.port) == ("broker", 1884)
    assert (config.device, config.site, config.labels) == ("one", "lab", {"zone": "a"})
    assert (config.heartbeat_s, config.trial_timeout_s, config.test_runtimes) == (2.0, 300.0, True)


def test_the_environment_fills_in_what_no_option_says() -> None:
    environ = {
        "EDGEFLEET_AGENT_HOME": "/tmp/y",
        "EDGEFLEET_BROKER": "mqtt://b",
        "EDGEFLEET_DEVICE": "two",
        "EDGEFLEET_SITE": "lab",
    }
    config = config_from(build_parser().parse_args(["run", "--device", "one"]), environ)
    assert (config.device, config.broker.port, config.home) == ("one", 1883, Path("/tmp/y"))


def test_what_is_missing_is_named_with_its_variable() -> None:
    with pytest.raises(ConfigError, match=r"--home is missing.*EDGEFLEET_AGENT_HOME"):
        config_from(build_parser().parse_args(["run"]), {})


@pytest.mark.parametrize(
    "url", ["mqtts://b:1", "http://b", "b:1883", "mqtt://", "mqtt://b:99999", "mqtt://b/x", "mqtt://u:secret@b"]
)
def test_a_broker_that_is_no_mqtt_url_is_refused_without_showing_a_secret(url: str) -> None:
    with pytest.raises(ConfigError, match="mqtt://host:port") as error:
        parse_broker(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("label", ["", "a", "=b", "a=", "A=b", "a=b c", "a=" + "x" * 99])
def test_a_label_that_is_none_is_refused(label: str) -> None:
    with pytest.raises(ConfigError, match="--label"):
        parse_labels([label])


@pytest.mark.parametrize("text", ["10", "0s", "1ms", "2d", "ten", "-1s"])
def test_a_period_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--heartbeat"):
        parse_period_s(text, "--heartbeat")


@pytest.mark.parametrize("argv", [["run"], ["status"], ["qualify", "/nowhere"], ["probe", "--device", "No Name"]])
def test_wrong_input_is_exit_code_2_and_says_what_to_do(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("edgefleet-agent: ")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("command", [[], ["run"], ["probe"], ["qualify"], ["status"]])
def test_every_command_tells_its_exit_codes_in_its_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert "exit codes: 0 done, 1 error, 2 usage" in " ".join(capsys.readouterr().out.split())


def test_a_home_in_use_is_refused_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [str(tmp_path) if word == "/tmp/x" else word for word in RUN]
    with commands._locked(tmp_path):
        assert main(argv) == 1
    assert "another agent runs on" in capsys.readouterr().err


def test_a_home_that_is_a_file_is_refused_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x", encoding="ascii")
    argv = [str(tmp_path / "file") if word == "/tmp/x" else word for word in RUN]
    assert main(argv) == 1
    assert "give --home a folder that can be written" in capsys.readouterr().err


def test_status_tells_what_serves_with_no_controller(
    tmp_path: Path, artifact: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = artifact({"model.onnx": b"m"})
    storage = Storage(tmp_path, Filesystem())
    for digest, data in made.blobs.items():
        storage.blob(digest).write_bytes(data)
    storage.assemble(made.candidate.artifact, made.document)
    serving = Serving(artifact=made.candidate.artifact, variant="ort/cpu/fp32", release="sha256:" + "1" * 64)
    Activator(tmp_path, storage, Filesystem()).activate("digits", serving, None, 0)
    store = StateStore(open_database(tmp_path / "agent.db").connection)
    with store.transaction():
        store.save(AgentState(), AgentState(generation=6, models=(ModelProgress(model="digits"),)))
    assert main(["status", "--home", str(tmp_path), "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["generation"] == 6
    assert told["serving"]["digits"]["artifact"] == made.candidate.artifact
    assert main(["status", "--home", str(tmp_path)]) == 0
    assert "ort/cpu/fp32" in capsys.readouterr().out


def test_status_tells_people_how_far_a_model_has_come_and_why_not_further(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = Finding(
        artifact="sha256:" + "a" * 64, variant="ort/cpu/int8", verdict=Verdict.FAILED, reason="p95 30 ms, limit 20 ms"
    )
    progress = ModelProgress(model="digits", findings=(finding,), settled=Settled.REFUSED)
    store = StateStore(open_database(tmp_path / "agent.db").connection)
    with store.transaction():
        store.save(AgentState(), AgentState(generation=6, models=(progress,)))
    assert main(["status", "--home", str(tmp_path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "digits state refused" in lines
    assert "digits tried ort/cpu/int8 failed: p95 30 ms, limit 20 ms" in lines


def test_a_home_may_be_named_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "50% of #1? yes"
    home.mkdir()
    open_database(home / "agent.db").connection.close()
    assert main(["status", "--home", str(home)]) == 0
    assert "generation" in capsys.readouterr().out


def test_status_of_a_damaged_database_is_an_error_and_leaves_it_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.db").write_bytes(b"no database" * 100)
    assert main(["status", "--home", str(tmp_path)]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert (tmp_path / "agent.db").read_bytes() == b"no database" * 100


@pytest.mark.parametrize(
    ("answer", "code", "verdict"),
    [
        (QualifyAnswer(trial=Trial(verdict=Verdict.QUALIFIED)), 0, "qualified"),
        (QualifyAnswer(trial=Trial(verdict=Verdict.FAILED, reason="no")), 3, "failed"),
        (JobDeath(ChildOutcome(ChildEnd.CRASHED, None, "killed by signal 11", "", 1.0)), 3, "crashed"),
    ],
)
def test_qualify_prints_the_trial_and_ends_with_its_verdict(
    answer: Any,
    code: int,
    verdict: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "artifact.json").write_text("{}", encoding="ascii")
    monkeypatch.setattr(commands, "run_in_worker", lambda *_: answer)
    assert main(["qualify", str(tmp_path), "-o", "json"]) == code
    assert json.loads(capsys.readouterr().out)["verdict"] == verdict
    assert main(["qualify", str(tmp_path)]) == code
    assert verdict in capsys.readouterr().out


def test_probe_prints_a_profile(
    monkeypatch: pytest.MonkeyPatch, profile: Profile, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgefleet_agent.probe.probe_engines_in_child", lambda *_, **__: profile.engines)
    assert main(["probe", "--device", "one", "--site", "lab", "--label", "zone=a", "-o", "json"]) == 0
    told = ProbedProfile.model_validate_json(capsys.readouterr().out)
    assert (told.device, told.labels["zone"], told.engines) == ("one", "a", profile.engines)
    assert main(["probe"]) == 0
    assert "ort/cpu" in capsys.readouterr().out


def test_all_the_resident_process_imports_is_free_of_numpy_and_runtimes() -> None:
    program = (
        "import sys, edgefleet_agent.__main__, edgefleet_agent.resident, edgefleet_agent.link, edgefleet_agent.probe\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'numpy', 'onnxruntime', 'onnx'}))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
