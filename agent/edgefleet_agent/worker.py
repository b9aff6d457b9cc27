"""The worker process: does one job with a model, answers, and ends.

`python -m edgefleet_agent.worker` under `edgefleet_contract.child.run_child`. It is the only process that loads a
model runtime, so whatever a model or a driver does to its process harms nothing else.
"""

from __future__ import annotations

import os
import sys
import traceback

from pydantic import TypeAdapter

from edgefleet_contract.base import clip_reason
from edgefleet_contract.child import serve_child
from edgefleet_contract.errors import DeviceError, UserInputError, WireError
from edgefleet_contract.job import Answer, ErrorAnswer, Job
from edgefleet_contract.wire import decode_as, encode

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
_JOB: TypeAdapter[Job] = TypeAdapter(Job)


def handle(request: bytes) -> bytes:
    """Return the answer to a job, both as JSON.

    Wrong input and things this device cannot do are answers of family `input` and `device`; a bug of ours is one of
    family `internal`, with its traceback on standard error.
    """
    try:
        return encode(_answer(decode_as(_JOB, request)))
    except WireError as error:
        # Jobs come from our own processes: one that does not follow the contract is a bug, not the user's input.
        traceback.print_exc(file=sys.stderr)
        return encode(ErrorAnswer(family="internal", reason=clip_reason(str(error))))


def _answer(job: Job) -> Answer:
    from edgefleet_agent.runtimes.base import LoadFailedError, TensorRefusedError
    from edgefleet_agent.tasks import do_job

    try:
        return do_job(job)
    except (UserInputError, LoadFailedError, TensorRefusedError) as error:
        return ErrorAnswer(family="input", reason=clip_reason(str(error)))
    except DeviceError as error:
        return ErrorAnswer(family="device", reason=clip_reason(str(error)))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the process boundary: a bug becomes an answer, and its trace is kept
        traceback.print_exc(file=sys.stderr)
        return ErrorAnswer(family="internal", reason=clip_reason(f"{type(error).__name__}: {error}"))


def main() -> None:
    """Serve the one request of this process."""
    # Numerical libraries read these when they are first imported; more threads would disturb what is measured.
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    serve_child(handle)


if __name__ == "__main__":
    main()
