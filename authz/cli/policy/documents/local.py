"""The documents of POLICIES_DIR.

- Documents that are put in place together are all there or none: where one cannot be, those before
  it are taken back.
- What was written is read again, with everything beside it, as a sidecar reads it.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from authz.cli.policy.documents import Document, Entry, Result
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail, note
from authz.core.identity import Identity
from authz.core.policy_entry import document_entry
from authz.core.policy_file import Placed, PlacedChain
from authz.core.policy_set import POLICY, PolicyFile
from authz.core.policy_text import Key, is_same_text
from authz.core.snapshot import Snapshot
from authz.stores.parsing import parse_here
from authz.stores.policies import Loaded, PolicyDirectory
from authz.stores.policy_files import Changed, Edit, NotWritable, PolicyFiles, WriteFailed


class LocalDocuments:
    """The documents in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = PolicyFiles(root, parse_here)

    def listed(self) -> list[Entry]:
        """As `Documents.listed`."""
        policies = self._loaded().policies
        return [
            *(self._entry(*policies.sources[name]) for name in sorted(policies.sources)),
            *(self._entry(*policies.chain_sources[key]) for key in sorted(policies.chain_sources)),
        ]

    def document(self, kind: str, name: str) -> Entry:
        """As `Documents.document`."""
        return self._entry(*self._source(self._loaded(), (kind, name)))

    def text(self, kind: str, name: str) -> str:
        """As `Documents.text`."""
        loaded = self._loaded()
        self._source(loaded, (kind, name))
        with _in_sentences():
            found = self._files.find(loaded.policies, (kind, name), to_edit=False)
        assert found is not None
        return found.text.decode()

    def put(self, documents: Sequence[Document], *, dry_run: bool) -> Iterator[Result]:
        """As `Documents.put`."""
        loaded = self._loaded()
        results: list[Result] = []
        with self._all_or_none() as done:
            for document in documents:
                result, edit = self._put(loaded, document, dry_run=dry_run)
                results.append(result)
                if edit is not None:
                    self._commit(edit)
                    done.append(edit)
            if done:
                self._require_in_force(documents)
        yield from results

    def delete(self, kind: str, name: str) -> Result:
        """As `Documents.delete`."""
        loaded, key = self._loaded(), (kind, name)
        self._source(loaded, key)
        with _in_sentences():
            found = self._files.find(loaded.policies, key)
            assert found is not None
            self._commit(self._files.prepare(key, b"", "", found))
        left = self._loaded()
        other = left.policies.source(*key)
        said = ""
        if other is not None:
            said = f"{other[0].file}:{other[1].line} has one of this name too, which counts now"
        elif not left.snapshot.size:
            said = "no valid policy is left: every decision is a denial"
        return Result(kind, name, "deleted", str(found.file), said)

    def snapshot(self) -> Snapshot:
        """As `Documents.snapshot`."""
        loaded = self._loaded()
        if loaded.errors:
            # A sidecar serves the rest as well.
            note(f"{loaded.errors[0]}; `authz policy validate` prints all problems")
        return loaded.snapshot

    def agent(self, agent_id: str) -> Identity | None:
        """As `Documents.agent`."""
        from authz.cli import records

        return records.identity(agent_id)

    def _loaded(self) -> Loaded:
        if not self._root.is_dir():
            fail([f"POLICIES_DIR: {self._root} is not a directory"], BAD_ARGUMENTS)
        return PolicyDirectory(self._root).read()

    def _source(self, loaded: Loaded, key: Key) -> tuple[PolicyFile, Placed | PlacedChain]:
        source = loaded.policies.source(*key)
        if source is None:
            kind, name = key
            said = f"there is no {'policy' if kind == POLICY else kind} {name} in {self._root}"
            bad = [problem.file for problem in loaded.errors]
            if bad:
                said += f"; {bad[0]} has errors"
            fail([said], FAILED)
        return source

    def _entry(self, file: PolicyFile, placed: Placed | PlacedChain) -> Entry:
        if isinstance(placed, Placed):
            said, active = placed.policy.said, not placed.policy.scope.is_nobody
        else:
            said, active = placed.document.said, True
        entry = document_entry(json.loads(said), active=active)
        return {**entry, **self._files.told(file.file)}

    def _put(
        self, loaded: Loaded, document: Document, *, dry_run: bool
    ) -> tuple[Result, Edit | None]:
        kind, name, text, digest, _ = document
        found = self._files.find(loaded.policies, (kind, name))
        if found is not None and is_same_text(found.text, text):
            return Result(kind, name, "unchanged", str(found.file)), None
        edit = self._files.prepare((kind, name), text, digest, found)
        outcome: Any = "created" if found is None else "replaced"
        result = Result(kind, name, outcome, str(edit.file))
        if dry_run:
            self._files.discard(edit)
            return result, None
        return result, edit

    def _commit(self, edit: Edit) -> None:
        try:
            self._files.commit(edit)
        except BaseException:
            self._files.discard(edit)
            raise

    def _require_in_force(self, documents: Sequence[Document]) -> None:
        """What was written counts, whatever else is in the directory.

        Raises:
            Changed: something of it does not.
        """
        loaded = self._loaded()
        for document in documents:
            source = loaded.policies.source(document.kind, document.name)
            said = "" if source is None else _digest(source[1])
            if said != document.digest:
                where = "a file with errors" if source is None else f"{source[0].file}"
                raise Changed(f"{document.name} would not be in force, because of {where}")

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[list[Edit]]:
        """Around several edits, which are kept in the list: what fails takes them back."""
        done: list[Edit] = []
        with _in_sentences():
            try:
                yield done
            except BaseException:
                stuck = [str(edit.file) for edit in reversed(done) if not self._undone(edit)]
                if stuck:
                    note(f"written, and not taken back: {', '.join(stuck)}")
                raise

    def _undone(self, edit: Edit) -> bool:
        try:
            self._files.undo(edit)
        except (Changed, NotWritable, WriteFailed):
            return False
        return True


def _digest(placed: Placed | PlacedChain) -> str:
    return placed.policy.digest if isinstance(placed, Placed) else placed.document.digest


@contextlib.contextmanager
def _in_sentences() -> Iterator[None]:
    try:
        yield
    except (Changed, NotWritable, WriteFailed) as error:
        fail([f"not done: {error}"], FAILED)
