"""Which policies were in force when: two tables beside the audit trail, append-only.

- `policy_versions` has each version once, with the documents themselves while it is one of those
  that are kept; `policy_activations` has each time that one became active, and why.
- A version names its content: what is read back is compared with its name before it is used.
"""

import contextlib
import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import peewee

from authz.core.chain_compiled import CompiledChain, compile_chain
from authz.core.chain_doc import document_of
from authz.core.compiled import CompiledPolicy, compile_policy
from authz.core.policy_doc import PolicyDoc
from authz.core.policy_entry import kind_and_name
from authz.core.policy_set import POLICY
from authz.core.snapshot import VERSION_LENGTH, Snapshot, sha256_of
from authz.stores.audit_table import is_there
from authz.stores.pace import UNPACED, Pace

Why = Literal["start", "reload", "rollback", "pin", "release", "resume"]

#: Bytes of a version's documents, unpacked; more is not ours.
MAX_DOCUMENTS: Final = 1 << 30
#: Stands behind the packed documents of a version that was verified. What was recorded before
#: signatures were required, of a directory or a bundle that nobody verified, has none.
SIGNED: Final = b"signed"


class PolicyVersion(peewee.Model):
    """A set of policies."""

    version = peewee.TextField(primary_key=True)
    sha256 = peewee.TextField()
    #: A JSON list of `{name, version}`, by name; after the policies what is of another `kind`.
    policies = peewee.TextField()
    #: A zlib-packed JSON list of canonical documents; NULL once it is no longer kept.
    documents = peewee.BlobField(null=True)

    class Meta:
        table_name = "policy_versions"


class PolicyActivation(peewee.Model):
    """A version became active."""

    id = peewee.BigAutoField()
    #: RFC 3339, UTC, microseconds.
    at = peewee.TextField(index=True)
    version = peewee.TextField()
    why = peewee.TextField()
    #: Files that change do not replace it until it is released.
    pinned = peewee.BooleanField()

    class Meta:
        table_name = "policy_activations"


TABLES: Final = (PolicyVersion, PolicyActivation)


class Activation(NamedTuple):
    """When a version became active, why, and until when; `until` is empty for the last one."""

    version: str
    at: str
    why: Why
    pinned: bool
    until: str = ""


class Recorded(NamedTuple):
    """An activation with what the version was."""

    activation: Activation
    sha256: str
    policies: list[dict[str, str]]
    #: Its documents are kept, so it can be rolled back to.
    kept: bool
    #: Its place among all activations, the first one's is the lowest.
    place: int = 0


class Corrupt(Exception):
    """What was read back is not what its version names."""


class Packed(NamedTuple):
    """A version as it is recorded. Packing a thousand policies takes some milliseconds."""

    version: str
    sha256: str
    policies: str
    documents: bytes


def pack(snapshot: Snapshot) -> Packed:
    """Make a snapshot ready to be recorded."""
    said = ",".join(sorted(each.said for each in (*snapshot.policies, *snapshot.chain)))
    named = [
        *(_name(policy) for policy in sorted(snapshot.policies, key=lambda policy: policy.name)),
        *({"kind": document.kind, **_name(document)} for document in snapshot.chain),
    ]
    return Packed(
        snapshot.version,
        snapshot.sha256,
        json.dumps(named, ensure_ascii=False),
        zlib.compress(f"[{said}]".encode()),
    )


def is_signed(packed: bytes) -> bool:
    """Whether `SIGNED` stands behind the documents of a version."""
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, MAX_DOCUMENTS)
    except zlib.error:
        return False
    return unpacker.unused_data == SIGNED


def _name(document: CompiledPolicy | CompiledChain) -> dict[str, str]:
    version = {"version": document.version} if document.version else {}
    return {"name": document.name, **version}


def unpack(packed: bytes, version: str) -> Snapshot:
    """The policies of a version, ready to be judged by.

    Raises:
        Corrupt: they are not what the version names.
    """
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, MAX_DOCUMENTS)
        policies: list[CompiledPolicy] = []
        chain: list[CompiledChain] = []
        for said in json.loads(text):
            # A policy's kind is left out of what it says.
            if isinstance(said, dict) and "kind" in said:
                chain.append(compile_chain(document_of(said)))
            else:
                policies.append(compile_policy(PolicyDoc.model_validate(said)))
        chain.sort(key=lambda document: (document.kind, document.name))
        snapshot = Snapshot(policies, chain)
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise Corrupt(f"the policies recorded as version {version} cannot be read") from error
    if snapshot.version != version:
        raise Corrupt(f"the policies recorded as version {version} are version {snapshot.version}")
    return snapshot


class Said(NamedTuple):
    """A document of a version, and what it says, as canonical JSON."""

    kind: str
    name: str
    said: str


def said_by(snapshot: Snapshot, pace: Pace = UNPACED) -> list[Said]:
    """What the documents of a snapshot say, in the order of `said_in`."""
    policies = [Said(POLICY, one.name, one.said) for one in pace.over(snapshot.policies)]
    policies.sort(key=lambda one: one.name)
    return policies + [Said(one.kind, one.name, one.said) for one in snapshot.chain]


def said_in(packed: bytes, version: str, pace: Pace = UNPACED) -> tuple[str, list[Said]]:
    """A version's SHA-256, and what its documents say: policies first, by kind and name.

    Nothing is compiled for it.

    Raises:
        Corrupt: they are not what the version names.
    """
    found: list[Said] = []
    digests: list[str] = []
    try:
        text = zlib.decompressobj().decompress(packed, MAX_DOCUMENTS).decode()
        decoder, start = json.JSONDecoder(), 1
        # One at a time: whoever reads a long text at once keeps the interpreter as long.
        while text[start : start + 1] not in ("]", ""):
            document, end = decoder.raw_decode(text, start)
            said = text[start:end]
            found.append(Said(*kind_and_name(document), said))
            digests.append(hashlib.sha256(said.encode()).hexdigest())
            start = end + (text[end : end + 1] == ",")
            pace.rest()
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Corrupt(f"the policies recorded as version {version} cannot be read") from error
    sha256 = sha256_of(digests)
    name = sha256[:VERSION_LENGTH]
    if name != version:
        raise Corrupt(f"the policies recorded as version {version} are version {name}")
    found.sort(key=lambda one: (one.kind != POLICY, one.kind, one.name))
    return sha256, found


def append(
    database: peewee.SqliteDatabase, activation: Activation, packed: Packed, keep: Iterable[str]
) -> None:
    """Record an activation inside the caller's transaction; documents only of versions to keep."""
    # The database is named each time: a binding of the models would be the whole process's.
    PolicyVersion.insert(**packed._asdict()).on_conflict(
        conflict_target=[PolicyVersion.version],
        update={PolicyVersion.documents: packed.documents},
    ).execute(database)
    PolicyActivation.insert(
        at=activation.at,
        version=activation.version,
        why=activation.why,
        pinned=activation.pinned,
    ).execute(database)
    PolicyVersion.update(documents=None).where(
        PolicyVersion.version.not_in(list(keep)), PolicyVersion.documents.is_null(False)
    ).execute(database)


class VersionReader:
    """Read-only queries about versions, also while a sidecar writes the file."""

    def __init__(self, path: Path, *, patience_s: float = 5.0) -> None:
        """
        Args:
            patience_s: how long to wait for a process that has the file for itself.

        Raises:
            FileNotFoundError: there is no such file.
            peewee.OperationalError: it may not be looked for.
        """
        if not is_there(path):
            raise FileNotFoundError(path)
        self._database = peewee.SqliteDatabase(
            f"{path.resolve().as_uri()}?mode=ro",
            uri=True,
            timeout=patience_s,
            pragmas={"query_only": 1},
        )

    def activations(
        self, *, at: str | None = None, limit: int = 100, before: int | None = None
    ) -> list[Recorded]:
        """What was in force, newest first; with `at` (RFC 3339, UTC) only what was so then.

        Args:
            before: only activations whose place is lower.

        Raises:
            peewee.PeeweeException: the file is not an audit database.
        """
        return list(self.walk(at=at, limit=limit, before=before))

    def walk(
        self, *, at: str | None = None, limit: int = 100, before: int | None = None
    ) -> Iterator[Recorded]:
        """As `activations`, each as it is asked for."""
        with self._open():
            if not self._database.table_exists("policy_activations"):
                return
            until = PolicyActivation.alias()
            query = (
                PolicyActivation.select(
                    PolicyActivation,
                    PolicyVersion.sha256,
                    # As bytes: SQLite lets a text be none, and that must not hide the rest.
                    PolicyVersion.policies.cast("BLOB").alias("names"),
                    PolicyVersion.documents.is_null(False).alias("kept"),
                    until.select(until.at)
                    .where(until.id > PolicyActivation.id)
                    .order_by(until.id)
                    .limit(1)
                    .alias("until"),
                )
                .join(PolicyVersion, on=(PolicyVersion.version == PolicyActivation.version))
                .order_by(PolicyActivation.id.desc())
            )
            if before is not None:
                query = query.where(PolicyActivation.id < before)
            if at is not None:
                query = query.where(PolicyActivation.at <= at).limit(1)
            else:
                query = query.limit(limit)
            rows: Iterator[dict[str, object]] = query.dicts().iterator(self._database)
            for row in rows:
                yield _recorded(row)

    def documents(self, version: str) -> bytes | None:
        """A version's policies, for `unpack`; None when they are not kept.

        Raises:
            Corrupt: what is kept cannot be them.
            peewee.PeeweeException: the file is not an audit database.
        """
        with self._open():
            if not self._database.table_exists("policy_versions"):
                return None
            query = PolicyVersion.select(PolicyVersion.documents).where(
                PolicyVersion.version == version
            )
            found = list(query.tuples().execute(self._database))
            packed = found[0][0] if found else None
        if packed is None:
            return None
        if not isinstance(packed, (bytes, memoryview)):
            raise Corrupt(f"the policies recorded as version {version} cannot be read")
        return bytes(packed)

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        try:
            with self._database.connection_context():
                yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # texts that are none, for one
            raise peewee.DatabaseError(str(error)) from error


def entry_of(recorded: Recorded) -> dict[str, Any]:
    """An activation as API answers and `authz policy versions --json` show it (CONTRACT §1.3)."""
    activation = recorded.activation
    return {
        "version": activation.version,
        "sha256": recorded.sha256,
        "activatedAt": activation.at,
        **({"deactivatedAt": activation.until} if activation.until else {}),
        "why": activation.why,
        "pinned": activation.pinned,
        "kept": recorded.kept,
        "policies": recorded.policies,
    }


def _recorded(row: dict[str, object]) -> Recorded:
    activation = Activation(
        version=str(row["version"]),
        at=str(row["at"]),
        why=row["why"],  # type: ignore[arg-type]
        pinned=bool(row["pinned"]),
        until=str(row["until"] or ""),
    )
    names = row["names"]
    try:
        policies = json.loads(names if isinstance(names, (str, bytes)) else "")
    except (ValueError, TypeError, RecursionError):
        policies = None
    if not isinstance(policies, list) or not all(isinstance(p, dict) for p in policies):
        # Somebody changed it; when which version was in force is still worth knowing.
        policies = []
    return Recorded(
        activation, str(row["sha256"]), policies, bool(row["kept"]), int(str(row["id"]))
    )
