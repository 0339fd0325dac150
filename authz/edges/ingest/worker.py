"""The process that takes one uploaded trail in: `python -m authz.edges.ingest.worker`.

- What SQLite makes of a hostile file it makes here: this process may be killed at any moment, and
  then nothing was stored. Memory, processor time and open files are limited by the system.
- Everybody else goes first, and where a container's processor time is limited it leaves most of it.
- It has no secrets, not even in its environment, and ends when the service does.
"""

import contextlib
import hashlib
import json
import os
import resource
import signal
import sqlite3
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Final

from authz.edges.background import step_back

if __name__ == "__main__":
    # Before the imports, which are a good part of the work.
    # Not so far that a busy machine never comes to it: whoever sends a trail waits for it.
    step_back(10)

import peewee

from authz.edges.cpu_quota import cpus_allowed
from authz.edges.ingest.job import Job, Outcome
from authz.stores.audit_key import KeyUnusable, public_key
from authz.stores.audit_schema import Unusable
from authz.stores.ingest.hostile import Refused, TooLong
from authz.stores.ingest.origins import Conflict
from authz.stores.ingest.taking import take
from authz.stores.pace import Pace

#: Bytes of address space, most of which is libraries: some 60 MiB are used.
MAX_MEMORY: Final = 512 * 1024 * 1024
#: Files that may be open at once: the upload, the trail with its WAL, and Python's.
MAX_FILES: Final = 64
#: The share of a container's processor time that it takes at most, and seconds of work between two
#: rests. More than who only reads has: whoever sends waits, and there is one at a time.
SHARE: Final = 0.4
WORK_S: Final = 0.001


def main() -> None:
    """Do the one job that comes on standard input."""
    # Ctrl-C is for the service, which then lets go of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = Job(*json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    _limit(job.within_s)
    sys.stdout.buffer.write(do(job).encoded())
    sys.stdout.buffer.flush()


def _end_with_the_service() -> None:
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    os._exit(1)


def _limit(seconds: float) -> None:
    for what, limit in (
        (resource.RLIMIT_AS, MAX_MEMORY),
        (resource.RLIMIT_NOFILE, MAX_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, int(seconds) + 1),
    ):
        # A limit that is lower already stays.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (limit, limit))


def do(job: Job) -> Outcome:
    """Take a trail in; never raises."""
    deadline = time.monotonic() + job.within_s
    digest = ""
    try:
        with Path(job.upload).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        outcome = _take(job, deadline)
    except Conflict as error:
        outcome = Outcome("conflict", str(error), last=error.last)
    except Refused as error:
        outcome = Outcome("invalid", str(error))
    except TooLong as error:
        outcome = Outcome("unavailable", str(error))
    except KeyUnusable as error:
        outcome = Outcome("unavailable", f"AUDIT_INGEST_KEYS: {error}")
    except MemoryError:
        outcome = Outcome("invalid", "it takes more memory to read than there is")
    except (Unusable, peewee.PeeweeException, sqlite3.Error, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        outcome = Outcome("unavailable", f"the ingested trail cannot be written: {why}")
    except Exception as error:  # noqa: BLE001 - whoever sent it is told, and the log has the rest
        sys.stderr.write(traceback.format_exc())
        outcome = Outcome("unavailable", f"taking it in failed: {type(error).__name__}")
    return outcome._replace(sha256=digest)


def _take(job: Job, deadline: float) -> Outcome:
    share = cpus_allowed() * SHARE
    pace = Pace(WORK_S, WORK_S / share - WORK_S) if share < 1 else None
    pinned = {key.key_id: key.fits for key in map(public_key, map(Path, job.keys))}
    taken = take(
        Path(job.upload),
        Path(job.target),
        pinned,
        now=time.time(),
        deadline=deadline,
        breathe=pace.rest if pace else lambda: None,
    )
    return Outcome(
        "",
        "",
        taken.ingested,
        taken.duplicates,
        taken.origin,
        taken.last,
        notes=tuple(taken.notes),
    )


if __name__ == "__main__":
    main()
