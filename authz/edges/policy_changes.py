"""Changes of policies by an administrator: written, recorded and in force, or as before.

- In this order: what is to be written lies ready beside the old file; the change is recorded; the
  file gets its name; everything is read again. So a disk that is full costs no row, a change that
  cannot be recorded is not made, and a row whose change then fails is followed by one that says so.
  One that is followed by nothing, because the process was killed in between, is told by the version
  in force, which has a row of its own at each start.
- Whoever asked hears of it when it is in force. What would not come in force, because another file
  has a document of its name, is undone.
- One at a time; whoever comes meanwhile waits a little, and is then told to come again.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple, Protocol

from authz.core.chain_compiled import CompiledChain
from authz.core.compiled import CompiledPolicy
from authz.core.errors import AuditUnavailable
from authz.core.policy_file import Parsed, Placed, PlacedChain
from authz.core.policy_set import PolicyFile
from authz.core.policy_text import Key, is_same_text, key_of
from authz.edges.threads import in_thread
from authz.operations import Operations
from authz.stores.policies import Loaded
from authz.stores.policy_files import (
    Changed,
    Edit,
    Found,
    NotWritable,
    PolicyFiles,
    WriteFailed,
)
from authz.stores.versions import Versions

log = logging.getLogger(__name__)

#: Seconds that a change waits for the one before it.
TURN_S: Final = 2.0
#: Seconds that whoever asked waits for the files to be read: Envoy gives us 5.
READING_S: Final = 3.5
#: Characters of a document's text that a row has.
MAX_RECORDED: Final = 16 * 1024


class Busy(Exception):
    """Others are changing policies; one sentence."""


class NotInForce(Exception):
    """What was written did not come in force, and is as before, or why not; one sentence."""


class Reading(Protocol):
    """A `Reloader`, as far as it is needed here."""

    @property
    def loaded(self) -> Loaded:
        """The last reading."""
        ...

    async def read(self) -> Loaded:
        """Read everything again, and put it in force."""
        ...


class Changing(NamedTuple):
    """A document that is to be put in place."""

    key: Key
    text: bytes
    placed: Placed | PlacedChain


class Done(NamedTuple):
    """What came of it."""

    #: There was no such document before.
    is_new: bool
    #: Where it is, or was, below POLICIES_DIR.
    file: PurePosixPath
    #: What is as the files say now is in force.
    in_force: bool
    #: What else there is to know; empty where there is nothing.
    note: str


class PolicyChanges:
    """Puts documents into POLICIES_DIR, and removes them. On the event loop's thread."""

    def __init__(
        self,
        files: PolicyFiles,
        reloader: Reading,
        versions: Versions,
        operations: Operations,
        *,
        read_only: str = "",
    ) -> None:
        """`read_only`: why nothing is to be changed here; empty where it may be."""
        self._read_only = read_only
        self._files = files
        self._reloader = reloader
        self._versions = versions
        self._operations = operations
        self._turn = asyncio.Lock()

    async def put(
        self, change: Changing, *, by: str, allows: Callable[[Found | None], None]
    ) -> Done:
        """Put a document in place of the one of its kind and name, or into a file of its own.

        Args:
            allows: is shown what is there now, and raises where that is not to be replaced.

        Raises:
            Busy, NotInForce, Changed, NotWritable, WriteFailed, AuditUnavailable: nothing changed.
        """
        async with self._taking_turns():
            found = await self._found(change.key)
            allows(found)
            digest = _document(change.placed).digest
            if found is not None and is_same_text(found.text, change.text):
                return await self._was_so(change.key, digest, found)
            edit = await in_thread(
                lambda: self._files.prepare(change.key, change.text, digest, found)
            )
            before = (
                _recorded(found.file, found.text, _placed(found, change.key)) if found else None
            )
            after = _recorded(edit.file, change.text, change.placed)
            await self._make("policy:put", change.key, edit, by, before, after)
            loaded, note = await self._read()
            if loaded is not None:
                source = loaded.policies.source(*change.key)
                if source is None or _document(source[1]).digest != digest:
                    why = self._why_not(loaded, edit, source)
                    await self._undo(change.key, edit, by, before=after, after=before, why=why)
                    raise NotInForce(f"it would not be in force, and so was undone: {why}")
            return self._done(
                is_new=found is None, file=edit.file, note=note, is_read=loaded is not None
            )

    async def delete(
        self, key: Key, *, by: str, allows: Callable[[Found | None], None]
    ) -> Done | None:
        """Remove a document, and its file where it has no other; None where there is none.

        Args:
            allows: as `put`'s.

        Raises:
            Busy, Changed, NotWritable, WriteFailed, AuditUnavailable: as `put`.
        """
        async with self._taking_turns():
            found = await self._found(key)
            allows(found)
            if found is None:
                return None
            edit = await in_thread(lambda: self._files.prepare(key, b"", "", found))
            before = _recorded(found.file, found.text, _placed(found, key))
            await self._make("policy:delete", key, edit, by, before, None)
            loaded, note = await self._read()
            other = loaded.policies.source(*key) if loaded is not None else None
            if other is not None:
                file = self._files.relative(other[0].file)
                note = f"{file}:{other[1].line} has one of this name too, which counts now"
            elif loaded is not None and not loaded.snapshot.size:
                note = "no valid policy is left: every decision is a denial"
            return self._done(is_new=False, file=found.file, note=note, is_read=loaded is not None)

    async def _found(self, key: Key) -> Found | None:
        policies = self._reloader.loaded.policies
        return await in_thread(lambda: self._files.find(policies, key))

    async def _was_so(self, key: Key, digest: str, found: Found) -> Done:
        """Nothing is to be written; read it where somebody has written the same just now."""
        loaded: Loaded | None = self._reloader.loaded
        source = self._reloader.loaded.policies.source(*key)
        note = ""
        if source is None or _document(source[1]).digest != digest:
            loaded, note = await self._read()
        note = note or "it was so before"
        return self._done(is_new=False, file=found.file, note=note, is_read=loaded is not None)

    async def _make(
        self,
        action: str,
        key: Key,
        edit: Edit,
        by: str,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
    ) -> None:
        """Record an edit, and make it."""
        try:
            self._operations.record(action, _named(key), by=by, before=before, after=after)
        except BaseException:
            await in_thread(lambda: self._files.discard(edit))
            raise
        try:
            await in_thread(lambda: self._files.commit(edit))
        except (Changed, NotWritable, WriteFailed) as error:
            await in_thread(lambda: self._files.discard(edit))
            self._record_undone(key, by, after, before, str(error))
            raise

    async def _read(self) -> tuple[Loaded | None, str]:
        """Read everything again; nothing, and a note, where whoever asked cannot wait for it."""
        try:
            return await asyncio.wait_for(self._reloader.read(), READING_S), ""
        except TimeoutError:
            return None, "it is written, and the files are still being read; ask again"
        except RuntimeError as error:
            return None, f"it is written, and not in force yet: {error}"

    async def _undo(
        self,
        key: Key,
        edit: Edit,
        by: str,
        *,
        before: dict[str, Any],
        after: dict[str, Any] | None,
        why: str,
    ) -> None:
        try:
            await in_thread(lambda: self._files.undo(edit))
        except (Changed, NotWritable, WriteFailed) as error:
            raise NotInForce(
                f"it is written, and not in force: {why}; undoing it: {error}"
            ) from None
        self._record_undone(key, by, before, after, why)
        await self._read()

    def _why_not(
        self, loaded: Loaded, edit: Edit, source: tuple[PolicyFile, Placed | PlacedChain] | None
    ) -> str:
        """Why what was written is not in force, by the names of files below POLICIES_DIR."""
        if source is not None and self._files.relative(source[0].file) != edit.file:
            return f"{self._files.relative(source[0].file)}:{source[1].line} has its name too"
        path = self._files.absolute(edit.file)
        problems = [one for one in loaded.errors if one.file == path]
        return problems[0].message if problems else f"{edit.file} was changed meanwhile"

    def _record_undone(
        self,
        key: Key,
        by: str,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
        why: str,
    ) -> None:
        log.error("the change of %s was undone: %s", _named(key), why)
        with contextlib.suppress(AuditUnavailable):
            self._operations.record("policy:undo", _named(key), by=by, before=before, after=after)

    def _done(self, *, is_new: bool, file: PurePosixPath, note: str, is_read: bool = True) -> Done:
        versions = self._versions
        in_force = is_read and versions.current.version == versions.latest.version
        if versions.pinned:
            pinned = (
                f"version {versions.current.version} is pinned: what the files say is in force when"
                " it is unpinned"
            )
            note = f"{note}; {pinned}" if note else pinned
        return Done(is_new, file, in_force, note)

    @contextlib.asynccontextmanager
    async def _taking_turns(self) -> AsyncIterator[None]:
        if self._read_only:
            raise NotWritable(self._read_only)
        try:
            await asyncio.wait_for(self._turn.acquire(), TURN_S)
        except TimeoutError:
            raise Busy("others are changing policies; ask again") from None
        try:
            yield
        finally:
            self._turn.release()


def _document(placed: Placed | PlacedChain) -> CompiledPolicy | CompiledChain:
    return placed.policy if isinstance(placed, Placed) else placed.document


def _placed(found: Found, key: Key) -> Placed | PlacedChain:
    parsed: Parsed = found.parsed
    every: list[Placed | PlacedChain] = [*parsed.policies, *parsed.chain]
    return next(one for one in every if key_of(one) == key)


def _named(key: Key) -> str:
    kind, name = key
    return f"{kind} {name}"


def _recorded(file: PurePosixPath, text: bytes, placed: Placed | PlacedChain) -> dict[str, Any]:
    """A document as rows have it."""
    more = len(text) - MAX_RECORDED
    shown = text[:MAX_RECORDED].decode("utf-8", "replace")
    if more > 0:
        shown += f"… and {more} more bytes"
    return {
        "file": str(file),
        "version": _document(placed).version,
        "sha256": hashlib.sha256(text).hexdigest(),
        "text": shown,
    }
