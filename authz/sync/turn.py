"""A turn of either direction, as a line of JSON asks for it and another one tells how it went."""

import contextlib
import json
import logging
from typing import Any, Final

from authz import logs
from authz.core.text import visible
from authz.sync.errors import Cause, SyncFailed
from authz.sync.plan import Plan

log = logging.getLogger(__name__)

#: Bytes of a line that tells.
MAX_LINE: Final = 64 * 1024
#: Names of files that are told of.
_NAMED: Final = 20


def asked(direction: str, plan: Plan) -> bytes:
    """The line that asks, without its end."""
    return json.dumps({"direction": direction, "plan": plan.to_json()}).encode()


def answered(line: bytes) -> bytes:
    """Do what a line asks for; the line that tells, without its end.

    It raises nothing: what goes wrong is told.
    """
    try:
        said = json.loads(line)
        plan = Plan.from_json(json.dumps(said["plan"]))
        logs.configure("warning", plan.log_format, "sync")
        try:
            told = run(said["direction"], plan)
        except SyncFailed as failure:
            told = {
                "failed": {
                    "cause": str(failure.cause),
                    "sentence": failure.sentence,
                    "retryAfter": failure.retry_after_s,
                },
                **(left(plan) if said["direction"] == "push" else {}),
            }
    except Exception as error:
        log.exception("a turn failed")
        sentence = f"sync: {visible(type(error).__name__)}; the log has the rest, please report it"
        told = {"failed": {"cause": str(Cause.INTERNAL), "sentence": sentence, "retryAfter": 0}}
    return json.dumps(told).encode()


def run(direction: str, plan: Plan) -> dict[str, Any]:
    """One turn.

    Raises:
        SyncFailed: it has failed.
    """
    if direction == "pull":
        from authz.sync.pull import pull  # noqa: PLC0415 - each needs what the other does not

        done = pull(plan).to_json()
        return {**done, "written": len(done["written"]), "removed": len(done["removed"])}
    from authz.sync.push import push  # noqa: PLC0415

    sent = push(plan).to_json()
    return {**sent, "retention": left(plan).get("retention", "")}


def left(plan: Plan) -> dict[str, Any]:
    """How many rows wait, and what is to be said where retention may have them first.

    Told of a push that has failed, too: it is then that rows grow old. Empty where the trail
    cannot be read.
    """
    from authz.sync.push import waiting  # noqa: PLC0415

    with contextlib.suppress(SyncFailed):
        found = waiting(plan)
        return {"pending": found["pending"], "retention": found.get("warning", "")}
    return {}
