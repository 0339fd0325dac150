"""The world of a case: a gate over a database, the people who operate it, and both clocks.

- Gate, audit log, ledger, operations, settings and the reading of documents are the real ones, put
  together as the sidecar does it. Only the clocks and the ids are a case's own.
- The wall's clock can be set; the other one only goes on, and begins anew with each process.
"""

import base64
import contextlib
import hmac
import itertools
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from authz import memory
from authz.core import call as calls
from authz.core import reply
from authz.core.action_token import ActionTokens
from authz.core.audit import AuditRow, change_row, row_of
from authz.core.audit_verify import Report
from authz.core.call import Call
from authz.core.case import Case as Judged
from authz.core.delegation import receipt
from authz.core.delegation.issue import Terms
from authz.core.delegation.relationship import Refused
from authz.core.delegation.walk import collect
from authz.core.errors import AuditUnavailable
from authz.core.finding import Finding
from authz.core.identity import TokenVerifier
from authz.core.ledger import Ledger
from authz.core.mode import Mode
from authz.core.outcome import Outcome
from authz.core.pending import NotPending
from authz.core.snapshot import Snapshot
from authz.core.stages import CHAIN
from authz.core.stages.stage import Stage
from authz.core.state import State
from authz.core.timestamps import rfc3339
from authz.core.verdict import Decision
from authz.core.wire_pb2 import CheckRequest, CheckResponse
from authz.gate import Gate
from authz.operations import NotPossible, Operations, Unknown
from authz.settings import Settings, read_jwks_file
from authz.stores import audit_check
from authz.stores.audit_key import default_key_file, public_file, public_key
from authz.stores.audit_log import AuditLog
from authz.stores.audit_maintenance import AuditMaintenance
from authz.stores.policies import load
from tests import builders, case_files, signers
from tests.builders import SECRET
from tests.case_files import Asked, Case, Delegation, Forged, Step

#: Who does what people do.
BY: Final = "ann"
#: How long agents' tokens are good for: no case takes longer, unless it says so.
TOKEN_S: Final = 30 * 86_400
#: Where the second clock of the first process begins, seconds, and of each that follows.
BOOTED: Final = 1000.0

_OTHER_SECRET: Final = "a secret of somebody else, long enough for every HMAC"
_PLACEHOLDER: Final = re.compile(r"\$\{([a-z]+)(?:\.([\w.-]+))?\}")
_TIME: Final = re.compile(r"now([+-][0-9]+)?")
_REFUSALS: Final = (AuditUnavailable, NotPending, NotPossible, Refused, Unknown, ValueError)


class _Key(NamedTuple):
    """Who signs hops."""

    kid: str
    sign: receipt.Sign


class Answered:
    """An answer, in one form wherever it was asked."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: Mapping[str, Any],
        metadata: Mapping[str, str],
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        #: What Envoy's access log sees.
        self.metadata = metadata
        self.decision_id = str(metadata.get("decision_id") or body.get("decisionId", ""))
        #: It is one of a batch, which does not tell the stage.
        self.is_item = "latencyMs" in body
        #: Of a call that is forwarded: headers that it gets, and those that it loses.
        self.upstream: Mapping[str, str] = {}
        self.removed: Sequence[str] = ()


def _broken(_: Judged) -> Finding:
    raise RuntimeError("a bug in a stage")


class World:
    """What a case happens in."""

    def __init__(self, path: Path, case: Case, mode: str = "") -> None:
        """`mode`: instead of the case's own."""
        self.path = path
        self._given = case.given
        self._database = path / "audit.db"
        self._policies = path / "policies"
        self._policies.mkdir()
        self.wall = case.given.clock
        #: When the tokens of agents were minted.
        self._minted = case.given.clock - 10
        self._monotonic_ns = 0
        self._ids = itertools.count(1)
        self._keys = {name: signers.Signer(name) for name in case.given.keys}
        self._stranger = signers.Signer("stranger")
        if self._keys:
            (path / "jwks.json").write_bytes(signers.jwks(*self._keys.values()))
        env = {
            "JWT_SECRET": SECRET,
            "PROXY_TARGET": "http://upstream.example",
            "POLICIES_DIR": str(self._policies),
            "AUDIT_DB_PATH": str(self._database),
            # Nobody listens there, and the paths of sockets are bounded.
            "AUTHZ_RUN_DIR": "/run/authz",
            **({"JWKS_FILE": str(path / "jwks.json")} if self._keys else {}),
            **case.given.settings,
            **({"MODE": mode} if mode else {}),
        }
        self._settings = Settings.from_env(env)
        self._mode = self._settings.mode
        self.snapshot = Snapshot(())
        self.use_documents(case.given.documents, bad=case.given.bad_documents)
        self._pending: dict[str, None] = {}
        self._relationships: dict[str, str] = {}
        self._action_token = ""
        self._lock: sqlite3.Connection | None = None
        self._processes = 0
        self._rows_seen = 0
        self._start()
        for name, agent in case.given.agents.items():
            self._create(name, agent)
        for name, terms in case.given.relationships.items():
            self._delegate(name, terms)
        self.new_rows()

    # The process.

    def _start(self) -> None:
        settings = self._settings
        self._monotonic_ns = int((BOOTED / (self._processes + 1)) * 1e9)
        self._processes += 1
        state = State()
        self.audit = AuditLog(
            self._database, monotonic=self._monotonic, ledger=state.ledger, now=lambda: self.wall
        )
        assert self.audit.open(), self.audit.failure
        offset = memory.steady_offset(self.audit, self.wall, self._monotonic())
        self._delegations = memory.Delegations(settings)
        self._action_tokens = memory.action_tokens(settings)
        keys = read_jwks_file(settings.jwks_file) if settings.jwks_file else None
        proxy = settings.proxy_authorization
        self.gate = Gate(
            snapshot=lambda: self.snapshot,
            tokens=TokenVerifier(SECRET, settings.agent_id, keys, state.agents),
            recorder=self.audit,
            environment=memory.environment(settings, state, self._delegations, self._action_tokens),
            mode=self._mode,
            now=lambda: self.wall,
            monotonic_ns=lambda: self._monotonic_ns,
            steady_offset=offset,
            new_id=self._new_id,
            proxy_authorization=proxy.get_secret_value() if proxy else "",
            allow_unrecorded=settings.audit_on_failure == "allow",
            chain=self._chain(),
        )
        self._steady = lambda: offset + self._monotonic()
        self.operations = Operations(
            state,
            self.audit,
            snapshot=lambda: self.snapshot,
            mode=lambda: self.gate.mode,
            now=lambda: self.wall,
            steady=self._steady,
            new_id=self._new_id,
            action_tokens=self._action_tokens,
            signer=self._delegations.signer,
            jwt_secret=SECRET,
            jwt_ttl_s=TOKEN_S,
        )
        self.operations.refresh()
        self._maintenance = AuditMaintenance(
            self.audit,
            self._database,
            key_file=default_key_file(self._database),
            retention_days=0,
            change=self._no_change,
            now=lambda: self.wall,
            monotonic=self._monotonic,
        )
        self._maintenance.tick()

    def _chain(self) -> Sequence[Stage]:
        if self._given.chain is None:
            return CHAIN
        stages = {stage.name: stage for stage in (*CHAIN, Stage("broken", _broken))}
        return [stages[name] for name in self._given.chain]

    def _stop(self) -> None:
        self.gate.close()
        self._maintenance.finish()
        self.audit.close()

    def close(self) -> None:
        """End the process, whatever has become of it."""
        self.unlock()
        self._stop()

    def restart(self) -> None:
        """End the process and begin another one, which knows what the database does."""
        self._mode = self.gate.mode
        self._stop()
        self._start()

    def remembered(self) -> dict[str, dict[str, Any]]:
        """Everything that outlives a call, by kind and key, as this process has it."""
        return _remembered(self.operations.state.ledger)

    def stored(self) -> dict[str, dict[str, Any]]:
        """The same as the database has it."""
        state = State()
        log = AuditLog(self._database, monotonic=lambda: 0.0, ledger=state.ledger)
        assert log.open(), log.failure
        with contextlib.closing(log):
            log.begin()
            log.cancel()
        return _remembered(state.ledger)

    def verified(self) -> Report:
        """What verifying the trail finds, once the process has ended."""
        key = public_key(public_file(default_key_file(self._database)))
        return audit_check.verify(self._database, {key.key_id: key.fits}, now=self.wall)

    def new_rows(self) -> list[dict[str, Any]]:
        """The rows that have come since this was asked last, oldest first."""
        with contextlib.closing(sqlite3.connect(self._database)) as connection:
            connection.row_factory = sqlite3.Row
            query = "SELECT * FROM audit WHERE seq > ? ORDER BY seq"
            rows = [dict(row) for row in connection.execute(query, (self._rows_seen,))]
        for row in rows:
            self._rows_seen = row["seq"]
            self._see(json.loads(row["metadata"] or "{}"))
        return rows

    # What happens.

    def happen(self, step: Step) -> str:
        """Do what is no call; why it was refused, or nothing."""
        try:
            self._happen(step)
        except _REFUSALS as refused:
            return str(refused)
        return ""

    def _happen(self, step: Step) -> None:
        operations = self.operations
        match step:
            case Step(create_agent=dict(agents)):
                for name, agent in agents.items():
                    self._create(name, agent)
            case Step(update_agent=case_files.Change() as change):
                said = {"tier": change.tier, "tags": change.tags}
                fields = {name: value for name, value in said.items() if value is not None}
                operations.update_agent(change.agent, fields, by=BY)
            case Step(revoke_agent=str(agent_id)):
                operations.revoke_agent(agent_id, by=BY, known=False)
            case Step(delegate=case_files.Named() as terms):
                self._delegate(terms.name, terms)
            case Step(revoke_relationship=str(name)):
                operations.revoke_relationship(self._relationships[name], by=BY)
            case (
                Step(approve=case_files.Answer() as answer)
                | Step(reject=case_files.Answer() as answer)
            ):
                answered = operations.answer(
                    self.filled(answer.pending),
                    approve=step.approve is not None,
                    approver=answer.approver,
                    by=BY,
                    words=answer.words,
                )
                if answered.state == "approved":
                    self._action_token = operations.action_token(answered).token
            case Step(reset_fuse=str(name)):
                operations.reset_fuse(self._relationships[name], by=BY)
            case Step(reset_wallet=case_files.Wallet() as wallet):
                operations.reset_wallet(wallet.wallet, wallet.agent, by=BY)
            case Step(advance=float(seconds)):
                self.wall += seconds
                self._monotonic_ns += int(seconds * 1e9)
            case Step(step_clock=float(seconds)):
                self.wall += seconds
            case Step(documents=str(documents)):
                self.use_documents(documents)
            case Step(mode=str(mode)):
                self.gate.mode = Mode(mode)
            case Step(restart=True):
                self.restart()
            case Step(store="locked"):
                self._lock = sqlite3.connect(self._database, isolation_level=None)
                self._lock.execute("BEGIN IMMEDIATE")
            case Step(store="free"):
                self.unlock()
            case _:
                raise AssertionError(f"nothing happens in a step like this: {step}")

    def unlock(self) -> None:
        """Give the database's lock back, if somebody holds it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def spent(self, wallet: str, agent: str) -> int:
        """What an agent has spent of a wallet by now."""
        found = [s for s in self.operations.wallets() if (s.wallet, s.agent_id) == (wallet, agent)]
        return found[0].spent if found else 0

    def use_documents(self, documents: str, *, bad: bool = False) -> None:
        """What is in POLICIES_DIR from now on."""
        file = self._policies / "case.yaml"
        if documents:
            file.write_text(documents, "utf-8")
        else:
            file.unlink(missing_ok=True)
        loaded = load(self._policies)
        assert bool(loaded.errors) is bad, [*map(str, loaded.errors)]
        self.snapshot = loaded.snapshot

    # What is asked.

    def ask(self, asked: Sequence[Asked]) -> list[Answered]:
        """Ask all of these at once."""
        if all(one.call.source == "proxy" for one in asked):
            raws = [self._check_request(one.call) for one in asked]
            return [self._read(raw) for raw in self.gate.check_all(raws)]
        outcomes = self.gate.batch([self._named(one.call) for one in asked])
        return [self._answered(outcome) for outcome in outcomes]

    def turned_away(self, count: int) -> list[Answered]:
        """Ask so many times when too many wait already."""
        return [self._read(self.gate.turn_away()) for _ in range(count)]

    def headers(self, call: case_files.Call) -> dict[str, str]:
        """The headers of a call, those that the test made up and those that agents send."""
        made = {
            name.lower(): self.forged(value) if isinstance(value, Forged) else self.filled(value)
            for name, value in call.headers.items()
        }
        if call.agent:
            made.setdefault("authorization", f"Bearer {self._token(call.agent, call.claims)}")
        if call.source in ("proxy", "check"):
            for name, value in (("action", call.action), ("resource", call.resource)):
                if value:
                    made[f"x-meshguard-{name}"] = value
        return made

    def _check_request(self, call: case_files.Call) -> bytes:
        if call.raw is not None:
            return bytes.fromhex(call.raw)
        request = CheckRequest()
        http = request.attributes.request.http
        http.method, http.path, http.host = call.method, call.path, call.host
        http.headers.update(self.headers(call))
        return request.SerializeToString()

    def _named(self, call: case_files.Call) -> Call:
        paths = {
            "check": ("GET", "/proxy/check"),
            "batch": ("POST", "/api/v1/governance/batch"),
            "mint": ("POST", "/api/v1/action-tokens"),
        }
        method, path = paths[call.source]
        made = calls.from_http(call.source, method, path, call.host, self.headers(call).get)
        if call.source == "check":
            return made
        defect = calls.defect_of_name("action", call.action) or made.defect
        return made._replace(action=call.action, resource=call.resource, defect=defect)

    def _read(self, raw: bytes) -> Answered:
        response = CheckResponse.FromString(raw)
        kind = response.WhichOneof("http_response")
        fields = response.dynamic_metadata.fields
        metadata = {name: value.string_value for name, value in fields.items()}
        if kind == "ok_response":
            ok = response.ok_response
            answered = Answered(200, _told(ok.response_headers_to_add), {}, metadata)
            answered.upstream, answered.removed = _told(ok.headers), list(ok.headers_to_remove)
            return answered
        refusal = getattr(response, kind or "")
        body = json.loads(refusal.body)
        self._see(body)
        return Answered(refusal.status.code, _told(refusal.headers), body, metadata)

    def _answered(self, outcome: Outcome) -> Answered:
        call, verdict = outcome.case.call, outcome.verdict
        if call.source == "batch":
            item = reply.batch_item(outcome)
            self._see(item)
            status = 200 if item["decision"] == "allow" else verdict.code.status
            return Answered(status, {}, item, {})
        if call.source == "mint" and verdict.decision is Decision.ALLOW:
            made = self.operations.mint_action(
                outcome.case.identity.agent_id,
                call.action,
                call.resource,
                outcome.case.snapshot.version,
                pending_id=json.loads(row_of(outcome).metadata or "{}").get("pendingId", ""),
            )
            self._action_token = made.token
        answer = reply.http_answer(outcome)
        self._see(answer.body)
        return Answered(answer.status, answer.headers, answer.body, {})

    def _see(self, body: Mapping[str, Any]) -> None:
        if "pendingId" in body:
            self._pending.pop(body["pendingId"], None)
            self._pending[body["pendingId"]] = None

    # What is made up.

    def filled(self, text: str) -> str:
        """A text with what exists only now."""
        return _PLACEHOLDER.sub(lambda found: self._value(found[1], found[2] or ""), text)

    def _value(self, kind: str, name: str) -> str:
        match kind, name:
            case "pending", "last":
                return next(reversed(self._pending))
            case "pending", "first":
                return next(iter(self._pending))
            case "relationship", _:
                return self._relationships[name]
            case "token", "last":
                return self._action_token
            case "version", "":
                return self.snapshot.version
        raise ValueError(f"nothing is called ${{{kind}.{name}}}")

    def forged(self, how: Forged) -> str:
        """A header's value, spoilt as it is told."""
        joint = ""
        if how.chain:
            text, joint = self._forged_chain(how), "~"
        elif how.action_token:
            text = self._forged_action_token(how)
        elif how.token:
            text = self._forged_token(how)
        else:
            text = self.filled(how.text)
        text = joint.join([text] * how.times)
        if how.cut:
            text = text[: -how.cut]
        if how.flip:
            at = len(text) - how.flip
            # A bit that counts also in a last character, whose others only fill up.
            text = text[:at] + _flipped(text[at]) + text[at + 1 :]
        return how.before + text + how.after

    def _token(self, agent_id: str, changed: Mapping[str, Any]) -> str:
        return builders.token(self._claims(agent_id, changed))

    def _claims(self, agent_id: str, changed: Mapping[str, Any]) -> dict[str, Any]:
        """What an agent's token says: what its record does, where it has one."""
        record = self.operations.state.agents.get(agent_id)
        said = {
            "iss": "meshguard",
            "sub": agent_id,
            "name": record.name if record is not None else None,
            "tier": record.tier if record is not None else "verified",
            "tags": list(record.tags) if record is not None and record.tags else None,
            "orgId": record.org_id if record is not None and record.org_id else None,
            "iat": self._minted,
            "exp": self._minted + TOKEN_S,
        }
        said |= {name: self._at(value) for name, value in changed.items()}
        return {name: value for name, value in said.items() if value is not None}

    def _forged_token(self, how: Forged) -> str:
        said = self._claims(how.token, how.claims)
        if how.signed in self._keys:
            return self._keys[how.signed].token(said, how.header)
        secret = SECRET if how.signed == "ours" else _OTHER_SECRET
        header = {"alg": "HS256", "typ": "JWT"} | how.header
        header = {name: value for name, value in header.items() if value is not None}
        return builders.token(said, header, secret=secret, digest=how.digest)

    def _forged_action_token(self, how: Forged) -> str:
        head, body, signature = self._action_token.split(".")
        said = _unpacked(body) | {name: self._at(value) for name, value in how.claims.items()}
        said = {name: value for name, value in said.items() if value is not None}
        header = _unpacked(head) | how.header
        header = {name: value for name, value in header.items() if value is not None}
        signed = f"{_packed(header)}.{_packed(said)}"
        if how.signed == "nobody":
            return f"{signed}.{signature}"
        tokens = self._action_tokens if how.signed == "ours" else ActionTokens(_OTHER_SECRET)
        mac = hmac.digest(tokens._key, signed.encode(), "sha256")
        return f"{signed}.{signers.base64url(mac)}"

    def _forged_chain(self, how: Forged) -> str:
        # As it was signed when it was made, whatever has ended since.
        found = collect(self._relationships[how.chain], self.operations.state.relationships.get)
        own = self._delegations.signer()
        signer = _Key(own.kid, own.sign)
        hops = [receipt.signed(hop, signer.sign, signer.kid) for hop in found]
        for number, changed in how.by_hop.items():
            hops[number - 1] = self._changed_hop(hops[number - 1], changed, how, signer)
        if how.header:
            hops = [self._changed_hop(hop, {}, how, signer) for hop in hops]
        if how.signed not in ("ours", "nobody"):
            stranger = _Key("stranger", self._stranger.sign)
            hops = [self._changed_hop(hop, {}, how, stranger) for hop in hops]
        order = how.hops or range(1, len(hops) + 1)
        return "~".join(hops[number - 1] for number in order)

    def _changed_hop(self, hop: str, changed: Mapping[str, Any], how: Forged, signer: _Key) -> str:
        _, body, signature = hop.split(".")
        said = _unpacked(body)
        for path, value in changed.items():
            *above, last = path.split(".")
            part = said
            for key in above:
                part = part[key]
            at = self._at(value)
            part[last] = rfc3339(at) if isinstance(at, float) else at
            if value is None:
                del part[last]
        header = {"alg": receipt.ALGORITHM, "kid": signer.kid, "typ": receipt.TYPE} | how.header
        signed = f"{_packed(header)}.{_packed(said)}"
        if how.signed == "nobody":
            return f"{signed}.{signature}"
        return f"{signed}.{signers.base64url(signer.sign(signed.encode()))}"

    def _at(self, value: Any) -> Any:
        """A claim: `now-60` is that time, and texts are filled."""
        if not isinstance(value, str):
            return value
        found = _TIME.fullmatch(value)
        if found is None:
            return self.filled(value)
        return self.wall + float(found[1] or 0)

    # Agents and relationships.

    def _create(self, agent_id: str, agent: case_files.Agent) -> None:
        self.operations.create_agent(
            by=BY,
            agent_id=agent_id,
            name=agent.name or agent_id,
            tier=agent.tier,
            tags=agent.tags,
            org_id=agent.org_id,
        )

    def _delegate(self, name: str, terms: Delegation) -> None:
        made = self.operations.delegate(
            Terms(
                target=terms.target,
                scope=terms.scope,
                expires_at=self.wall + terms.lasts,
                type=terms.type,
                resources=terms.resources,
                ceiling=terms.ceiling,
                max_depth=terms.max_depth,
                requires_approval=terms.requires_approval,
            ),
            terms.source,
            by=BY,
            parent=self._relationships[terms.parent] if terms.parent else "",
        )
        self._relationships[name] = made.id

    # The clocks and the ids.

    def _monotonic(self) -> float:
        return self._monotonic_ns / 1e9

    def _new_id(self) -> str:
        return f"{next(self._ids):032x}"

    def _no_change(self, action: str, resource: str, reason: str) -> AuditRow:
        return change_row(
            row_id=self._new_id(),
            at=self.wall,
            action=action,
            resource=resource,
            reason=reason,
            mode=self._mode,
            policy_version=self.snapshot.version,
        )


@contextlib.contextmanager
def world(path: Path, case: Case, mode: str = "") -> Iterator[World]:
    """A world that is closed afterwards."""
    made = World(path, case, mode)
    try:
        yield made
    finally:
        made.close()


def _remembered(ledger: Ledger) -> dict[str, dict[str, Any]]:
    tables = {kind: dict(table.entries) for kind, table in ledger._tables.items()}
    return {kind: entries for kind, entries in tables.items() if entries}


def _told(headers: Any) -> dict[str, str]:
    return {option.header.key: option.header.value for option in headers}


def _flipped(character: str) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    at = alphabet.find(character)
    return chr(ord(character) ^ 1) if at < 0 else alphabet[at ^ 32]


def _packed(said: Mapping[str, Any]) -> str:
    return signers.base64url(json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode())


def _unpacked(segment: str) -> dict[str, Any]:
    padded = segment + "=" * (-len(segment) % 4)
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(padded))
    return said
