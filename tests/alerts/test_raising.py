"""From a real audit trail to a real outbox, and out of it: grouping, rates, floods, restarts."""

import contextlib
import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from authz.core.alert import payload, trial
from authz.core.audit import AuditRow, change_row
from authz.core.chain_compiled import CompiledChain, compile_chain
from authz.core.chain_doc import document_of
from authz.core.ledger import Ledger
from authz.core.mode import Mode
from authz.core.timestamps import rfc3339
from authz.edges.alerts.delivering import LONGEST_ASKED_S, Deliverer, back_off
from authz.edges.alerts.outgoing import Refused
from authz.edges.alerts.raising import CATCH_UP_S, Raiser
from authz.stores import alert_outbox as box
from authz.stores.alert_outbox import Outbox, Unusable, listed
from authz.stores.alert_trail import Alike, Trail
from authz.stores.audit_log import AuditLog

NOW: Final = 1_700_000_000.0


def row(action: str = "write:x", **changes: Any) -> AuditRow:
    made = change_row(
        row_id=f"id-{next(_IDS)}", at=NOW, action=action, resource="r", reason="because",
        mode=Mode.ENFORCE, policy_version="v",
    )._replace(
        source="proxy", agent_id="a", decision="deny", enforced="deny", code="rule_denied",
        stage="policy", policy="p", rule="rules[0]", trust_tier="verified",
    )  # fmt: skip
    return made._replace(**changes)


_IDS: Final = itertools.count()


class World:
    """A trail, an outbox, what raises alerts and a clock."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "audit.db"
        self.now = NOW
        self.counts: Counter[str] = Counter()
        self.chain: Sequence[CompiledChain] = ()
        self.audit = AuditLog(self.path, monotonic=lambda: 0.0, ledger=Ledger())
        self.audit.open()
        self.outbox = Outbox(box.outbox_of(self.path))
        self.raiser = self.made()
        self.raiser.begin()

    def made(self, **changes: Any) -> Raiser:
        given: dict[str, Any] = {
            "asked": frozenset({"deny", "error", "rate_limit", "alert_failed"}),
            "destinations": ["webhook", "slack"],
            "rate": 10,
            "now": lambda: self.now,
            "new_id": lambda: f"alert_{next(_IDS)}",
            "counts": self.counts,
        }
        raiser = Raiser(Trail(self.path), self.outbox, **{**given, **changes})
        raiser.documents = lambda: self.chain
        return raiser

    def routes(self, *documents: dict[str, Any]) -> None:
        self.chain = tuple(
            compile_chain(document_of({"kind": "AlertRoute", "name": f"r{n}", **said}))
            for n, said in enumerate(documents)
        )

    def write(self, *rows: AuditRow) -> None:
        self.audit.write(rows)

    def turn(self) -> None:
        while self.raiser.turn():
            pass

    def alerts(self, destination: str = "webhook") -> list[dict[str, Any]]:
        """What waits there, the oldest first."""
        with self.outbox.changing() as connection:
            found = connection.execute(
                "SELECT a.body FROM deliveries d JOIN alerts a ON a.id = d.alert"
                " WHERE d.destination = ? ORDER BY a.rowid",
                (destination,),
            ).fetchall()
        return [json.loads(body) for (body,) in found]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.audit.close()
    made.outbox.close()


def test_what_is_alike_is_one_alert_and_then_a_count(world: World) -> None:
    world.write(*[row() for _ in range(3)], row("write:y"), row("read:z", decision="allow"))
    world.turn()
    assert [(a["entry"]["action"], a["count"]) for a in world.alerts()] == [
        ("write:x", 3), ("write:y", 1),
    ]  # fmt: skip
    world.write(*[row() for _ in range(5)])
    world.turn()
    assert len(world.alerts()) == 2
    world.now += 61
    world.turn()
    assert [(a["entry"]["action"], a["count"]) for a in world.alerts()][2:] == [("write:x", 5)]
    # The time without any ends it; the next one is told at once.
    world.now += 61
    world.turn()
    world.write(row(timestamp=rfc3339(world.now)))
    world.turn()
    assert len(world.alerts()) == 4


def test_counts_outlive_the_process(world: World) -> None:
    world.write(row())
    world.turn()
    world.write(row(), row())
    world.turn()
    world.raiser = world.made()
    world.now += 61
    world.turn()
    assert [a["count"] for a in world.alerts()] == [1, 2]


def test_what_was_recorded_while_nobody_looked_is_told(world: World) -> None:
    world.write(row())
    world.raiser = world.made()
    world.turn()
    assert len(world.alerts()) == 1
    world.turn()
    assert len(world.alerts()) == 1


def test_what_is_too_old_is_not_told(world: World) -> None:
    world.write(row("write:old", timestamp=rfc3339(NOW - CATCH_UP_S - 1)), row("write:new"))
    world.turn()
    assert [a["entry"]["action"] for a in world.alerts()] == ["write:new"]


def test_another_trail_at_the_path_is_read_from_its_beginning(world: World) -> None:
    world.write(*[row() for _ in range(5)])
    world.turn()
    world.audit.close()
    for path in world.path.parent.glob("audit.db*"):
        if not path.name.startswith("audit.db.alerts"):
            path.unlink()
    world.audit = AuditLog(world.path, monotonic=lambda: 0.0, ledger=Ledger())
    world.audit.open()
    world.write(*[row("write:other") for _ in range(7)])
    world.turn()
    assert [a["entry"]["action"] for a in world.alerts()] == ["write:x", "write:other"]


def test_a_flood_is_a_few_alerts(world: World) -> None:
    """Ten thousand denials of as many actions: bounded alerts, groups and texts."""
    for start in range(0, 10_000, 1000):
        world.write(*[row(f"write:{n}") for n in range(start, start + 1000)])
    world.turn()
    assert len(world.alerts()) == 10
    told = world.counts["raised"] + world.counts["dropped_rate"]
    assert told <= 1 + 2 * 200 + 1
    with world.outbox.changing() as connection:
        [groups] = connection.execute("SELECT count(*) FROM groups").fetchone()
        [times] = connection.execute("SELECT sum(times) FROM groups").fetchone()
    assert groups <= box.MAX_GROUPS
    # Nothing of it is out of every count: told of at once, or with the next alert.
    assert times > 4_000
    world.now += 61
    world.turn()
    crowd = [a for a in world.alerts() if "more of the kind deny" in a["title"]]
    assert len(crowd) == 1


def test_somebody_without_a_token_is_one_group_whatever_it_asks(world: World) -> None:
    unknown = {"agent_id": None, "stage": "auth", "code": "token_missing", "trust_tier": None}
    world.write(*[row(f"write:{n}", **unknown) for n in range(50)])
    world.turn()
    [alert] = world.alerts()
    assert alert["count"] == 50
    assert alert["title"] == "Denied: write:0 by somebody without a usable token"


def test_a_critical_alert_is_not_dropped_for_others(world: World) -> None:
    world.write(*[row(f"write:{n}") for n in range(20)])
    world.turn()
    world.write(row("admin:users"))
    world.turn()
    severities = [a["severity"] for a in world.alerts()]
    assert severities == ["warning"] * 10 + ["critical"]
    assert world.counts["dropped_rate"] == 10
    world.now += 61
    world.write(row("write:later", timestamp=rfc3339(world.now)))
    world.turn()
    assert "write:later" in [a["entry"]["action"] for a in world.alerts()]


def test_what_an_agent_tells_or_adds_hides_nothing(world: World) -> None:
    """A member `alert` of its own making, in a report or in its context, asks for no alert."""
    told = [
        row(f"note:{n}", source="client", decision="reported", enforced="reported", code="reported",
            stage=None, policy=None, rule=None, metadata='{"reported":{"x":{"alert":1}}}')
        for n in range(250)
    ]  # fmt: skip
    allowed = [
        row(f"read:{n}", decision="allow", enforced="allow", metadata='{"meta":{"alert":"1"}}')
        for n in range(250)
    ]
    world.write(*told, *allowed, row("delete:everything"))
    world.turn()
    assert [alert["entry"]["action"] for alert in world.alerts()] == ["delete:everything"]


def test_what_is_muted_does_not_stand_for_what_is_not(world: World) -> None:
    world.routes({"match": {"actions": "z:199"}, "mute": True})
    world.raiser = world.made(rate=1000)
    world.write(*[row(f"z:{n}") for n in range(300)])
    world.turn()
    told = [alert["count"] for alert in world.alerts() if "more of the kind" in alert["title"]]
    assert told == [100]


@pytest.mark.parametrize(
    "grave",
    [
        row("admin:delete"),
        row("x", trust_tier="unrestricted", agent_id="b"),
        row("y", metadata='{"alert":"critical"}'),
    ],
)
def test_many_cheap_ones_do_not_hide_a_critical_one(world: World, grave: AuditRow) -> None:
    # In one look, and where all groups are taken.
    for _ in range(6):
        world.write(*[row(f"cheap:{next(_IDS)}") for _ in range(250)])
        world.turn()
    world.write(*[row(f"cheap:{next(_IDS)}") for _ in range(250)], grave)
    world.turn()
    told = [alert for alert in world.alerts() if alert["severity"] == "critical"]
    assert [alert["entry"]["action"] for alert in told] == [grave.action]


def test_one_without_a_token_does_not_hide_that_it_asked_for_admin(world: World) -> None:
    unknown = {"agent_id": None, "trust_tier": None, "code": "token_missing", "stage": "auth"}
    world.write(row("read:x", **unknown), row("admin:delete", **unknown))
    world.turn()
    assert [alert["severity"] for alert in world.alerts()] == ["critical", "warning"]


def test_an_agent_does_not_use_up_the_rate_of_the_sidecar_itself(world: World) -> None:
    world.raiser = world.made(asked=frozenset({"deny", "mode"}))
    world.write(*[row(f"admin:{n}") for n in range(20)])
    world.turn()
    bypass = {"source": "control", "decision": "allow", "enforced": "allow", "agent_id": None}
    world.write(row("mode:bypass", **bypass))
    world.turn()
    assert [alert["trigger"] for alert in world.alerts()] == ["deny"] * 10 + ["mode"]


def test_many_errors_do_not_hide_what_happens_to_the_sidecar(world: World) -> None:
    world.raiser = world.made(asked=frozenset({"error", "mode"}))
    failed = {"decision": "error", "enforced": "error", "code": "overloaded"}
    bypass = {"source": "control", "decision": "allow", "enforced": "allow", "agent_id": None}
    world.write(*[row(f"x:{n}", **failed) for n in range(250)], row("mode:bypass", **bypass))
    world.turn()
    assert "mode" in {alert["trigger"] for alert in world.alerts()}


def test_lesser_ones_that_wait_leave_room_for_critical_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "MAX_WAITING", 8)
    world.write(*[row(f"cheap:{n}") for n in range(8)])
    world.turn()
    world.write(row("admin:delete"))
    world.turn()
    assert [alert["severity"] for alert in world.alerts()] == ["warning"] * 3 + ["critical"]


def test_a_clock_that_is_set_back_silences_nothing(world: World) -> None:
    world.write(*[row(f"write:{n}") for n in range(20)])
    world.turn()
    world.now -= 86_400
    world.write(row("write:0", timestamp=rfc3339(world.now)), row("write:then"))
    world.turn()
    assert [a["entry"]["action"] for a in world.alerts()][10:] == ["write:0", "write:then"]


def test_what_could_not_be_recorded_is_told(world: World) -> None:
    lost = row("read:x", decision="error", enforced="error", code="audit_unavailable", stage=None)
    world.raiser.unrecorded.append(Alike(1, lost._asdict()))
    world.turn()
    [alert] = world.alerts()
    assert (alert["trigger"], alert["severity"]) == ("error", "critical")
    assert not world.raiser.unrecorded


def test_routes_say_where_and_whether(world: World) -> None:
    world.routes(
        {"match": {"actions": "write:*", "triggers": "deny"}, "to": "slack"},
        {"match": {"severities": "critical"}, "to": "webhook"},
        {"match": {"agents": "noisy-*"}, "mute": True},
        {"match": {"triggers": "would_deny"}, "to": "slack", "groupFor": "1s"},
    )
    world.write(
        row("write:x"),
        row("admin:x"),
        row("write:y", agent_id="noisy-1"),
        row("read:x"),
        row("read:y", mode="audit", enforced="allow"),
    )
    world.turn()
    assert [a["entry"]["action"] for a in world.alerts("slack")] == ["write:x", "read:x", "read:y"]
    # What no route is for goes everywhere.
    assert [a["entry"]["action"] for a in world.alerts("webhook")] == ["admin:x", "read:x"]


def test_a_routes_own_rate_counts(world: World) -> None:
    world.routes({"match": {"actions": "write:*"}, "to": "slack", "maxPerMinute": 2})
    world.write(*[row(f"write:{n}") for n in range(5)], row("read:x"))
    world.turn()
    actions = [a["entry"]["action"] for a in world.alerts("slack")]
    assert actions == ["write:0", "write:1", "read:x"]


def test_that_alerts_fail_is_not_told_to_whom_they_fail(world: World) -> None:
    control = {"source": "control", "decision": "allow", "enforced": "allow", "code": "changed"}
    world.write(row("incident:alert_failed", resource="webhook", **control))
    world.turn()
    assert world.alerts("webhook") == []
    assert [a["trigger"] for a in world.alerts("slack")] == ["alert_failed"]


def test_a_full_outbox_takes_no_more_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "MAX_WAITING", 3)
    world.write(row("write:1"), row("write:2"))
    world.turn()
    assert (world.counts["raised"], world.counts["dropped_full"]) == (1, 1)


def test_an_outbox_that_is_damaged_is_set_aside(world: World) -> None:
    world.outbox.close()
    path = box.outbox_of(world.path)
    path.write_bytes(b"no database at all" * 1000)
    world.turn()
    assert path.with_name("audit.db.alerts.broken").is_file()
    world.write(row())
    world.turn()
    assert len(world.alerts()) == 1


def test_an_outbox_of_a_newer_program_is_left_as_it_is(world: World) -> None:
    world.outbox.close()
    path = box.outbox_of(world.path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(Unusable, match="its schema is version 99, a newer program's"):
        world.turn()
    with pytest.raises(Unusable):
        world.made().begin()
    assert not path.with_name("audit.db.alerts.broken").exists()


def test_an_outbox_that_cannot_be_written_loses_nothing(world: World) -> None:
    world.outbox.close()
    path = box.outbox_of(world.path)
    path.unlink()
    path.mkdir()
    world.write(row())
    with pytest.raises(Unusable, match="outbox cannot be used"):
        world.turn()
    path.rmdir()


class Fake:
    """A destination that answers as it is told."""

    name = "webhook"

    def __init__(self, *answers: Refused | None) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    def deliver(self, body: bytes) -> str:
        self.bodies.append(body)
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        return "taken"


def deliverer(world: World, fake: Fake) -> tuple[Deliverer, list[tuple[str, str | None]]]:
    told: list[tuple[str, str | None]] = []
    made = Deliverer(
        fake, world.outbox, counts=world.counts, tell=lambda *said: told.append(said),
        now=lambda: world.now, spread=lambda: 0.5,
    )  # fmt: skip
    return made, told


def test_what_fails_is_tried_again_later_with_the_same_bytes(world: World) -> None:
    world.write(row())
    world.turn()
    fake = Fake(*[Refused("it answered 500")] * 3)
    sends, told = deliverer(world, fake)
    for wait in (2, 4, 8):
        assert sends.turn() == pytest.approx(back_off(sends._failures, 0.5))
        assert sends.turn() > 0  # not due yet
        world.now += wait
    assert told == [("webhook", "alerts are not delivered: it answered 500")]
    assert sends.turn() == 0
    assert len(fake.bodies) == 4
    assert len(set(fake.bodies)) == 1
    assert told[1:] == [("webhook", None)]
    entries, _ = listed(box.outbox_of(world.path), 10)
    assert {one.destination: (one.state, one.attempts) for one in entries} == {
        "webhook": ("sent", 4), "slack": ("waiting", 0),
    }  # fmt: skip


def test_what_will_never_be_taken_is_given_up(world: World) -> None:
    world.write(row())
    world.turn()
    sends, told = deliverer(world, Fake(Refused("it answered 400", is_final=True)))
    assert sends.turn() == 0
    assert world.counts["dead"] == 1
    assert told == [("webhook", "alerts are not delivered: it answered 400")]
    assert sends.turn() > 0


def test_a_receiver_says_when(world: World) -> None:
    world.write(row())
    world.turn()
    sends, _ = deliverer(world, Fake(Refused("it answered 429", after_s=600)))
    sends.turn()
    world.now += 599
    assert sends.turn() > 0
    world.now += 1
    assert sends.turn() == 0


def test_a_receiver_that_says_when_is_left_alone_until_then(world: World) -> None:
    """Slack means the address, not the one message."""
    world.write(row("write:1"), row("write:2"))
    world.turn()
    answers = [Refused("it answered 429", after_s=after_s) for after_s in (600, 1e9)]
    sends, _ = deliverer(world, Fake(*answers))
    # So long `run` waits, whatever else is due there.
    assert sends.turn() == 600
    assert sends.turn() == LONGEST_ASKED_S


def test_what_is_a_day_old_is_given_up(world: World) -> None:
    world.write(row())
    world.turn()
    world.now += box.MAX_AGE_S + 1
    sends, _ = deliverer(world, Fake(Refused("it answered 500")))
    sends.turn()
    assert world.counts["dead"] == 1
    # And what nobody sends any more, since its destination is gone.
    world.now += box.LONGEST_WAIT_S
    assert world.outbox.clean(world.now) == 1


def test_that_an_alert_about_alerts_fails_is_no_incident(world: World) -> None:
    about = trial("alert_x", NOW, "warning", "", "")._replace(trigger="alert_failed")
    with world.outbox.changing() as connection:
        made = {"id": about.id, "made": NOW, "severity": "warning", "rate": "",
                "trigger": about.trigger, "body": payload(about)}  # fmt: skip
        assert box.put_alert(connection, made, ["webhook"])
    sends, told = deliverer(world, Fake(Refused("no", is_final=True)))
    sends.turn()
    assert told == []


def test_what_is_done_is_not_kept_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "KEPT_DONE", 2)
    world.raiser = world.made(destinations=["webhook"])
    world.write(*[row(f"write:{n}") for n in range(5)])
    world.turn()
    sends, _ = deliverer(world, Fake())
    while sends.turn() == 0:
        pass
    world.now += 61
    world.outbox.clean(world.now)
    assert len(listed(box.outbox_of(world.path), 10)[0]) == 2


def test_critical_alerts_beyond_the_rate_are_told_when_there_is_room(world: World) -> None:
    world.write(*[row(f"admin:{n}") for n in range(10)])
    world.turn()
    world.write(row("admin:the-real-one"))
    world.turn()
    assert len(world.alerts()) == 10
    world.now += 61
    world.turn()
    assert world.alerts()[-1]["entry"]["action"] == "admin:the-real-one"
    assert world.counts["dropped_rate"] == 0


def test_what_waits_for_the_rate_is_counted_once(world: World) -> None:
    world.routes({"to": ["webhook"], "groupFor": "10s"})
    world.write(*[row(f"admin:{n}") for n in range(10)], row("admin:the-real-one"))
    world.turn()
    assert world.counts["grouped"] == 1
    for _ in range(6):
        world.now += 11
        world.turn()
    assert world.alerts()[-1]["entry"]["action"] == "admin:the-real-one"
    assert (world.counts["raised"], world.counts["grouped"]) == (11, 1)
