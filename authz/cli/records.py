"""The records of a sidecar, in its audit database, as `books/local.py` opens them.

- What is shown is read without a lock, and nothing is made or upgraded for it.
- What is changed is one transaction with its row. A sidecar that has the file open takes it over
  before it decides anything more; it need not run.
- The lock is held for that alone: policies, keys and records are read before.
- Every mistake is one sentence and an exit code.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import peewee
from pydantic import SecretStr

from authz import memory
from authz.cli.shared import BAD_ARGUMENTS, DENIED, FAILED, environment, fail
from authz.cli.words import login, with_options
from authz.core.agents import identity_of
from authz.core.delegation.relationship import Refused
from authz.core.errors import AuditUnavailable, Code
from authz.core.identity import Identity
from authz.core.ledger import LedgerFull
from authz.core.pending import NotPending
from authz.core.snapshot import Snapshot
from authz.core.state import State
from authz.memory import Delegations
from authz.operations import NotPossible, Operations, Unknown
from authz.settings import Settings, SettingsError, settings_of
from authz.stores import policies
from authz.stores.audit_log import AuditLog, AuditReader
from authz.stores.audit_table import is_there
from authz.stores.version_log import VersionReader

#: Seconds that a change waits for the lock. A sidecar has it for some milliseconds at a time, and
#: under load most of the time.
PATIENCE_S: Final = 5.0
#: What a command needs of the environment besides JWT_SECRET, which most need not have.
_VARIABLES: Final = (
    "AUDIT_DB_PATH", "DB_PATH", "AUDIT_SYNC", "MODE", "MODE_FILE", "POLICIES_DIR",
    "POLICY_BUNDLE", "JWT_EXPIRES_IN", "DELEGATION_KEY_FILE",
)  # fmt: skip
_NO_POLICIES: Final = Snapshot(())


class Records(NamedTuple):
    """An opened database, and what can be done with it."""

    operations: Operations
    delegations: Delegations
    settings: Settings
    #: Seconds since the epoch, and the same on the steady clock (`core/ledger.py`).
    now: float
    steady: float

    @property
    def state(self) -> State:
        """Everything that the ledger holds."""
        return self.operations.state

    @property
    def can_sign(self) -> bool:
        """Whether there is a JWT_SECRET to sign tokens with."""
        return bool(self.settings.jwt_secret.get_secret_value())


def settings_for(database: Path | None, *, dev_secrets: bool = False) -> Settings:
    """The settings of a command; `jwt_secret` is empty where there is none.

    Args:
        database: what AUDIT_DB_PATH is instead.
        dev_secrets: fill in what is missing (`dev_secrets`).
    """
    env = environment(dev_secrets=dev_secrets)
    has_secret = bool(env.get("JWT_SECRET", "").strip())
    try:
        settings = settings_of(env, *_VARIABLES, *(["JWT_SECRET"] if has_secret else []))
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)
    changes: dict[str, object] = {} if has_secret else {"jwt_secret": SecretStr("")}
    if database is not None:
        changes["audit_db_path"] = database
    return settings.model_copy(update=changes)


@contextlib.contextmanager
def reading(database: Path | None, *, snapshot: Snapshot = _NO_POLICIES) -> Iterator[Records]:
    """The records as they are now, to be looked at.

    Args:
        snapshot: what they are looked at by; most need no policies.
    """
    settings = settings_for(database)
    path, state = settings.audit_db_path, State()
    try:
        reader = AuditReader(path)
        reader.follow(state.ledger)
    except FileNotFoundError:
        fail([f"{path}: there is no audit database yet"], FAILED)
    except (peewee.PeeweeException, sqlite3.Error) as error:
        fail([f"{path}: not an audit database: {error}"], FAILED)
    # It is never opened: nothing that is asked here changes anything.
    audit = AuditLog(path, monotonic=time.monotonic, ledger=state.ledger)
    with _in_sentences(audit, path):
        yield _records(settings, state, audit, reader, snapshot, "")


@contextlib.contextmanager
def changing(
    database: Path | None,
    *,
    make: bool = False,
    dev_secrets: bool = False,
    snapshot: Snapshot = _NO_POLICIES,
) -> Iterator[Records]:
    """The records, to be changed through `Operations`.

    Args:
        make: make the database where there is none.
        dev_secrets: as `settings_for`.
        snapshot: as `reading`.
    """
    settings = settings_for(database, dev_secrets=dev_secrets)
    path, state = settings.audit_db_path, State()
    try:
        if not (make or is_there(path)):
            fail([f"{path}: there is no audit database yet"], FAILED)
    except peewee.OperationalError as error:
        fail([f"{path}: {error}"], FAILED)
    version = _version_in_force(settings)
    # What it logs is said once, by us.
    logging.getLogger("authz").addHandler(logging.NullHandler())
    audit = AuditLog(
        path,
        monotonic=time.monotonic,
        ledger=state.ledger,
        sync=settings.audit_sync,
        patience_s=PATIENCE_S,
    )
    with contextlib.closing(audit):
        if not audit.open():
            fail([f"{path}: cannot be changed: {audit.failure}"], FAILED)
        with _in_sentences(audit, path):
            yield _records(settings, state, audit, audit, snapshot, version)


def policies_now() -> Snapshot:
    """What a sidecar would judge by, as far as it is valid."""
    return _policies_of(settings_for(None))


def _policies_of(settings: Settings) -> Snapshot:
    return policies.load_paths([settings.policy_bundle or settings.policies_dir]).snapshot


def delegation_keys(database: Path | None) -> dict[str, object]:
    """The public key of this database's delegations, as a JWK Set."""
    try:
        return _delegations(settings_for(database)).signer().jwks()
    except NotPossible as error:
        fail([str(error)], FAILED)


def by() -> str:
    """Who makes a change, as its row says it."""
    return f"cli:{login()}"


def _version_in_force(settings: Settings) -> str:
    """The policies that a sidecar judges by, else those that one would now."""
    try:
        found = VersionReader(settings.audit_db_path).activations(limit=1)
    except (FileNotFoundError, peewee.PeeweeException):
        found = []
    if found:
        return found[0].activation.version
    return _policies_of(settings).version


def _records(
    settings: Settings,
    state: State,
    audit: AuditLog,
    newest: AuditLog | AuditReader,
    snapshot: Snapshot,
    version: str,
) -> Records:
    delegations = _delegations(settings)
    offset = memory.steady_offset(newest, time.time(), time.monotonic())

    def steady() -> float:
        return offset + time.monotonic()

    operations = memory.operations(
        settings,
        state,
        audit,
        delegations,
        memory.action_tokens(settings),
        snapshot=lambda: snapshot,
        mode=lambda: settings.mode,
        now=time.time,
        steady=steady,
        version=lambda: version,
    )
    return Records(operations, delegations, settings, time.time(), steady())


def _delegations(settings: Settings) -> Delegations:
    try:
        return Delegations(settings)
    except ValueError as error:
        fail([str(error)], BAD_ARGUMENTS)


@contextlib.contextmanager
def _in_sentences(audit: AuditLog, path: Path) -> Iterator[None]:
    """What an operation raises, said; each with its exit code."""
    try:
        yield
    except (Unknown, NotPossible, NotPending, LedgerFull) as error:
        fail([with_options(str(error))], FAILED)
    except Refused as refused:
        code = BAD_ARGUMENTS if refused.code is Code.MALFORMED else DENIED
        fail([with_options(refused.reason)], code)
    except ValueError as error:
        fail([with_options(str(error))], BAD_ARGUMENTS)
    except AuditUnavailable as error:
        fail([f"{path}: nothing was changed: {audit.failure or error}"], FAILED)


def identity(agent_id: str) -> Identity | None:
    """An agent as it is registered here; None where it is not. Ends for one that was revoked."""
    with contextlib.suppress(peewee.OperationalError):
        # What may not be looked for is for `reading` to say.
        if not is_there(settings_for(None).audit_db_path):
            return None
    with reading(None) as there:
        found = there.state.agents.get(agent_id)
    if found is None:
        return None
    if found.revoked_at is not None:
        fail([f"agent {agent_id} is revoked: every request of it is refused"], FAILED)
    return identity_of(found)
