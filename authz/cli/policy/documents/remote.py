"""The documents of a sidecar that is asked for them.

- Documents that are put in place are all validated there before the first of them is sent. Each is
  then in force when it is answered; where one is refused, those before it stay, and that is said.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn

from authz.cli.policy.documents import Document, Entry, Outcome, Result
from authz.cli.remote import Refusal, Remote, segment
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail, note
from authz.core.asked import AgentSpec
from authz.core.identity import Identity
from authz.core.policy_file import MAX_FILE, Problem, parse_file
from authz.core.policy_set import POLICY, PolicyFile, build
from authz.core.policy_text import is_same_text
from authz.core.snapshot import Snapshot
from authz.core.text import visible

Severity = Literal["error", "warning"]

#: How a document is sent, and asked for.
YAML: Final = "application/yaml"
#: What the admin API shows of a document besides what it says.
_BESIDE: Final = ("id", "active", "file", "stale", "createdAt", "updatedAt")


class RemoteDocuments:
    """Its admin API's."""

    def __init__(self, there: Remote) -> None:
        self._there = there

    def listed(self) -> list[Entry]:
        """As `Documents.listed`."""
        policies: list[Entry] = []
        documents: list[Entry] = []
        after = ""
        while True:
            page = self._there.ask("GET", "/admin/policies", params={"after": after})
            policies += self._list(page, "policies")
            documents += self._list(page, "documents") if "documents" in page else []
            last, after = after, page.get("next", "")
            if not after:
                return [*policies, *documents]
            if not isinstance(after, str) or after == last:
                self._there.no_sidecar("its list has no end")

    def document(self, kind: str, name: str) -> Entry:
        """As `Documents.document`."""
        return self._there.ask("GET", _path(name), params=_kind(kind))

    def text(self, kind: str, name: str) -> str:
        """As `Documents.text`."""
        found = self._text(kind, name)
        if found is None:
            fail([f"there is no {'policy' if kind == POLICY else kind} {name}"], FAILED)
        return found

    def put(self, documents: Sequence[Document], *, dry_run: bool) -> Iterator[Result]:
        """As `Documents.put`."""
        for document in documents:
            self._validate(document)
        for place, document in enumerate(documents):
            before = self._text(document.kind, document.name)
            outcome: Outcome = "created" if before is None else "replaced"
            if before is not None and is_same_text(before.encode(), document.text):
                outcome = "unchanged"
            if dry_run or outcome == "unchanged":
                yield Result(document.kind, document.name, outcome, "")
                continue
            try:
                answer = self._there.ask(
                    "PUT",
                    _path(document.name),
                    params=_kind(document.kind),
                    content=document.text,
                    headers={"content-type": YAML},
                    caught=(400, 403, 404, 409, 412, 413, 415, 422, 503),
                )
            except Refusal as refusal:
                self._refused(document, refusal, place, len(documents))
            yield _result(document.kind, document.name, outcome, answer)

    def delete(self, kind: str, name: str) -> Result:
        """As `Documents.delete`."""
        answer = self._there.ask("DELETE", _path(name), params=_kind(kind))
        return _result(kind, name, "deleted", answer)

    def snapshot(self) -> Snapshot:
        """As `Documents.snapshot`."""
        files = []
        for entry in self.listed():
            said = {key: value for key, value in entry.items() if key not in _BESIDE}
            parsed = parse_file(json.dumps(said).encode(), str(said.get("name")))
            if parsed.is_bad:
                self._there.no_sidecar(f"its policies cannot be read: {parsed.problems[0]}")
            files.append(PolicyFile(str(said.get("name")), parsed.policies, chain=parsed.chain))
        return build(files).snapshot

    def agent(self, agent_id: str) -> Identity | None:
        """As `Documents.agent`."""
        try:
            found = self._there.ask("GET", f"/admin/agents/{segment(agent_id)}", caught=(404,))
        except Refusal:
            return None
        if found.get("status") == "revoked":
            fail([f"agent {agent_id} is revoked: every request of it is refused"], FAILED)
        try:
            return AgentSpec.model_validate(
                {
                    "id": agent_id,
                    "name": found["name"],
                    "tier": found["trustTier"],
                    "tags": found["tags"],
                    "org": found.get("orgId", ""),
                }
            ).identity
        except (KeyError, ValueError):
            self._there.no_sidecar("its answer is no agent")

    def _text(self, kind: str, name: str) -> str | None:
        """A document's own text; None where there is no such document."""
        path, params = _path(name), _kind(kind)
        try:
            self._there.ask("GET", path, params=params, caught=(404,))
        except Refusal:
            return None
        read = bytearray()
        with self._there.stream(path, params=params, headers={"accept": YAML}) as answer:
            if not answer.headers.get("content-type", "").startswith(YAML):
                self._there.no_sidecar("it does not show documents as YAML")
            for part in answer.iter_bytes():
                read += part
                if len(read) > MAX_FILE:
                    self._there.no_sidecar("its document is larger than any policy file")
        return read.decode(errors="replace")

    def _validate(self, document: Document) -> None:
        """Let the sidecar look at a document: it may be older or newer than this command."""
        file, _, line = document.source.rpartition(":")
        found = validated(self._there, document.text, file, int(line) - 1)
        errors = [problem for problem in found if problem.severity == "error"]
        if errors:
            fail(map(str, errors), BAD_ARGUMENTS)

    def _refused(self, document: Document, refusal: Refusal, place: int, of: int) -> NoReturn:
        note(f"{place} of {of} documents were looked at before, and are as was said")
        fail([f"{document.source}: {refusal.message}"], refusal.exit_code)

    def _list(self, answer: Mapping[str, Any], name: str) -> list[Entry]:
        found = answer.get(name)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            self._there.no_sidecar(f"its answer has no list of {name}")
        return found


def validated(there: Remote, text: bytes, file: str, above: int) -> list[Problem]:
    """What a sidecar says of a document.

    Args:
        file: as problems name it.
        above: lines of the file that are above the document.
    """
    try:
        answer: Mapping[str, Any] = there.ask(
            "POST",
            "/admin/policies/validate",
            content=text,
            headers={"content-type": YAML},
            caught=(422,),
        )
    except Refusal as refusal:
        answer = refusal.body
    found = []
    severities: Sequence[Severity] = ("error", "warning")
    for severity in severities:
        listed = answer.get(f"{severity}s")
        if not isinstance(listed, list):
            there.no_sidecar(f"its answer has no list of {severity}s")
        found += [_problem(one, severity, file, above) for one in listed]
    return found


def _problem(said: object, severity: Severity, file: str, above: int) -> Problem:
    """A problem as the API shows it."""
    if not isinstance(said, Mapping):
        return Problem(file, above + 1, 1, severity, visible(str(said)))
    line, column = said.get("line"), said.get("column")
    return Problem(
        file,
        above + (line if isinstance(line, int) else 1),
        column if isinstance(column, int) else 1,
        severity,
        visible(str(said.get("message"))),
        visible(str(said.get("lint", ""))),
    )


def _path(name: str) -> str:
    return f"/admin/policies/{segment(name)}"


def _kind(kind: str) -> dict[str, str | int]:
    return {} if kind == POLICY else {"kind": kind}


def _result(kind: str, name: str, outcome: Outcome, answer: Mapping[str, Any]) -> Result:
    file, said = answer.get("file"), answer.get("note")
    return Result(
        kind,
        name,
        outcome,
        file if isinstance(file, str) else "",
        said if isinstance(said, str) else "",
    )
