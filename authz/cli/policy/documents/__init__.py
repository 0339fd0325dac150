"""Policies as commands look at them and change them: the files here, or those of a sidecar
elsewhere that is asked for it.

- Both show documents as the admin API does, and take them as their text.
- Both end the command with a sentence and an exit code where something is not possible.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from authz.core.identity import Identity
    from authz.core.snapshot import Snapshot

#: A document as the admin API shows it; `kind` where it is no policy, `file` where that is known.
Entry = dict[str, Any]
Outcome = Literal["created", "replaced", "unchanged", "deleted"]


class Document(NamedTuple):
    """A document to be put in place."""

    kind: str
    name: str
    text: bytes
    #: Of what it says.
    digest: str
    #: Where its text begins, `file:line`, for people.
    source: str


class Result(NamedTuple):
    """What became of a document, or would."""

    kind: str
    name: str
    outcome: Outcome
    #: Where it is, or was, below POLICIES_DIR; empty where that is not known.
    file: str
    #: What else there is to know; may be empty.
    note: str = ""


class Documents(Protocol):
    """All that can be asked for."""

    def listed(self) -> list[Entry]:
        """Every document: policies by name, then those of other kinds."""
        ...

    def document(self, kind: str, name: str) -> Entry:
        """One of them."""
        ...

    def text(self, kind: str, name: str) -> str:
        """What its file says of it, as YAML."""
        ...

    def put(self, documents: Sequence[Document], *, dry_run: bool) -> Iterator[Result]:
        """Put each in place of the one of its kind and name, in order.

        Whatever all of them can be checked for is checked before the first.

        Args:
            dry_run: only find out what would become of each.
        """
        ...

    def delete(self, kind: str, name: str) -> Result:
        """Remove one, and its file where that has no other."""
        ...

    def snapshot(self) -> "Snapshot":
        """All of them together."""
        ...

    def agent(self, agent_id: str) -> "Identity | None":
        """An agent as policies see it by its record; None where it has none.

        One that is revoked ends the command.
        """
        ...


@contextlib.contextmanager
def opened() -> Iterator[Documents]:
    """The policies that are meant: a gateway's where one is named, else those in POLICIES_DIR."""
    from authz.cli.destination import gateway

    there = gateway()
    if there is None:
        from authz.cli.policy.documents.local import LocalDocuments
        from authz.cli.shared import BAD_ARGUMENTS, fail
        from authz.settings import SettingsError, settings_of

        try:
            settings = settings_of(os.environ, "POLICIES_DIR", "POLICY_BUNDLE")
        except SettingsError as error:
            fail(error.problems, BAD_ARGUMENTS)
        if settings.policy_bundle is not None:
            said = (
                f"POLICY_BUNDLE: the policies come from a bundle, {settings.policy_bundle}, and are"
                " changed where it is built; `authz bundle inspect` shows it, and --gateway asks a"
                " sidecar"
            )
            fail([said], BAD_ARGUMENTS)
        yield LocalDocuments(settings.policies_dir)
        return
    from authz.cli.policy.documents.remote import RemoteDocuments
    from authz.cli.remote import Remote

    with Remote(there) as sidecar:
        yield RemoteDocuments(sidecar)
