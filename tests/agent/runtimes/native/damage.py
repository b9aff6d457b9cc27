"""Loads and runs damaged copies of a TFLite file, each in a forked child, and prints how they ended, as JSON.

Run as `python damage.py MODEL N`: a program of its own, so that children fork from a process with one thread.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from edgefleet_agent.runtimes.litert import RUNTIME
from edgefleet_agent.runtimes.litert_library import find_library
from edgefleet_contract.errors import DeviceError
from edgefleet_contract.variant import parse_variant


def main(model: Path, n: int) -> None:
    find_library()  # once, before the children: importing takes longer than all they do
    sound = model.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        ends = Counter(_end_of(sound, seed, Path(folder) / "m.tflite") for seed in range(n))
    print(json.dumps(ends))  # noqa: T201 - a program's answer


def _end_of(sound: bytes, seed: int, path: Path) -> str:
    rng = random.Random(seed)
    data = bytearray(sound)
    for _ in range(rng.choice((1, 4, 16))):
        # Structure lies in the first and last thousands of bytes; weights between them.
        place = rng.choice((rng.randrange(4000), len(data) - 1 - rng.randrange(14000)))
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(writer, _try(path, rng.choice(("cpu", "xnnpack"))).encode()[:200])
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 200).decode()
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    return said or f"died of signal {status & 127}"


def _try(path: Path, engine: str) -> str:
    try:
        session = RUNTIME.load(path, variant=parse_variant(f"tflite/{engine}/fp32"), threads=1, spinning=False)
        sizes = {spec.name: [size if isinstance(size, int) else 1 for size in spec.shape] for spec in session.inputs}
        if sum(np.prod(size) for size in sizes.values()) > 1e6:
            return "refused: too large"
        session.run({spec.name: np.zeros(sizes[spec.name], spec.dtype) for spec in session.inputs})
        session.placement()
    except DeviceError as error:
        return type(error).__name__
    except MemoryError:
        return "MemoryError"
    except Exception as error:  # noqa: BLE001 - what is looked for
        return f"escaped: {type(error).__name__} {error}"
    return "ran"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
