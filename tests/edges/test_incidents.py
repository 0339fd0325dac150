"""Incidents: one row for what goes on in the same words, another when it ends or changes."""

from authz.core.incident import Incident, Kind
from authz.edges.incidents import Incidents

WHERE = "https://control.example"


class _Rows(list[tuple[str, str, str]]):
    def note(self, action: str, resource: str, reason: str) -> None:
        self.append((action, resource, reason))


def test_what_goes_on_in_the_same_words_has_one_row_and_is_counted_each_time() -> None:
    rows = _Rows()
    incidents = Incidents(rows)
    for _ in range(3):
        incidents.happened(Kind.SYNC_PULL_FAILED, WHERE, "it is away")
    incidents.happened(Kind.SYNC_PULL_FAILED, WHERE, "it answers HTML")
    assert [row[2] for row in rows] == ["it is away", "it answers HTML"]
    assert incidents.counts[Kind.SYNC_PULL_FAILED] == 4


def test_what_has_ended_has_a_row_and_may_happen_again() -> None:
    rows = _Rows()
    incidents = Incidents(rows)
    incidents.ended(Kind.SYNC_PULL_FAILED, WHERE)
    assert rows == []
    incidents.happened(Kind.SYNC_PULL_FAILED, WHERE, "it is away")
    incidents.ended(Kind.SYNC_PULL_FAILED, WHERE)
    assert not incidents.open
    incidents.happened(Kind.SYNC_PULL_FAILED, WHERE, "it is away")
    assert [row[0] for row in rows] == [
        "incident:sync_pull_failed",
        "incident:sync_pull_failed:over",
        "incident:sync_pull_failed",
    ]


def test_a_listener_that_fails_keeps_nobody_from_hearing() -> None:
    heard: list[Incident] = []
    incidents = Incidents(_Rows())

    def fail(_: Incident) -> None:
        raise ValueError

    incidents.listen(fail)
    incidents.listen(heard.append)
    incidents.happened(Kind.BUNDLE_REFUSED, "policies.tar.gz", "its signature is not right")
    incidents.ended(Kind.BUNDLE_REFUSED, "policies.tar.gz")
    assert [incident.is_over for incident in heard] == [False, True]
