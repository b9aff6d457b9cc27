"""Orders of the device's own command line while no agent runs: done on the spot, or noted for the next start."""

from __future__ import annotations

import time
from pathlib import Path

from edgefleet_agent.activate import Activator, NoPreviousError
from edgefleet_agent.blobs import Storage
from edgefleet_agent.control import Order, OrderAnswer
from edgefleet_agent.filesystem import Filesystem
from edgefleet_agent.reconcile import reopened_while_stopped, undone_while_stopped
from edgefleet_agent.records import AgentState
from edgefleet_agent.state import StateStore, open_database
from edgefleet_agent.turn import not_wished, release_words


def obey_while_stopped(home: Path, database: Path, order: Order) -> OrderAnswer:
    """Carry out an order on a home whose lock the caller holds.

    Raises:
        StateError: the database cannot be written.
    """
    connection = open_database(database).connection
    try:
        store = StateStore(connection)
        before = store.load()
        after, told = _undo(home, before, order) if order.do == "undo" else _requalify(before, order)
        with store.transaction():
            store.save(before, after)
    finally:
        connection.close()
    return told


def _undo(home: Path, state: AgentState, order: Order) -> tuple[AgentState, OrderAnswer]:
    activator = Activator(home, Storage(home, Filesystem()), Filesystem())
    try:
        serving = activator.undo(order.model, time.time_ns())
    except (NoPreviousError, OSError) as error:
        return state, OrderAnswer(ok=False, told=str(error))
    progress = state.progress(order.model)
    words = release_words(serving, progress.wish if progress else None)
    told = f"{order.model} serves {words}; the next start reports it"
    return undone_while_stopped(state, order.model, serving), OrderAnswer(ok=True, told=told)


def _requalify(state: AgentState, order: Order) -> tuple[AgentState, OrderAnswer]:
    progress = state.progress(order.model)
    if progress is None or progress.wish is None:
        return state, OrderAnswer(ok=False, told=not_wished(order.model))
    told = f"{order.model} is proved again when the agent starts"
    return reopened_while_stopped(state, order.model), OrderAnswer(ok=True, told=told)
