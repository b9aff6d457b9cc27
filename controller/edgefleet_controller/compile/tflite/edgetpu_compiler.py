"""The vendor's Edge TPU compiler, where the builder has it. Never run by us: no public registry holds it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from edgefleet_contract.artifact import EvidenceLevel
from edgefleet_controller.compile.fault import CompileFaultError

PROGRAM = "edgetpu_compiler"
TIMEOUT_S = 600.0
ABSENT = f"{PROGRAM} is not on the builder's PATH: the int8 file is not compiled, and which operators map is by table"


def compile_file(path: Path) -> tuple[str, EvidenceLevel | None]:
    """Compile an int8 TFLite file in place, where the compiler is there.

    Returns:
        What to tell of it, and how far the file was proven by it: `table-only` without the compiler.

    Raises:
        CompileFaultError: the compiler refuses the file or does not end.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return ABSENT, EvidenceLevel.TABLE_ONLY
    with TemporaryDirectory(prefix="edgetpu-") as folder:
        try:
            done = subprocess.run(
                (program, "-s", "-o", folder, str(path)),
                check=False,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _fault(f"{PROGRAM}: {error}") from error
        compiled = Path(folder, f"{path.stem}_edgetpu.tflite")
        if done.returncode or not compiled.is_file():
            raise _fault(
                f"{PROGRAM} ended with {done.returncode}: {' '.join((done.stdout + done.stderr).split())[-400:]}"
            )
        path.write_bytes(compiled.read_bytes())
    return "compiled", EvidenceLevel.BUILT_NOT_EXECUTED


def _fault(message: str) -> CompileFaultError:
    return CompileFaultError("variant", message, family="unsupported")
