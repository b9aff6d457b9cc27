"""Several problems as one error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgefleet_contract.errors import ManifestError

MAX_PROBLEMS = 20
"""More than a screen of problems helps nobody; the rest shows up after these are mended."""


class ManifestProblemsError(ManifestError):
    """The manifest has several problems.

    Args:
        problems: each with its place; the first `MAX_PROBLEMS` in the order they stand in the file.
        left_out_n: how many more there are.
    """

    def __init__(self, problems: Sequence[ManifestError], left_out_n: int = 0) -> None:
        super().__init__(f"{len(problems) + left_out_n} problems", location=problems[0].location)
        self.problems = tuple(problems)
        self.left_out_n = left_out_n

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if self.left_out_n:
            lines.append(f"and {self.left_out_n} more")
        return "\n".join(lines)


def raise_problems(problems: Iterable[ManifestError]) -> None:
    """Raise what was found, in the order of the file; a single problem as itself; nothing when there is none.

    Raises:
        ManifestError: there is a problem; `ManifestProblemsError` for several.
    """
    found = sorted(problems, key=_place)
    if len(found) == 1:
        raise found[0]
    if found:
        raise ManifestProblemsError(found[:MAX_PROBLEMS], max(0, len(found) - MAX_PROBLEMS))


def _place(problem: ManifestError) -> tuple[int, int]:
    return (problem.location.line, problem.location.column) if problem.location else (0, 0)
