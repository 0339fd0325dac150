"""docs/chain.md says what is so: every example of it is judged by the gate, on a real audit trail.

- A YAML block is a file of documents. It is good, and in force in the examples beneath it in its
  own section; the page's first one is in force in all of them.
- In an example `>` is a request, `<` its answer, `#` what people and time do. A sentence that no
  pattern in `World.happens` knows fails, and so does a block of another kind.
- `$name` in what is expected takes the value where there is none of that name yet.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import jsonschema
import pytest
import yaml

from authz import memory
from authz.core import call as calls
from authz.core import destructive, ledger, pending, provenance
from authz.core.chain_doc import CHAIN_KINDS, MAX_POINTS
from authz.core.delegation import fuse, receipt
from authz.core.delegation.issue import Terms
from authz.core.delegation.relationship import MAX_CHARACTERS, MAX_HOPS
from authz.core.errors import Code
from authz.core.identity import CLOCK_LEEWAY_S, Identity, TokenVerifier
from authz.core.ledger import Table
from authz.core.names import GOVERNANCE_PREFIX
from authz.core.policy_schema import json_schema
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.state import State
from authz.core.tiers import rank
from authz.core.verdict import Decision
from authz.core.window import SLOTS
from authz.core.wire_pb2 import CheckRequest, CheckResponse, DeniedHttpResponse
from authz.gate import Gate
from authz.operations import MAX_RELATIONSHIPS
from authz.settings import Settings, described, read_jwks_file
from authz.stores.audit_log import AuditLog, AuditReader
from authz.stores.policies import load_paths
from tests.builders import NOW, SECRET, bearer, claims
from tests.signers import Signer, jwks

PAGE: Final = Path(__file__).parents[1] / "docs/chain.md"
TEXT: Final = PAGE.read_text()
AUDIT: Final = (PAGE.parent / "audit.md").read_text()
#: The same without the places where lines end.
PROSE: Final = " ".join(TEXT.split())
ADMIN: Final = "an administrator"


class Block(NamedTuple):
    """A fenced block: where it begins, in which section, what its fence says, what is in it."""

    line: int
    section: str
    language: str
    text: str

    @property
    def file(self) -> str:
        """The name in its first line; empty where it has none."""
        named = re.match(r"# (\S+\.yaml)\n", self.text)
        return named[1] if named else ""

    def __str__(self) -> str:
        return f"line {self.line}"


def _blocks() -> Iterator[Block]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        headings = re.findall(r"^## (.+)$", TEXT[: match.start()], re.MULTILINE)
        line = TEXT.count("\n", 0, match.start()) + 1
        yield Block(line, headings[-1] if headings else "", match[1], match[2])


BLOCKS: Final = list(_blocks())
YAMLS: Final = [block for block in BLOCKS if block.language == "yaml"]
EXAMPLES: Final = [block for block in BLOCKS if block.language == "http"]
#: The text of each section by its heading.
SECTIONS: Final = {
    heading: text for heading, _, text in (part.partition("\n") for part in TEXT.split("\n## "))
}
STAGES: Final = [stage.name for stage in CHAIN]


def _table(heading: str, page: str = TEXT) -> list[list[str]]:
    """The cells of the table whose first column has this heading, row by row."""
    table = page[page.index(f"\n| {heading} |") + 1 :].partition("\n\n")[0]
    rows = [row.strip("|").split("|") for row in table.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def _in_code(text: str) -> list[str]:
    """What stands in code in a text, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```$", "", text))


#: What docs/audit.md knows of a row's metadata.
NOTED: Final = {name for row in _table("In `metadata`", AUDIT) for name in _in_code(row[0])}


class Known(NamedTuple):
    """An agent of the page's table."""

    identity: Identity
    claims: dict[str, object]
    key: Signer | None

    @property
    def authorization(self) -> str:
        """Its token, as the header carries it."""
        if self.key is None:
            return bearer(**self.claims)
        return f"Bearer {self.key.token(claims(**self.claims))}"


def _known(row: list[str]) -> Known:
    agent_id, tier, tag, signed = (_in_code(cell) or [cell] for cell in row)
    rung = rank(tier[0])
    assert rung is not None
    tags = frozenset(tag)
    return Known(
        Identity(agent_id[0], "", tier[0], rung, tags, "acme", rung),
        {"sub": agent_id[0], "tier": tier[0], "tags": sorted(tags), "orgId": "acme"},
        None if signed == ["JWT_SECRET"] else Signer(signed[0]),
    )


AGENTS: Final = {agent.identity.agent_id: agent for agent in map(_known, _table("Agent"))}


def _snapshot(example: Block, directory: Path) -> Snapshot:
    """The documents that are in force in an example."""
    above = BLOCKS[: BLOCKS.index(example)]
    files = [YAMLS[0], *(b for b in above if b in YAMLS[1:] and b.section == example.section)]
    for block in files:
        (directory / block.file).write_text(block.text)
    loaded = load_paths([directory])
    assert list(loaded.problems) == []
    return loaded.snapshot


class World:
    """A sidecar that time and people do things to."""

    def __init__(self, directory: Path, snapshot: Snapshot, variables: Mapping[str, str]) -> None:
        files = {name: str(directory / value) for name, value in variables.items() if "." in value}
        self.keys_file = directory / "keys.json"
        self.keys_file.write_bytes(jwks(*(a.key for a in AGENTS.values() if a.key)))
        self.directory = directory
        self.variables = {**variables, **files}
        self.settings = Settings.from_env(
            {
                "JWT_SECRET": SECRET,
                "AUDIT_DB_PATH": str(directory / "audit.db"),
                "PROXY_TARGET": "https://upstream.example",
                **self.variables,
            }
        )
        self.snapshot = snapshot
        self.now = NOW
        #: What `$name` stands for.
        self.names: dict[str, str] = {}
        #: The stages that decided.
        self.stages: set[str] = set()
        self._audits: list[AuditLog] = []
        self._request = CheckRequest()
        self._answer: CheckResponse | None = None
        self.begins()

    def begins(self) -> None:
        """A process begins; nothing is known but what is in the file."""
        state = State()
        audit = AuditLog(
            self.settings.audit_db_path, monotonic=lambda: self.now - NOW, ledger=state.ledger
        )
        assert audit.open(), audit.failure
        self._audits.append(audit)
        delegations = memory.Delegations(self.settings)
        action_tokens = memory.action_tokens(self.settings)
        offset = memory.steady_offset(audit, self.now, self.now - NOW)
        keys = read_jwks_file(self.settings.jwks_file) if self.settings.jwks_file else None
        self.tokens = TokenVerifier(SECRET, "", keys, state.agents)
        self.operations = memory.operations(
            self.settings,
            state,
            audit,
            delegations,
            action_tokens,
            snapshot=lambda: self.snapshot,
            mode=lambda: self.settings.mode,
            now=lambda: self.now,
            steady=lambda: offset + self.now - NOW,
        )
        ids = iter(range(1000))
        self.gate = Gate(
            snapshot=lambda: self.snapshot,
            tokens=self.tokens,
            recorder=audit,
            environment=memory.environment(self.settings, state, delegations, action_tokens),
            mode=self.settings.mode,
            now=lambda: self.now,
            monotonic_ns=lambda: int((self.now - NOW) * 1e9),
            steady_offset=offset,
            new_id=lambda: f"decision-{next(ids)}",
        )

    def ends(self) -> None:
        """Close what was opened."""
        for audit in self._audits:
            audit.close()

    def asks(self, said: str) -> None:
        """A line of a request."""
        first = re.fullmatch(r"([A-Z]+) (/\S*) as (\w+)", said)
        if first:
            self._request, self._answer = CheckRequest(), None
            http = self._request.attributes.request.http
            http.method, http.path, http.host = first[1], first[2], "upstream.example"
            http.headers["authorization"] = AGENTS[first[3]].authorization
            return
        http = self._request.attributes.request.http
        name, _, value = said.partition(": ")
        if name == "Host":
            http.host = value
        else:
            http.headers[name.lower()] = self._filled(value)

    def is_answered(self, said: str) -> None:
        """A line of an answer."""
        answer = self._answered()
        is_denied = answer.HasField("denied_response")
        denied = answer.denied_response
        if re.match(r"\d{3} ", said):
            status = denied.status.code if is_denied else 200
            assert said == f"{status} {answer.dynamic_metadata.fields['code'].string_value}"
        elif said.startswith("{"):
            assert is_denied
            self._has(json.loads(denied.body), json.loads(said))
        else:
            name, _, value = said.partition(": ")
            assert _headers(answer, denied)[name.lower()] == value

    def happens(self, said: str) -> None:
        """Something that people or time do."""
        operations = self.operations
        doings: Mapping[str, Callable[..., object]] = {
            # Before anything else, by `_variables`.
            r"with [A-Z_]+=\S+": lambda: None,
            r"its row: (.+)": self._recorded,
            r"the same again": self._again,
            r"the same (\d) times more": self._again,
            r"(\d+) seconds later": self._later,
            r"the sidecar is killed and started again": self.begins,
            r"(\S+) is taken out of keys\.json": self._without_key,
            r"an administrator revokes (\w+)": lambda agent: operations.revoke_agent(
                agent, by=ADMIN, known=False
            ),
            r"in another process, an administrator revokes (\w+)": self._revoked_elsewhere,
            r"an administrator registers (\w+), as its token says but for tier (\w+)": (
                self._registered
            ),
            r"(\w+) delegates (\S+) to (\w+), as \$(\w+)": self._delegated,
            r"(\w+) revokes \$(\w+)": lambda agent, name: operations.revoke_relationship(
                self.names[name], by=agent, source=agent
            ),
            r"(\w+) approves \$(\w+)": lambda who, name: operations.answer(
                self.names[name], approve=True, approver=who, by=ADMIN
            ),
            r"(\w+) asks for an action token for (\S+) on (\S+), and gets \$(\w+)": self._minted,
        }
        for pattern, does in doings.items():
            found = re.fullmatch(pattern, said)
            if found:
                does(*found.groups())
                return
        pytest.fail(f"nobody knows how to do this: {said}")

    def _answered(self) -> CheckResponse:
        if self._answer is None:
            raw = self.gate.check(self._request.SerializeToString())
            self._answer = CheckResponse.FromString(raw)
            self.stages.add(self._row().get("stage", ""))
        return self._answer

    def _row(self) -> dict[str, Any]:
        [row] = AuditReader(self.settings.audit_db_path).tail(1)
        return row

    def _recorded(self, said: str) -> None:
        self._has(self._row(), json.loads(said))

    def _again(self, times: str = "1") -> None:
        code = self._row()["code"]
        for _ in range(int(times)):
            self._answer = None
            self._answered()
            assert self._row()["code"] == code

    def _later(self, seconds: str) -> None:
        self.now += int(seconds)

    def _without_key(self, kid: str) -> None:
        assert any(agent.key and agent.key.kid == kid for agent in AGENTS.values())
        self.keys_file.write_bytes(jwks(Signer("another")))
        self.tokens.use_keys(read_jwks_file(self.keys_file))

    def _revoked_elsewhere(self, agent: str) -> None:
        other = World(self.directory, self.snapshot, self.variables)
        with contextlib.closing(_Closing(other)):
            other.operations.revoke_agent(agent, by=ADMIN, known=False)

    def _registered(self, agent: str, tier: str) -> None:
        known = AGENTS[agent].identity
        self.operations.create_agent(
            by=ADMIN,
            agent_id=agent,
            name=agent,
            tier=tier,
            tags=sorted(known.tags),
            org_id=known.org_id,
        )

    def _delegated(self, source: str, scope: str, target: str, name: str) -> None:
        made = self.operations.delegate(
            Terms(target, [scope], self.now + 3600),
            source,
            by=source,
            asking=AGENTS[source].identity,
        )
        self.names[name] = made.id

    def _minted(self, agent: str, action: str, resource: str, name: str) -> None:
        """As the HTTP API does it: for what the whole chain allows."""
        headers = {"authorization": AGENTS[agent].authorization}
        call = calls.from_http("mint", "POST", "/api/v1/action-tokens", "", headers.get)
        [outcome] = self.gate.batch([call._replace(action=action, resource=resource)])
        assert outcome.verdict.decision is Decision.ALLOW
        version = self.snapshot.version
        self.names[name] = self.operations.mint_action(agent, action, resource, version).token

    def _filled(self, value: str) -> str:
        return self.names[value[1:]] if value.startswith("$") else value

    def _has(self, found: Any, expected: Any) -> None:
        """Whether everything that is expected is there."""
        if isinstance(expected, dict):
            for name, value in expected.items():
                assert name in found, f"{name} is not in {found}"
                self._has(found[name], value)
        elif isinstance(expected, str) and expected.startswith("$"):
            assert found == self.names.setdefault(expected[1:], found)
        else:
            assert found == expected


class _Closing:
    def __init__(self, world: World) -> None:
        self.close = world.ends


def _headers(answer: CheckResponse, denied: DeniedHttpResponse) -> dict[str, str]:
    options = [*answer.ok_response.response_headers_to_add, *denied.headers]
    return {option.header.key: option.header.value for option in options}


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert TEXT.count("```") == 2 * len(BLOCKS)
    assert sorted(BLOCKS) == sorted([*YAMLS, *EXAMPLES])
    assert len({block.file for block in YAMLS} - {""}) == len(YAMLS)
    for block in YAMLS[1:]:
        below = BLOCKS[BLOCKS.index(block) + 1 :]
        assert any(b in EXAMPLES and b.section == block.section for b in below), block


@pytest.mark.parametrize("block", YAMLS, ids=str)
def test_editors_take_its_documents_too(block: Block) -> None:
    schema = jsonschema.Draft202012Validator(json_schema())
    assert all(map(schema.is_valid, yaml.safe_load_all(block.text)))


def _play(example: Block, directory: Path) -> set[str]:
    """Run an example, and return the stages that decided in it."""
    variables = dict(re.findall(r"^# with ([A-Z_]+)=(\S+)$", example.text, re.MULTILINE))
    documents = directory / "documents"
    documents.mkdir()
    world = World(directory, _snapshot(example, documents), variables)
    does = {">": world.asks, "<": world.is_answered, "#": world.happens}
    with contextlib.closing(_Closing(world)):
        for number, line in enumerate(example.text.splitlines(), example.line + 1):
            sign, _, said = line.partition(" ")
            try:
                does[sign](said)
            except (AssertionError, KeyError) as error:
                pytest.fail(f"{PAGE.name}:{number}: {line}\n{error}")
        for row in AuditReader(world.settings.audit_db_path).tail(1000):
            assert set(row.get("metadata", ())) <= NOTED
            assert row["source"] != "control" or f"`{row['action']}`" in AUDIT
    return world.stages


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_goes_as_it_is_shown(example: Block, tmp_path: Path) -> None:
    stages = _play(example, tmp_path)
    if example.section in STAGES:
        assert stages <= {"policy", example.section}


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_decides_in_its_own_example(stage: str, tmp_path: Path) -> None:
    last = [example for example in EXAMPLES if example.section == stage][-1]
    assert stage in _play(last, tmp_path)


# What it names.

#: Where codes are explained: the first letters of those of each stage, and those of none.
HOME: Final = {
    "auth": ("token_", "agent_revoked"),
    "delegation-fuse": ("delegat", "fuse_open"),
    "intent": ("intent_",),
    "action-token": ("action_token_",),
    "policy": ("rule_", "default_", "no_policy", "approv", "pending_"),
    "destructive-gate": ("cooling_off",),
    "rate-limit": ("rate_limited",),
    "privilege": ("insufficient_trust_tier",),
    "provenance-gate": ("provenance_",),
    "risk-wallet": ("wallet_", "cost_"),
    "How a request runs through it": (
        "malformed", "internal", "unfinished", "overloaded", "audit_unavailable", "circuit_open",
        "bypassed", "changed", "reported", "admin_refused",
    ),
}  # fmt: skip


@pytest.mark.parametrize("section", HOME)
def test_each_code_is_in_the_section_of_its_stage_and_in_no_other(section: str) -> None:
    links = re.findall(r"\[(\w+)\]\(codes\.md#(\w+)\)", SECTIONS[section])
    assert [name for name, anchor in links if name != anchor] == []
    assert sorted(name for name, _ in links) == sorted(
        code for code in Code if code.startswith(HOME[section])
    )


def test_no_code_is_left_out_and_none_linked_elsewhere() -> None:
    assert len(re.findall(r"\(codes\.md#", TEXT)) == len(Code)


def test_its_stages_are_the_chains_and_in_that_order() -> None:
    assert [heading for heading in SECTIONS if heading in STAGES] == STAGES
    assert [re.findall(r"\[(.*?)\]\(#(.*?)\)", row[0]) for row in _table("Stage")] == [
        [(stage, stage)] for stage in STAGES
    ]
    for stage in STAGES:
        parts = re.findall(r"^\*\*(.*?)\.?\*\*", SECTIONS[stage], re.MULTILINE)
        assert parts == ["Question", "Reads", "Configured by", "Codes"], stage


def test_every_variable_that_it_names_exists() -> None:
    named = {name for name in _in_code(TEXT) if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", name)}
    assert len(named) > 5
    assert named <= {variable.name for variable in described()}


def test_every_header_that_it_names_is_read_or_written() -> None:
    named = {name.lower() for name in re.findall(r"X-MeshGuard-[A-Za-z-]+", TEXT)}
    answers = {"x-meshguard-wallet-remaining"}
    assert named <= {*calls.GOVERNANCE_HEADERS, *answers}
    table = [f"X-MeshGuard{name}" for row in _table("Header") for name in _in_code(row[0])
             if name.startswith("-")]  # fmt: skip
    table += [name for row in _table("Header") for name in _in_code(row[0])]
    ours = {name.lower() for name in table if name.lower().startswith(GOVERNANCE_PREFIX)}
    # A trace id and the upstream's credential are passed on, and nothing is decided by them; the
    # key is where some SDKs put the token.
    others = {
        "x-meshguard-api-key",
        "x-meshguard-trace-id",
        "x-meshguard-upstream-authorization",
    }
    assert ours == {*calls.GOVERNANCE_HEADERS} - others


def test_every_kind_of_document_has_its_section() -> None:
    kinds = re.findall(r"^kind: (\w+)$", "".join(block.text for block in YAMLS), re.MULTILINE)
    # Which alerts go where is no stage's, and has a page of its own.
    assert set(kinds) == set(CHAIN_KINDS) - {"AlertRoute"}
    assert "alerts.md#alertroute-documents" in TEXT


def test_it_names_every_kind_that_the_ledger_keeps() -> None:
    kept = [table.kind for table in vars(State()).values() if isinstance(table, Table)]
    assert [name for row in _table("Kind") for name in _in_code(row[0])] == kept


def test_it_names_everything_that_is_destructive_and_what_that_waits_for() -> None:
    shown = {name: row[2] for row in _table("Name") for name in _in_code(row[0])}
    assert shown == {
        kind.id: "person" if kind.needs_person else f"{kind.cooling_s} s"
        for kind in destructive.PATTERNS
    }
    for row in _table("Name"):
        for word in _in_code(row[1]):
            assert any(word.rstrip("_") in k.pattern.pattern for k in destructive.PATTERNS), word


def test_its_bounds_are_those_of_the_code() -> None:
    assert {what: most for what, most, _ in _table("What")} == {
        "entries of one kind": str(ledger.MAX_ENTRIES),
        "pending actions of one agent": str(pending.MAX_PER_AGENT),
        "relationships that one agent gives": str(MAX_RELATIONSHIPS),
        "characters of one's scope, resources and ceiling together": str(MAX_CHARACTERS),
        "hops of a delegation": str(MAX_HOPS),
        "points of a wallet, and of a cost": str(MAX_POINTS),
        "influences of one request": str(provenance.MAX_INFLUENCES),
    }


@pytest.mark.parametrize(
    "said",
    [
        f"`nbf` and `iat` have {CLOCK_LEEWAY_S} seconds",
        f"a signed chain of at most {receipt.MAX_CHAIN} characters",
        f"At most {MAX_HOPS} hops",
        f"failures of a delegation within {fuse.WINDOW_S} seconds open its fuse: for {fuse.OPEN_S}",
        f"The window slides in {SLOTS} steps",
        f"of an agent at most {pending.MAX_PER_AGENT} are kept",
    ],
)
def test_its_numbers_are_those_of_the_code(said: str) -> None:
    assert said in PROSE


def test_no_line_is_too_long_to_read() -> None:
    assert [line for line in TEXT.splitlines() if len(line) > 110] == []
