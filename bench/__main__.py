"""Run all benchmarks, or those named: `python -m bench agent_memory`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_SHARED = frozenset({"__init__", "__main__", "conditions"})


def available() -> list[str]:
    """Return every benchmark: a module of this folder with a `main`."""
    modules = (path for path in Path(__file__).parent.glob("*.py") if path.stem not in _SHARED)
    return sorted(path.stem for path in modules if "\ndef main() -> None:" in path.read_text(encoding="utf-8"))


def main() -> int:
    """Run what was asked for."""
    known = available()
    names = sys.argv[1:] or known
    if unknown := [name for name in names if name not in known]:
        print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names:
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.{name}").main()
    return 0


sys.exit(main())
