"""What two processes make of the same settings: keys, chains and what they know of each other."""

import json
import time
from pathlib import Path
from typing import Final

import pytest

from authz import memory
from authz.core.delegation.issue import Terms
from authz.core.delegation.relationship import Refused
from authz.core.errors import Code
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.state import State
from authz.memory import Delegations
from authz.operations import NotPossible, Operations
from authz.settings import Settings
from authz.stores.audit_log import AuditLog
from tests.builders import SECRET

DAY_S: Final = 86_400


def settings(directory: Path, **env: str) -> Settings:
    path = str(directory / "audit.db")
    return Settings.from_env({"JWT_SECRET": SECRET, "AUDIT_DB_PATH": path} | env)


class Process:
    """One of several that work on the same records; its clock can be set."""

    def __init__(self, directory: Path, **env: str) -> None:
        read = settings(directory, **env)
        self.late_s = 0.0
        self.delegations = Delegations(read)
        state = State()
        audit = AuditLog(read.audit_db_path, monotonic=time.monotonic, ledger=state.ledger)
        assert audit.open(), audit.failure
        self.operations: Operations = memory.operations(
            read,
            state,
            audit,
            self.delegations,
            memory.action_tokens(read),
            snapshot=lambda: Snapshot(()),
            mode=lambda: Mode.ENFORCE,
            now=lambda: time.time() + self.late_s,
            steady=lambda: time.time() + self.late_s,
        )

    def delegated(self, source: str = "a", target: str = "b") -> str:
        """The id of a new delegation for a day."""
        known = self.operations.state.agents
        for agent_id in (source, target):
            if known.get(agent_id) is None:
                self.operations.create_agent(by="t", agent_id=agent_id, name=agent_id)
        terms = Terms(target, ["read:*"], time.time() + self.late_s + DAY_S)
        return self.operations.delegate(terms, source, by="t").id

    def chain(self, relationship_id: str) -> str:
        return self.operations.chain(self.operations.relationship(relationship_id))


def test_a_key_that_another_process_made_is_trusted_as_soon_as_a_chain_names_it(
    tmp_path: Path,
) -> None:
    sidecar, command = Process(tmp_path), Process(tmp_path)
    chain = command.chain(command.delegated())
    [hop] = sidecar.delegations.chains.read(chain)
    assert (hop.source, hop.target) == ("a", "b")
    stranger = Process(tmp_path / "other")
    with pytest.raises(Refused) as refused:
        sidecar.delegations.chains.read(stranger.chain(stranger.delegated()))
    assert refused.value.code is Code.DELEGATION_BAD_SIGNATURE


def test_the_key_that_is_printed_is_what_another_sidecar_trusts(tmp_path: Path) -> None:
    here = Process(tmp_path / "here")
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps(here.delegations.signer().jwks()))
    there = Process(tmp_path / "there", DELEGATION_JWKS_FILE=str(file))
    [hop] = there.delegations.chains.read(here.chain(here.delegated()))
    assert hop.source == "a"
    assert there.delegations.chains.read(there.chain(there.delegated()))


def test_a_key_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    read = settings(tmp_path, DELEGATION_KEY_FILE=str(tmp_path / "k.key"))
    (tmp_path / "k.key").mkdir()
    with pytest.raises(NotPossible, match=r"^DELEGATION_KEY_FILE: .*k\.key: cannot be read"):
        Delegations(read).signer()
    (tmp_path / "k.pub").mkdir()
    with pytest.raises(ValueError, match=r"^DELEGATION_KEY_FILE: .*k\.pub: cannot be read"):
        Delegations(read)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("hop", Code.DELEGATION_REVOKED),
        ("source", Code.DELEGATION_REVOKED),
        ("target", Code.DELEGATION_REVOKED),
        ("time", Code.DELEGATION_EXPIRED),
    ],
)
def test_no_chain_is_signed_of_what_has_ended(tmp_path: Path, ending: str, code: Code) -> None:
    process = Process(tmp_path)
    made = process.delegated()
    assert process.chain(made)
    match ending:
        case "hop":
            process.operations.revoke_relationship(made, by="t")
        case "time":
            process.late_s = DAY_S
        case agent:
            process.operations.revoke_agent({"source": "a", "target": "b"}[agent], by="t")
    with pytest.raises(Refused) as refused:
        process.chain(made)
    assert refused.value.code is code
    assert made in refused.value.reason
