"""What each command of `edgefleet-agent` does. Data goes to standard output, words to standard error."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from edgefleet_agent import control
from edgefleet_agent.activate import Activator
from edgefleet_agent.blobs import DOCUMENT_NAME, Storage
from edgefleet_agent.config import (
    AgentConfig,
    ConfigError,
    config_from,
    meter_environment,
    parse_labels,
    parse_name,
    parse_period_s,
)
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.orders import obey_while_stopped
from edgefleet_agent.records import AgentState, ModelProgress
from edgefleet_agent.sensors.probe import find_sysfs, is_live
from edgefleet_agent.sensors.table import sensor_rows
from edgefleet_agent.state import StateError, StateStore, open_database
from edgefleet_agent.trial import run_in_worker, trial_limits, trial_of
from edgefleet_contract.base import Record
from edgefleet_contract.child import exit_when_closed
from edgefleet_contract.errors import DeviceError
from edgefleet_contract.evidence import Verdict
from edgefleet_contract.job import QualifyJob
from edgefleet_contract.profile import EngineProbe, Profile

if TYPE_CHECKING:
    from edgefleet_agent.resident import Resident

log = logging.getLogger(__name__)

DATABASE_NAME = "agent.db"
LOCK_NAME = "agent.lock"
_LOCK_WAIT_S = 5.0
_LEAVE_WAIT_S = 5.0
"""An agent whose parent went stops in order, within a second; one that cannot ends all the same."""


def run(options: argparse.Namespace, filesystem: Filesystem | None = None) -> int:
    """Serve this device until a signal, or the end of standard input, stops it; rigs bring a file system that fails."""
    from edgefleet_agent.link import MqttLink
    from edgefleet_agent.resident import Ports, Resident
    from edgefleet_contract.topics import DeviceTopics

    config = config_from(options)
    os.environ.update(meter_environment(options.meter))  # for the workers, who inherit it
    signal.signal(control.SIGNAL, signal.SIG_IGN)  # before the lock names this process: an order may come at once
    with _locked(config.home):
        opened = open_database(config.home / DATABASE_NAME)
        topics = DeviceTopics(config.site, config.device)
        ports = Ports(
            make_link=lambda will, events: MqttLink(config.broker, topics, will, events),
            probe=lambda: _probe_here(config),
            filesystem=filesystem or Filesystem(),
        )
        resident = Resident(config, opened, ports)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: resident.stop())
        signal.signal(control.SIGNAL, lambda *_: resident.look_for_orders())
        ended = threading.Event()
        if config.exit_with_stdin:
            exit_when_closed(sys.stdin.buffer, before=lambda: _leave(resident, ended))
        resident.start()
        resident.run()
        ended.set()
    return 0


def _leave(resident: Resident, ended: threading.Event) -> None:
    resident.stop()
    ended.wait(_LEAVE_WAIT_S)


class AgentRunsError(StateError):
    """An agent runs on this home."""


def _locked(home: Path) -> TextIO:
    """Return the home's lock file, locked until it is closed, with this process's id in it.

    Raises:
        AgentRunsError: another process holds it.
        StateError: the home cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / LOCK_NAME).open("a", encoding="ascii")
    except OSError as error:
        msg = f"cannot use {home} as a home: {error.strerror}"
        raise StateError(msg, next_step="give --home a folder that can be written") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    except OSError as error:
        lock.close()
        msg = f"another agent runs on {home}"
        raise AgentRunsError(msg, next_step="stop it, or give another --home") from error
    return lock


def _probe_here(config: AgentConfig) -> Profile:
    from edgefleet_agent.probe import probe_engines_in_child, probe_profile

    engines = probe_engines_in_child(config.test_runtimes)
    return probe_profile(config.site, config.device, config.labels, engines, disk=config.home)


def probe(options: argparse.Namespace) -> int:
    """Print what this device is and can do."""
    from edgefleet_agent.probe import probe_engines_in_child, probe_profile, with_readings

    root = _sysfs_root(options.sysfs_root)
    device = parse_name(options.device or os.environ.get("EDGEFLEET_DEVICE") or _host_name(), "--device")
    site = parse_name(options.site or os.environ.get("EDGEFLEET_SITE") or "local", "--site")
    labels = parse_labels(options.label)
    engines = probe_engines_in_child(options.test_runtimes) if is_live(find_sysfs(root)) else ()
    profile = with_readings(probe_profile(site, device, labels, engines, sysfs_root=root), root)
    if options.output == "json":
        _print_json(profile)
        return 0
    what = [("device", profile.device), ("arch", profile.arch), ("os", profile.os), ("cpu", profile.cpu_model)]
    found = [(engine.target, _told(engine)) for engine in profile.engines]
    _print_table([*what, *found, *sensor_rows(profile)])
    return 0


def _told(engine: EngineProbe) -> str:
    """Return whether an engine works here, its version, and why not."""
    words = (engine.status.value, engine.version, engine.reason and f"({engine.reason})")
    return " ".join(word for word in words if word)


def _sysfs_root(given: str | None) -> Path:
    """Return where sensors are read. Raises ConfigError when it is no folder."""
    root = Path(given) if given else Path("/sys")
    if given and not root.is_dir():
        msg = f"--sysfs-root {given}: no such folder"
        raise ConfigError(msg, next_step="give a folder laid out like /sys, or leave it out")
    return root


def _host_name() -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in socket.gethostname().lower())
    return name.strip("-")[:63].strip("-") or "device"


def qualify(options: argparse.Namespace) -> int:
    """Prove one artifact and print the trial; 3 when it does not qualify."""
    folder: Path = options.artifact_dir.absolute()
    if not (folder / DOCUMENT_NAME).is_file():
        msg = f"{folder} holds no {DOCUMENT_NAME}"
        raise ConfigError(msg, next_step="give the folder of an artifact, as `fleet build --out DIR` writes it")
    os.environ.update(meter_environment(options.meter))  # for the worker, who inherits it
    limits = trial_limits(parse_period_s(options.trial_timeout, "--trial-timeout"))
    trial = trial_of(run_in_worker(QualifyJob(artifact_dir=str(folder), test_runtimes=options.test_runtimes), limits))
    if trial is None:
        msg = "the trial was cancelled"
        raise DeviceError(msg)
    if options.output == "json":
        _print_json(trial)
    else:
        _print_table(
            [("verdict", trial.verdict.value), ("gate", trial.gate and trial.gate.value), ("reason", trial.reason)]
        )
    return 0 if trial.verdict is Verdict.QUALIFIED else 3


def _home_of(options: argparse.Namespace) -> Path:
    """Return the home an agent has run on. Raises ConfigError."""
    given = options.home or os.environ.get("EDGEFLEET_AGENT_HOME")
    if not given or not (Path(given) / DATABASE_NAME).exists():
        msg = f"no agent has run on {given or 'a home'}"
        raise ConfigError(msg, next_step="give --home the folder `edgefleet-agent run` was given")
    return Path(given).absolute()


def undo(options: argparse.Namespace) -> int:
    """Let a model's previous release serve again, with or without an agent running."""
    return _order(options, "undo")


def requalify(options: argparse.Namespace) -> int:
    """Prove a model again: now by the running agent, else when it starts."""
    return _order(options, "requalify")


def _order(options: argparse.Namespace, do: Literal["undo", "requalify"]) -> int:
    home = _home_of(options)
    order = control.Order(do=do, model=parse_name(options.model, "MODEL"))
    told = _carried_out(home, order)
    if not told.ok:
        raise DeviceError(told.told)
    if options.output == "json":
        _print_json(told)
    else:
        sys.stdout.write(f"{told.told}\n")
    return 0


def _carried_out(home: Path, order: control.Order) -> control.OrderAnswer:
    """Do an order under the home's lock, or hand it to the agent that holds it. Raises DeviceError."""
    until_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            with _locked(home):
                return obey_while_stopped(home, home / DATABASE_NAME, order)
        except AgentRunsError:
            agent_pid = control.agent_that_runs(home / LOCK_NAME)
            if agent_pid is not None:
                return control.submit(home, order, agent_pid)
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)  # another command holds the lock, for a moment


def status(options: argparse.Namespace) -> int:
    """Print what serves, what it would go back to, how far each model has come, and how many reports wait."""
    home = _home_of(options)
    state, waiting_n = _read_state(home / DATABASE_NAME)
    activator = Activator(home, Storage(home, Filesystem()), Filesystem())
    serving = {model: held.model_dump(mode="json") for model, held in activator.on_disk().items()}
    previous = {model: before.model_dump(mode="json") for model in serving if (before := activator.previous(model))}
    models = {
        progress.model: {
            "state": progress.said.state.value if progress.said else None,
            "settled": progress.settled.value if progress.settled else None,
            "findings": [finding.model_dump(mode="json") for finding in progress.findings],
        }
        for progress in state.models
    }
    if options.output == "json":
        told = {"generation": state.generation, "reports_waiting": waiting_n, "serving": serving}
        sys.stdout.write(json.dumps({**told, "previous": previous, "models": models}, indent=2) + "\n")
        return 0
    _print_table([("generation", state.generation), ("reports waiting", waiting_n)])
    _print_table((model, f"{held['variant']} {held['artifact']}") for model, held in serving.items())
    _print_table((f"{model} before", f"{held['variant']} {held['artifact']}") for model, held in previous.items())
    _print_table(row for progress in state.models for row in _progress_rows(progress))
    return 0


def _progress_rows(progress: ModelProgress) -> Iterator[tuple[str, str]]:
    """Yield how far a model has come, and what was found out of each variant tried."""
    come = progress.settled or (progress.said.state if progress.said else None)
    if come is not None:
        yield f"{progress.model} state", come.value
    for finding in progress.findings:
        why = f": {finding.reason}" if finding.reason else ""
        yield f"{progress.model} tried", f"{finding.variant} {finding.verdict.value}{why}"


def _read_state(path: Path) -> tuple[AgentState, int]:
    try:
        # A quoted URI: a folder may hold `?`, `#` or `%`.
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            state = StateStore(connection).load()
            waiting_n = connection.execute("SELECT count(*) FROM report").fetchone()[0]
    except (sqlite3.DatabaseError, ValueError) as error:
        msg = f"{path} cannot be read: {error}"
        raise StateError(msg, next_step="start the agent once: it moves a damaged file aside") from error
    return state, int(waiting_n)


def _print_json(record: Record) -> None:
    sys.stdout.write(record.model_dump_json(indent=2) + "\n")


def _print_table(rows: Iterable[tuple[str, object]]) -> None:
    for name, value in rows:
        if value is not None:
            sys.stdout.write(f"{name:<24} {value}\n")
