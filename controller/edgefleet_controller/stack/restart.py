"""When to start a dead child again. Pure: times come in as values."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class RestartRule:
    """How patient a supervisor is with a child that dies.

    Attributes:
        first_s: pause before the first restart; doubled for each further one.
        longest_s: the pause grows no further.
        max_n: more restarts than this within `window_s` mean that restarting does not help.
        window_s: see `max_n`; a child that lived this long starts again with `first_s`.
    """

    first_s: float = 0.1
    longest_s: float = 2.0
    max_n: int = 8
    window_s: float = 60.0


class RestartBudget:
    """Counts one child's deaths against a rule."""

    def __init__(self, rule: RestartRule) -> None:
        self._rule = rule
        self._deaths_s: deque[float] = deque()

    def next_pause_s(self, now_s: float) -> float | None:
        """Note a death at `now_s` and return the pause before the restart; None when it is time to give up."""
        while self._deaths_s and now_s - self._deaths_s[0] > self._rule.window_s:
            self._deaths_s.popleft()
        self._deaths_s.append(now_s)
        recent_n = len(self._deaths_s)
        if recent_n > self._rule.max_n:
            return None
        return min(self._rule.longest_s, self._rule.first_s * 2.0 ** (recent_n - 1))
