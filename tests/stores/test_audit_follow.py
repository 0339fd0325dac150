"""Who follows the trail sees every entry once, whoever writes it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from authz.core.audit import AuditRow
from authz.stores import audit_query
from authz.stores.audit_follow import follow
from authz.stores.audit_query import filters_of
from tests.stores.trail import execute, row
from tests.stores.trails import reading, seqs, varied, write


def told(following: Iterator[list[dict[str, Any]] | None]) -> list[int]:
    """The numbers of what is told next."""
    found = next(following)
    assert found is not None
    return seqs(found)


def test_the_newest_come_first_and_then_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, varied(10))
    with reading(path) as connection:
        following = follow(connection, path, audit_query.ANY, count=3)
        assert told(following) == [8, 9, 10]
        assert next(following) is None
        write(path, varied(2, seed=1))
        assert told(following) == [11, 12]
        assert next(following) is None


def test_nothing_is_asked_of_before(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, varied(10))
    with reading(path) as connection:
        following = follow(connection, path, audit_query.ANY, count=0)
        assert next(following) is None
        write(path, varied(1, seed=1))
        assert told(following) == [11]


def test_it_goes_on_after_a_row(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, varied(10))
    with reading(path) as connection:
        following = follow(connection, path, audit_query.ANY, count=3, after=5)
        assert told(following) == [6, 7, 8, 9, 10]
        # A row that this trail does not have yet is of another one.
        following = follow(connection, path, audit_query.ANY, count=2, after=11)
        assert told(following) == [9, 10]


def test_only_what_fits_is_told(tmp_path: Path) -> None:
    def of(agent: str) -> AuditRow:
        return row()._replace(agent_id=agent)

    path = tmp_path / "audit.db"
    write(path, [of("a"), of("b")])
    with reading(path) as connection:
        following = follow(connection, path, filters_of({"agentId": "a"}), count=5)
        assert told(following) == [1]
        assert next(following) is None
        write(path, [of("b"), of("a")])
        assert told(following) == [4]


def test_it_begins_with_a_trail_that_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, [])
    with reading(path) as connection:
        following = follow(connection, path, audit_query.ANY, count=5)
        assert next(following) == []
        assert next(following) is None
        write(path, varied(1))
        assert told(following) == [1]


def test_it_ends_with_the_file(tmp_path: Path) -> None:
    path, other = tmp_path / "audit.db", tmp_path / "other.db"
    write(path, varied(2))
    write(other, varied(9))
    with reading(path) as connection:
        following = follow(connection, path, audit_query.ANY, count=0)
        assert next(following) is None
        other.replace(path)
        assert list(following) == []


def test_it_ends_where_the_end_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, varied(5))
    with reading(path) as connection:
        following = follow(connection, path, audit_query.ANY, count=0)
        assert next(following) is None
        execute(path, "DELETE FROM audit WHERE seq > 3")
        assert list(following) == []
