from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgefleet_controller.stack.restart import RestartBudget, RestartRule


def test_pauses_double_up_to_the_longest() -> None:
    budget = RestartBudget(RestartRule())
    assert [budget.next_pause_s(0.0) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


def test_the_ninth_death_within_a_minute_is_the_last() -> None:
    budget = RestartBudget(RestartRule())
    for second in range(8):
        assert budget.next_pause_s(float(second)) is not None
    assert budget.next_pause_s(9.0) is None


def test_deaths_of_long_ago_are_forgotten() -> None:
    budget = RestartBudget(RestartRule())
    for second in range(8):
        budget.next_pause_s(float(second))
    assert budget.next_pause_s(100.0) == 0.1


@given(st.lists(st.floats(0, 1000), max_size=50).map(sorted))
def test_a_child_is_given_up_exactly_when_too_many_deaths_lie_in_one_window(deaths_s: list[float]) -> None:
    rule = RestartRule(max_n=3, window_s=10.0)
    budget = RestartBudget(rule)
    for index, death_s in enumerate(deaths_s):
        recent_n = sum(1 for earlier_s in deaths_s[: index + 1] if death_s - earlier_s <= rule.window_s)
        assert (budget.next_pause_s(death_s) is None) == (recent_n > rule.max_n)
