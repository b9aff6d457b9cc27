"""Which operators a delegate took, walked back from the outputs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_agent.runtimes.litert_placement import Node, placement_of

DELEGATE = "DELEGATE"


def node(op: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Node:
    return Node(op, inputs, outputs)


CHAIN = (node("CONV", (0,), (1,)), node("RELU", (1,), (2,)), node("SOFTMAX", (2,), (3,)))


def shares(*nodes: Node, outputs: tuple[int, ...] = (3,), engine: str = "gpu") -> tuple[float, dict[str, int]]:
    placement = placement_of(nodes, outputs, engine=engine)
    assert placement is not None
    return placement.accelerated, placement.nodes


def test_without_a_delegate_all_is_built_in() -> None:
    assert shares(*CHAIN) == (0.0, {"builtin kernels": 3})
    assert shares(*CHAIN, engine="cpu") == (1.0, {"builtin kernels": 3})


def test_a_delegate_takes_what_is_no_longer_met() -> None:
    assert shares(*CHAIN, node(DELEGATE, (0,), (2,))) == (2 / 3, {"gpu": 2, "builtin kernels": 1})
    assert shares(*CHAIN, node(DELEGATE, (0,), (3,))) == (1.0, {"gpu": 3})


def test_two_parts_leave_what_lies_between() -> None:
    parts = (node(DELEGATE, (0,), (1,)), node(DELEGATE, (2,), (3,)))
    placement = placement_of((*CHAIN, *parts), (3,), engine="gpu")
    assert placement is not None
    assert placement.elsewhere == {"RELU": 1}
    assert placement.time_accelerated is None
    assert placement.time_unmeasured_reason


def test_a_delegate_on_the_cpus_own_engine_is_none_of_it() -> None:
    assert shares(*CHAIN, node(DELEGATE, (0,), (2,)), engine="cpu") == (1 / 3, {"cpu": 2, "builtin kernels": 1})


def test_operators_nothing_needs_do_not_count() -> None:
    dead = node("TANH", (1,), (9,))
    assert shares(*CHAIN, dead) == (0.0, {"builtin kernels": 3})


def test_an_assignment_to_a_variable_counts_where_what_it_takes_is_computed() -> None:
    stateful = (node("VAR_HANDLE", (), (5,)), *CHAIN, node("ASSIGN_VARIABLE", (5, 2), ()))
    assert shares(*stateful) == (0.0, {"builtin kernels": 5})
    # The delegate took everything, the assignment too: nobody outside gives what it takes.
    assert shares(*stateful, node(DELEGATE, (0,), (3,))) == (1.0, {"gpu": 5})
    # The delegate gives tensor 2 out, so the assignment is still done by a built-in kernel.
    assert shares(*stateful, node(DELEGATE, (0,), (2, 3))) == (3 / 5, {"gpu": 3, "builtin kernels": 2})


def test_conversions_at_the_edge_are_no_fallback_and_those_inside_are() -> None:
    graph = (
        node("QUANTIZE", (10,), (0,)), node("DEQUANTIZE", (11,), (12,)), node("CONV", (0, 12), (1,)),
        node("DEQUANTIZE", (1,), (2,)), node("EXP", (2,), (3,)), node("QUANTIZE", (3,), (4,)),
        node("CONV", (4,), (5,)), node("DEQUANTIZE", (5,), (6,)),
    )  # fmt: skip
    assert shares(*graph, outputs=(6,)) == (0.0, {"builtin kernels": 5})
    whole = node(DELEGATE, (0, 12), (5,))
    assert shares(*graph, whole, outputs=(6,)) == (1.0, {"gpu": 5})
    placement = placement_of((*graph, node(DELEGATE, (0,), (1,)), node(DELEGATE, (4,), (5,))), (6,), engine="gpu")
    assert placement is not None
    assert placement.elsewhere == {"DEQUANTIZE": 1, "EXP": 1, "QUANTIZE": 1}


def test_a_graph_without_operators_has_no_placement() -> None:
    assert placement_of((), (0,), engine="gpu") is None


@given(st.integers(1, 12), st.data())
def test_any_run_of_a_chain_that_is_taken_is_counted(n: int, data: st.DataObject) -> None:
    chain = [node("OP", (k,), (k + 1,)) for k in range(n)]
    first = data.draw(st.integers(0, n - 1))
    last = data.draw(st.integers(first, n - 1))
    taken, _ = shares(*chain, node(DELEGATE, (first,), (last + 1,)), outputs=(n,))
    assert taken == (last - first + 1) / n
