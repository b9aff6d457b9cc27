"""Native libraries say why on standard error, past Python: this reads it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

MAX_CHARS = 1500
_BYTES_PER_CHAR = 4
"""The most UTF-8 needs."""


@contextmanager
def native_stderr(said: list[str]) -> Iterator[None]:
    """Collect what is written to descriptor 2 meanwhile, at most its last 1,500 characters, into `said`.

    For a step that failed without a reason and is repeated to hear one: what is said in a crash is lost.
    """
    with contextlib.ExitStack() as stack:
        try:
            sink = stack.enter_context(tempfile.TemporaryFile())
        except OSError:  # a disk that is full or read-only: then its words are not to be had
            said.append("")
            yield
            return
        kept = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written_bytes = sink.seek(0, os.SEEK_END)
            sink.seek(max(0, written_bytes - _BYTES_PER_CHAR * MAX_CHARS))
            said.append(sink.read().decode("utf-8", "replace")[-MAX_CHARS:].strip())
