"""One corpus of CheckRequests, and gates that answer each of them alike, however often one asks."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from authz.core.call import MAX_META, MAX_NAME
from authz.core.mode import Mode
from authz.core.policy_doc import PolicyDoc
from authz.core.wire_pb2 import CheckRequest
from authz.gate import Gate
from tests.builders import (
    EVERYONE,
    NOW,
    MemoryRecorder,
    bearer,
    check_request,
    claims,
    gate,
    policy,
    snapshot,
    token,
)

_DRY_RUN = PolicyDoc.model_validate(
    {
        "name": "on-trial",
        "version": "1",
        "enforcement": "dry_run",
        "appliesTo": dict(EVERYONE),
        "rules": [{"name": "no-trial", "effect": "deny", "actions": ["read:trial/*"]}],
        "defaultEffect": "allow",
    }
)
_GUARDED = PolicyDoc.model_validate(
    {
        "name": "admins",
        "version": "1",
        "appliesTo": {"tags": ["admin"]},
        "rules": [{"effect": "allow", "actions": ["admin:*"], "requiredTrustTier": "privileged"}],
        "defaultEffect": "allow",
    }
)
POLICIES: Final = snapshot(
    policy(
        "readers",
        [
            ("deny", "read:secret/*"),
            ("require_approval", "write:production/*"),
            ("allow", "read:*"),
            ("allow", "write:notes/*"),
            ("allow", "execute:*"),
        ],
    ),
    _DRY_RUN,
    _GUARDED,
)
OPERATORS: Final = "Bearer the-operators-own-key"


class Case(NamedTuple):
    """A request, and the gate that it is asked of."""

    name: str
    raw: bytes
    mode: Mode = Mode.ENFORCE
    #: PROXY_AUTHORIZATION
    proxy_authorization: str = ""

    def gate(self, recorder: MemoryRecorder) -> Gate:
        """A gate that has decided nothing yet."""
        return gate_of(self.mode, self.proxy_authorization, recorder)


def gate_of(mode: Mode, proxy_authorization: str, recorder: MemoryRecorder) -> Gate:
    """A gate at a time that stands still, whose ids count up from 1."""
    return gate(POLICIES, recorder, mode=mode, proxy_authorization=proxy_authorization)


def _bearing(authorization: str, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return check_request(headers={"authorization": authorization} | named)


def _tokens() -> Iterator[tuple[str, bytes]]:
    """Every way in which a caller can fail to say who it is."""
    yield "no token", check_request(headers={})
    yield "an empty credential", _bearing("")
    yield "another scheme", _bearing("Basic dXNlcjpwYXNz")
    yield "a scheme and nothing", _bearing("Bearer ")
    yield "no jwt", _bearing("Bearer sk-some-vendors-key")
    yield "three segments of nothing", _bearing("Bearer a.b.c")
    yield "an endless token", _bearing("Bearer " + "a" * 40_000)
    yield "another's signature", _bearing("Bearer " + token(claims(), secret="x" * 40))
    yield "no algorithm", _bearing("Bearer " + token(claims(), {"alg": "none"}))
    yield (
        "another algorithm",
        _bearing("Bearer " + token(claims(), {"alg": "HS512"}, digest="sha512")),
    )
    yield "another typ", _bearing("Bearer " + token(claims(), {"alg": "HS256", "typ": "refresh"}))
    yield "claims that are no json", _bearing("Bearer " + token(b"{"))
    yield "claims that are a list", _bearing("Bearer " + token(b"[]"))
    changes: dict[str, dict[str, object]] = {
        "expired": {"exp": NOW - 1},
        "expiring now": {"exp": NOW},
        "without exp": {"exp": None},
        "exp is no time": {"exp": "tomorrow"},
        "not yet valid": {"nbf": NOW + 600},
        "issued in the future": {"iat": NOW + 600},
        "another issuer": {"iss": "somebody"},
        "nobody": {"sub": None},
        "an endless name": {"sub": "x" * 5000},
        "an unprintable name": {"sub": "a\nb"},
        "an unknown tier": {"tier": "emperor"},
        "tags are no list": {"tags": "code"},
    }
    for name, changed in changes.items():
        yield f"a token {name}", _bearing(bearer(**changed))
    yield "a tier by its alias", _bearing(bearer(tier="standard"))
    yield "an agent of any script", _bearing(bearer(sub="агент-\N{SNOWMAN}", name="Ä"))


_PATHS: Final = (
    "/proxy/", "/proxy", "/", "x", "*", "/proxy/a?q=secret#f", "/proxy/a#b?c", "/proxy/secret/x",
    "/proxy/trial/x", "/proxy/caf%C3%A9", "/proxy/café", "/proxy/%ff%fe", "/proxy/a%2fb",
    "/proxy/a%5Cb", "/proxy/a\\b", "/proxy/a;b=c/d", "/proxy/a//b", "/proxy//a", "/proxy/../a",
    "/proxy/./a", "/proxy/a/..", "/proxy/100%", "/proxy/%zz", "/proxy/%00", "/proxy/a\nb",
    "/proxy/%E2%80%AEx", "/proxy/" + "a" * (MAX_NAME - 7), "/proxy/" + "a" * MAX_NAME,
    "/proxy/" + "%41" * 2000, "/proxy/\N{GRINNING FACE}", "/proxy/a%20b c", "/proxy/" + "/a" * 300,
)  # fmt: skip


def _requests() -> Iterator[tuple[str, bytes]]:
    """What is asked: allowed, denied, odd and unreadable."""
    yield "an allowed read", check_request()
    yield "a denied read", check_request(path="/proxy/secret/x")
    yield "denied by default", check_request("DELETE")
    yield "approval required", check_request("POST", "/proxy/production/x")
    yield "a tier too low", _bearing(bearer(tags=["admin"]), x_meshguard_action="admin:x")
    admin = bearer(tags=["admin"], tier="privileged")
    yield "a tier high enough", _bearing(admin, x_meshguard_action="admin:x")
    yield "only a dry run denies", check_request(path="/proxy/trial/x")
    for method in ("HEAD", "OPTIONS", "PUT", "PATCH", "get", "PURGE", "M" * 40, "Ü"):
        yield f"method {method}", check_request(method, "/proxy/notes/x")
    for path in _PATHS:
        yield f"path {path[:30]} {len(path)}", check_request(path=path)
    yield "another's credential", _bearing("Bearer sk-vendor", x_meshguard_action="read:x")
    headers = {
        "x-meshguard-action": ("read:x", " read:x ", "réad:x", "read:secret/y", "r" * 9000, "a\tb"),
        "x-meshguard-resource": ("doc", "документ", "a\x00b", "r" * 9000),
        "x-meshguard-trace-id": ("t-1", "t" * 128, "t" * 129, "tr\xe4ce", " t ", "100%", '"'),
        "x-trace-id": ("t-2",),
        "x-meshguard-agent-id": ("agent-9", "a" * 300, "агент"),
        "x-meshguard-meta": ('{"a": 1}', "{", '{"a": 1e999}', "[" * 2000, "x" * (MAX_META + 2)),
        "x-meshguard-upstream-authorization": ("Bearer own-key", "", "k" * 4000),
        "x-meshguard-unheard-of": ("1",),
        "x-admin-token": ("an admin's",),
    }
    for name, values in headers.items():
        for value in values:
            given = {"authorization": bearer(), name: value}
            yield f"{name}: {value[:20]!r} {len(value)}", check_request(headers=given)
    everything = {name: values[0] for name, values in headers.items()}
    yield "every governed header", check_request(headers={"authorization": bearer()} | everything)
    huge = {f"x-header-{number}": "v" * 1000 for number in range(60)}
    yield "60 KiB of headers", check_request(headers={"authorization": bearer()} | huge)
    many = {f"x-{number}": "" for number in range(2000)}
    yield "two thousand headers", check_request(headers={"authorization": bearer()} | many)
    yield from _broken()


def _broken() -> Iterator[tuple[str, bytes]]:
    """What is no CheckRequest, or not all of one."""
    whole = check_request()
    yield "nothing", b""
    yield "no protobuf", b"\xff" * 20
    yield "text", b"GET /proxy/doc HTTP/1.1\r\n\r\n"
    for cut in (1, 2, 5, len(whole) // 2, len(whole) - 1):
        yield f"cut off after {cut}", whole[:cut]
    yield "twice", whole + whole
    yield "with an unknown field", whole + b"\xfa\x3f\x03abc"
    yield "a string that is no utf-8", whole.replace(b"upstream.example", b"upstream\xff\xffxample")
    for missing in ("method", "path", "host"):
        request = CheckRequest.FromString(whole)
        request.attributes.request.http.ClearField(missing)
        yield f"without {missing}", request.SerializeToString()
    request = CheckRequest()
    request.attributes.source.principal = "spiffe://agent"
    yield "only a peer", request.SerializeToString()
    request = CheckRequest.FromString(whole)
    request.attributes.request.http.raw_body = bytes(range(256)) * 200
    request.attributes.context_extensions["key"] = "value"
    yield "with a body", request.SerializeToString()


REQUESTS: Final = dict([*_tokens(), *_requests()])
#: Each mode, and each mode with PROXY_AUTHORIZATION.
GATES: Final = [(mode, key) for mode in Mode for key in ("", OPERATORS)]
CASES: Final = [
    Case(f"{name}, {mode}{', credential' if key else ''}", raw, mode, key)
    for mode, key in GATES
    for name, raw in REQUESTS.items()
]
