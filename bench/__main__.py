"""Run all benchmarks, or those named: `python -m bench agent_memory`."""

from __future__ import annotations

import importlib
import sys

ALL = ("agent_memory",)


def main() -> int:
    """Run what was asked for."""
    names = sys.argv[1:] or list(ALL)
    if unknown := [name for name in names if name not in ALL]:
        print(f"no such benchmark: {', '.join(unknown)}; there are: {', '.join(ALL)}", file=sys.stderr)
        return 2
    for name in names:
        print(f"== {name}", flush=True)
        importlib.import_module(f"bench.{name}").main()
    return 0


sys.exit(main())
