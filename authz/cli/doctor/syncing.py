"""Whether policies come in and audit rows go out, where there is a network now and then."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from authz.cli.doctor.facts import Facts
from authz.cli.doctor.finding import Finding, failed, passed, warned
from authz.core.timestamps import seconds_of

#: Seconds after which a synchronisation that went well is an old one: a policy that was withdrawn
#: yesterday should be gone today.
OLD_S: Final = 86_400
_NAMES: Final = {"lastPull": "policies were fetched", "lastPush": "audit rows were sent"}


def disconnected(facts: Facts) -> Iterator[Finding]:
    """What `/health` says of synchronisation."""
    said = facts.said.get("sync")
    yield passed("decisions need no network: policies, identity and the audit trail are local")
    if not isinstance(said, dict):
        yield warned(
            "this sidecar does not synchronise policies or audit data itself (SYNC_URL is not set)",
            "set SYNC_URL and SYNC_TOKEN, or have a CronJob run `authz sync pull` and `authz sync"
            " push` (docs/sync.md)",
        )
        return
    if said.get("problem"):
        yield failed(
            str(said["problem"]),
            "the log's line about SYNC_URL says what to do; what is in force stays meanwhile",
        )
    for name, words in _NAMES.items():
        if name in said:
            yield _age(words, said[name])
    yield from _waiting(said)


def _age(words: str, at: object) -> Finding:
    cure = "look at the log's lines about SYNC_URL"
    if not isinstance(at, str):
        return warned(f"never yet: {words}", cure)
    try:
        ago_s = time.time() - seconds_of(at)
    except ValueError:
        return warned(f"nothing is told of when {words}", cure)
    if ago_s > OLD_S:
        return warned(f"{words} {ago_s / 86_400:.0f} days ago", cure)
    return passed(f"{words} {max(ago_s, 0):.0f} s ago")


def _waiting(said: Mapping[str, Any]) -> Iterator[Finding]:
    if said.get("warning"):
        yield warned(
            str(said["warning"]),
            "raise AUDIT_RETENTION_DAYS until the control plane is back, and see to it that the"
            " volume has room",
        )
    pending = said.get("pending")
    if isinstance(pending, int) and pending:
        yield passed(f"{pending} rows wait to be sent")
