"""Which policies were in force when: read back as it was recorded, or not at all."""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest

from authz.core.policy_doc import PolicyDoc
from authz.core.policy_file import parse_file
from authz.core.snapshot import Snapshot
from authz.stores import version_log
from authz.stores.audit_log import AuditLog
from authz.stores.version_log import Activation, Corrupt, Recorded, VersionReader, Why, unpack
from tests.builders import policy, snapshot

A, B, C = (snapshot(policy(name, [("allow", f"read:{name}")])) for name in "abc")
NOTHING = Snapshot(())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    audit = AuditLog(path, monotonic=lambda: 0.0)
    assert audit.open()
    yield audit
    audit.close()


def _policies(reader: VersionReader, version: str) -> Snapshot | None:
    packed = reader.documents(version)
    return None if packed is None else unpack(packed, version)


def _at(hour: int, minute: int = 0) -> str:
    return f"2026-11-17T{hour:02}:{minute:02}:00.000000Z"


def _record(
    log: AuditLog,
    policies: Snapshot,
    at: str,
    *,
    why: Why = "reload",
    pinned: bool = False,
    keep: list[Snapshot] | None = None,
) -> None:
    kept = [kept.version for kept in (keep if keep is not None else [A, B, C, policies])]
    activation = Activation(policies.version, at, why, pinned)
    packed = version_log.pack(policies)
    log.write_with([], lambda db: version_log.append(db, activation, packed, kept))


def _told(found: list[Recorded]) -> list[tuple[str, str, str]]:
    return [(r.activation.version, r.activation.at, r.activation.until or "still") for r in found]


def test_activations_are_told_newest_first_with_their_end(log: AuditLog, path: Path) -> None:
    _record(log, A, _at(9), why="start")
    _record(log, B, _at(10))
    _record(log, A, _at(11), why="rollback", pinned=True)
    found = VersionReader(path).activations()
    assert _told(found) == [
        (A.version, _at(11), "still"),
        (B.version, _at(10), _at(11)),
        (A.version, _at(9), _at(10)),
    ]
    assert [(r.activation.why, r.activation.pinned) for r in found] == [
        ("rollback", True),
        ("reload", False),
        ("start", False),
    ]
    assert [r.sha256 for r in found] == [A.sha256, B.sha256, A.sha256]
    assert all(r.kept for r in found)
    assert found[0].policies == [{"name": "a", "version": "1"}]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_only_so_many_are_told_and_they_still_know_their_end(
    log: AuditLog, path: Path, limit: int
) -> None:
    for hour, policies in enumerate((A, B, C)):
        _record(log, policies, _at(hour))
    everything = VersionReader(path).activations()
    assert VersionReader(path).activations(limit=limit) == everything[:limit]


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (_at(0), None),  # before anything was recorded
        ("2026-11-17T08:59:59.999999Z", None),
        (_at(9), A),
        (_at(9, 42), A),
        (_at(10), B),
        (_at(10, 42), B),
        (_at(11), C),
        ("2027-01-01T00:00:00.000000Z", C),
    ],
)
def test_what_was_in_force_at_a_moment(
    log: AuditLog, path: Path, at: str, expected: Snapshot | None
) -> None:
    for hour, policies in ((9, A), (10, B), (11, C)):
        _record(log, policies, _at(hour))
    found = VersionReader(path).activations(at=at)
    assert [r.activation.version for r in found] == ([expected.version] if expected else [])


def test_after_a_clock_that_stepped_back_what_was_recorded_last_counts(
    log: AuditLog, path: Path
) -> None:
    for minute, policies in ((0, A), (10, B), (5, C)):
        _record(log, policies, _at(10, minute))
    reader = VersionReader(path)

    def version_at(minute: int) -> str:
        return reader.activations(at=_at(10, minute))[0].activation.version

    assert [version_at(minute) for minute in (1, 6, 11)] == [A.version, C.version, C.version]


def test_documents_are_kept_only_of_the_versions_to_keep(log: AuditLog, path: Path) -> None:
    _record(log, A, _at(9), keep=[A])
    _record(log, B, _at(10), keep=[A, B])
    _record(log, C, _at(11), keep=[B, C])
    reader = VersionReader(path)
    assert [r.kept for r in reader.activations()] == [True, True, False]
    assert _policies(reader, A.version) is None
    # That it was in force, and what it was called, is not forgotten.
    oldest = reader.activations()[-1]
    assert (oldest.sha256, oldest.policies) == (A.sha256, [{"name": "a", "version": "1"}])
    _record(log, A, _at(12), keep=[C, A])
    assert _policies(reader, B.version) is None
    again = _policies(reader, A.version)
    assert again is not None
    assert again.sha256 == A.sha256


def test_a_version_comes_back_as_it_was(log: AuditLog, path: Path) -> None:
    text = """\
    name: "Zürich, \\U0001F511 and a \\"quote\\""
    version: "1.10"
    description: "every kind of thing"
    appliesTo: {tags: [a, b], trustTiers: [Elevated], orgIds: ["*"]}
    ruleOrder: deny-overrides
    requiredTrustTier: standard
    humanInTheLoop: {requireApproval: ["delete:*"]}
    rules:
      - {effect: allow, actions: ["read:*"], id: first, alert: low}
      - effect: deny
        action: "write:*"
        reason: not here
        enforcement: dry_run
        conditions: {context.amount: {gte: 10.5}, resource: {startsWith: [x, "ÿ"]}}
    defaultEffect: allow
    """
    parsed = parse_file(text.encode(), "x.yaml")
    assert not parsed.is_bad, parsed.problems
    before = Snapshot([placed.policy for placed in parsed.policies] + list(A.policies))
    _record(log, before, _at(9))
    after = _policies(VersionReader(path), before.version)
    assert after is not None
    assert after.sha256 == before.sha256
    assert {p.said for p in after.policies} == {p.said for p in before.policies}
    assert after.size == before.size


def test_documents_of_every_kind_come_back_as_they_were(log: AuditLog, path: Path) -> None:
    fixture = Path(__file__).parents[1] / "policies/chain-all-kinds.yaml"
    parsed = parse_file(fixture.read_bytes(), fixture.name)
    policies = [placed.policy for placed in parsed.policies]
    chain = [placed.document for placed in parsed.chain]
    before = Snapshot([*policies, *A.policies], chain)
    _record(log, before, _at(9))
    after = _policies(VersionReader(path), before.version)
    assert after is not None
    assert after.sha256 == before.sha256
    assert {p.said for p in after.policies} == {p.said for p in before.policies}
    assert set(after.chain) == set(chain)
    [recorded] = VersionReader(path).activations()
    assert recorded.policies == [
        {"name": "a", "version": "1"},
        {"name": "readers", "version": "1"},
        {"kind": "PrivilegeFloors", "name": "floors", "version": "2"},
        {"kind": "ProvenanceGate", "name": "gate"},
        {"kind": "RiskWallet", "name": "daily"},
        {"kind": "RiskWallet", "name": "steady"},
        {"kind": "RouteMap", "name": "crm"},
        {"kind": "AlertRoute", "name": "on-call"},
        {"kind": "AlertRoute", "name": "quiet"},
        {"kind": "AlertRoute", "name": "everything"},
    ]


@pytest.mark.parametrize(
    "document", ['{"kind":"Hat","name":"n"}', '{"kind":"RiskWallet","name":"n"}', "[]", "null"]
)
def test_a_document_that_is_none_of_ours_is_no_version(document: str) -> None:
    with pytest.raises(Corrupt, match="cannot be read"):
        unpack(zlib.compress(f"[{document}]".encode()), "x")


def test_no_policies_at_all_are_a_version_too(log: AuditLog, path: Path) -> None:
    _record(log, NOTHING, _at(9))
    found = _policies(VersionReader(path), NOTHING.version)
    assert found is not None
    assert found.size == 0
    [recorded] = VersionReader(path).activations()
    assert (recorded.policies, recorded.kept) == ([], True)


def test_policies_are_named_in_order_and_a_version_only_where_there_is_one() -> None:
    bare = PolicyDoc.model_validate(
        {"name": "bare", "rules": [{"effect": "deny", "actions": ["*"]}]}
    )
    packed = version_log.pack(snapshot(policy("z", [("deny", "*")]), bare))
    assert json.loads(packed.policies) == [{"name": "bare"}, {"name": "z", "version": "1"}]


def test_what_was_never_recorded_is_none(log: AuditLog, path: Path) -> None:
    assert VersionReader(path).activations() == []
    assert _policies(VersionReader(path), A.version) is None
    assert _policies(VersionReader(path), "' OR 1=1 --") is None


def test_an_audit_database_of_before_versions_is_an_empty_history(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE audit (seq INTEGER PRIMARY KEY)")
    assert VersionReader(path).activations() == []
    assert _policies(VersionReader(path), A.version) is None


def test_reading_needs_a_file_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        VersionReader(tmp_path / "none.db")
    with pytest.raises(FileNotFoundError):
        VersionReader(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_a_database_error(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(peewee.PeeweeException):
        VersionReader(path).activations()
    with pytest.raises(peewee.PeeweeException):
        _policies(VersionReader(path), A.version)


def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    path = tmp_path / "a b?mode=rwc#%41.db"
    log = AuditLog(path, monotonic=lambda: 0.0)
    assert log.open()
    _record(log, A, _at(9))
    log.close()
    assert len(VersionReader(path).activations()) == 1
    assert all(file.name.startswith(path.name) for file in tmp_path.iterdir())


def test_history_can_be_read_while_the_store_is_being_written(log: AuditLog, path: Path) -> None:
    _record(log, A, _at(9))
    seen: list[int] = []

    def work(database: peewee.SqliteDatabase) -> None:
        activation = Activation(B.version, _at(10), "reload", False)
        version_log.append(database, activation, version_log.pack(B), [])
        with contextlib.closing(sqlite3.connect(path)) as other:  # another process
            seen.extend(other.execute("SELECT count(*) FROM policy_activations").fetchone())

    log.write_with([], work)
    assert seen == [1]
    assert len(VersionReader(path).activations()) == 2


# What somebody has changed.

_PACKED = version_log.pack(B).documents


def _tamper(path: Path, column: str, value: object) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(
            f"UPDATE policy_versions SET {column} = ? WHERE version = ?", (value, A.version)
        )


@pytest.mark.parametrize(
    "documents",
    [
        pytest.param(_PACKED, id="those of another version"),
        pytest.param(zlib.compress(b"[]"), id="none"),
        pytest.param(zlib.compress(b"not JSON"), id="not JSON"),
        pytest.param(zlib.compress(b"\xff"), id="not UTF-8"),
        pytest.param(zlib.compress(b"7"), id="not a list"),
        pytest.param(zlib.compress(b"[7]"), id="not documents"),
        pytest.param(zlib.compress(b'["{}"]'), id="not policies"),
        pytest.param(zlib.compress(b'["' + b"[" * 10_000 + b'"]'), id="a deep document"),
        pytest.param(_PACKED[:-8], id="cut off"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"plain", id="not packed"),
        pytest.param(7, id="a number"),
        pytest.param("text", id="text"),
        pytest.param(7.5, id="a fraction"),
        pytest.param(zlib.compress(b"[" * 100_000), id="a deep list"),
    ],
)
def test_documents_that_are_not_what_the_version_names_are_refused(
    log: AuditLog, path: Path, documents: object
) -> None:
    _record(log, A, _at(9))
    _record(log, B, _at(10))
    _tamper(path, "documents", documents)
    with pytest.raises(Corrupt, match=f"the policies recorded as version {A.version} "):
        _policies(VersionReader(path), A.version)
    assert _policies(VersionReader(path), B.version) is not None
    assert len(VersionReader(path).activations()) == 2


def test_one_policy_changed_in_one_character_is_refused(log: AuditLog, path: Path) -> None:
    _record(log, A, _at(9))
    said = zlib.decompress(version_log.pack(A).documents)
    _tamper(path, "documents", zlib.compress(said.replace(b'"allow"', b'"deny"')))
    with pytest.raises(Corrupt, match=f"recorded as version {A.version} are version "):
        _policies(VersionReader(path), A.version)


@pytest.mark.parametrize(
    "policies",
    ["not JSON", "7", "null", "[7]", "{}", "[" * 100_000, "", 7, 7.5, b"x", b"\xff"],
)
def test_a_history_without_names_still_knows_when(
    log: AuditLog, path: Path, policies: object
) -> None:
    _record(log, A, _at(9))
    _record(log, B, _at(10))
    _tamper(path, "policies", policies)
    newest, oldest = VersionReader(path).activations()
    assert newest.policies == [{"name": "b", "version": "1"}]
    assert (oldest.activation.version, oldest.activation.at) == (A.version, _at(9))
    assert (oldest.policies, oldest.kept) == ([], True)


def test_text_that_is_no_text_is_a_database_error(log: AuditLog, path: Path) -> None:
    _record(log, A, _at(9))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE policy_activations SET at = CAST(x'ff' AS TEXT)")
    with pytest.raises(peewee.DatabaseError):
        VersionReader(path).activations()
