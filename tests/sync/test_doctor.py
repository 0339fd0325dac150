"""`authz doctor` and synchronisation: what `/health` says, in the words of the checklist."""

import time
from typing import Any

import pytest

from authz.cli.doctor.facts import Answer, Facts
from authz.cli.doctor.finding import Finding, Status, worst
from authz.cli.doctor.syncing import disconnected
from authz.core.timestamps import rfc3339


def _findings(sync: object) -> list[Finding]:
    body: dict[str, Any] = {"mode": "enforce"} | ({} if sync is None else {"sync": sync})
    return list(disconnected(Facts("here", False, Answer(200, body), None, None, None, None)))


NOW = rfc3339(time.time())
OLD = rfc3339(time.time() - 3 * 86_400)


@pytest.mark.parametrize(
    ("sync", "status", "said"),
    [
        (None, Status.WARN, "SYNC_URL is not set"),
        ({"lastPull": NOW, "lastPush": NOW, "pending": 0}, Status.PASS, "policies were fetched"),
        ({"lastPull": NOW, "pending": 7}, Status.PASS, "7 rows wait to be sent"),
        ({"lastPull": None}, Status.WARN, "never yet: policies were fetched"),
        ({"lastPush": OLD}, Status.WARN, "audit rows were sent 3 days ago"),
        ({"lastPush": "nonsense"}, Status.WARN, "nothing is told"),
        ({"problem": "pull: the control plane is busy"}, Status.FAIL, "is busy"),
        ({"lastPush": NOW, "warning": "rows will be removed"}, Status.WARN, "rows will be removed"),
    ],
)
def test_disconnected(sync: object, status: Status, said: str) -> None:
    found = _findings(sync)
    assert worst(found) is status
    assert any(said in one.found for one in found)
