"""`/admin/log-level`: changed at once, recorded, and also while nothing can be recorded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from authz import logs
from authz.edges.http import log_level
from authz.stores.audit_log import AuditLog
from tests.edges.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def test_it_is_shown_and_changed_with_a_row(world: World) -> None:
    first = world.admin("GET", "/log-level").json()
    assert (first["level"], first["atStart"]) == ("info", "info")
    world.now += 5
    changed = world.admin("PUT", "/log-level", json={"level": "debug"}).json()
    assert changed["level"] == "debug"
    assert changed["since"] > first["since"]
    assert "until a restart" in changed["note"]
    assert "Envoy was not told" in changed["note"]
    assert world.levels == ["debug"]
    [(action, before, reason)] = world.changes()
    assert (action, before) == ("log-level:debug", "info")
    assert "from info to debug by" in reason


def test_the_same_level_is_no_change(world: World) -> None:
    world.admin("PUT", "/log-level", json={"level": "info"})
    assert world.changes() == []
    assert world.levels == []


@pytest.mark.parametrize("level", ["trace", "DEBUG", "", "critical"])
def test_another_word_is_refused(world: World, level: str) -> None:
    answer = world.admin("PUT", "/log-level", json={"level": level})
    assert answer.status_code == 400
    assert answer.json()["message"] == "level: write one of debug, info, warning, error"
    assert world.levels == []


def test_only_an_administrator_may(world: World) -> None:
    for method in ("GET", "PUT"):
        assert world.ask(method, "/admin/log-level").status_code == 401
        agents = world.agent("anna")
        assert world.ask(method, "/admin/log-level", headers=agents).status_code == 401


def test_it_can_be_changed_while_the_store_is_broken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.audit.close()
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "_connect", _fail)
        answer = world.admin("PUT", "/log-level", json={"level": "debug"})
        assert answer.status_code == 200
    world.audit.open()
    world.versions.flush()
    assert [action for action, _, _ in world.changes()] == ["log-level:debug"]


def _fail(_: AuditLog) -> None:
    raise OSError(28, "No space left on device")


def test_the_levels_are_those_of_the_log() -> None:
    assert log_level.LEVELS == logs.LEVELS
