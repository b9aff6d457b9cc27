"""Check the sizes this project holds itself to: no file over 500 lines, no function over 80."""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOMS = ("manifests", "agent", "controller", "hil", "tests", "bench", "tools")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80


def function_sizes(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """Yield (name, first line, number of lines) of each function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1


def main() -> int:
    """Print what is too long and the distribution; return the number of offences."""
    offences = 0
    sizes: list[int] = []
    for path in sorted(file for room in ROOMS for file in Path(room).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > MAX_FILE_LINES:
            offences += 1
            sys.stderr.write(f"{path}: {lines} lines; allowed: {MAX_FILE_LINES}\n")
        for name, line, size in function_sizes(ast.parse(text)):
            if path.parts[0] != "tests":
                sizes.append(size)
            if size > MAX_FUNCTION_LINES:
                offences += 1
                sys.stderr.write(f"{path}:{line}: {name} has {size} lines; allowed: {MAX_FUNCTION_LINES}\n")
    if len(sizes) > 1:
        p90 = statistics.quantiles(sizes, n=10)[-1]
        sys.stdout.write(f"functions: n {len(sizes)}, median {statistics.median(sizes):g}, p90 {p90:g}, ")
        sys.stdout.write(f"longest {max(sizes)} lines\n")
    return offences


if __name__ == "__main__":
    sys.exit(min(main(), 1))
