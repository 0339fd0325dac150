"""What the agent asks for: CheckRequest bytes, or an HTTP request to us, to a `Call`.

- Reading never fails. What cannot be judged becomes a `Call` whose `defect` says why; the verdict
  turns that into 400 in enforce mode, and audit mode can still forward it.
- The agent may name its action and resource in headers; otherwise both come from what the wire
  shows, method and path (CONTRACT §1.2). The path is percent-decoded exactly once, and every
  spelling that an upstream could read as another path than the policy saw is a defect.
- Paths lose their query string here, so that nothing later can record it.
- By the forward proxy and by capture every host is in reach, so what is judged there is what the
  wire shows, host first; the agent does not get to name it. A plain request is two actions: that
  the host is reached, as by a tunnel, and what is done there. `read:*` was written of PROXY_TARGET
  and opens no host, nor does a `*` that was meant for hosts and that a path fits.
- `Authorization` is the upstream's there, and `Proxy-Authorization` says who asks.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from google.protobuf.message import DecodeError

from authz.core.destination import Destination, destination
from authz.core.issued import mentions_ours, of_proxy
from authz.core.names import (
    ADMIN_HEADER,
    API_KEY_HEADER,
    GOVERNANCE_PREFIX,
    OUR_API_KEY_HEADER,
    PROXY_AUTHORIZATION_HEADER,
    PROXY_PREFIX,
    VIA,
)
from authz.core.sources import OUTWARD, Source
from authz.core.text import visible
from authz.core.tracing import TRACEPARENT, TRACESTATE, Parent, parent_of
from authz.core.wire_pb2 import CheckRequest

Lookup = Callable[[str, str], str]

#: Longest action or resource, characters. A derived action holds a URL's path, and 8 KiB is what
#: servers commonly accept of one; the row stays bounded.
MAX_NAME: Final = 8192
#: Longest trace id that is echoed; a UUID has 36 characters, W3C trace ids 32.
MAX_TRACE_ID: Final = 128
#: Longest host and claimed agent id that are recorded, characters (a DNS name has at most 253).
MAX_LABEL: Final = 256
#: Longest `X-MeshGuard-Meta` that conditions read, characters; one more is kept, to tell.
MAX_META: Final = 8192
#: Longest delegation, action token, pending id, provenance and cost that are read, characters: a
#: signed chain or a token with an action and a resource of 8 KiB is the longest. One more is kept,
#: to tell.
MAX_GOVERNANCE: Final = 24 * 1024
#: Longest method that is recorded; the longest registered one (UPDATEREDIRECTREF) has 17.
MAX_METHOD: Final = 32

#: What stands for a header that is there and empty; whoever reads one of them refuses it.
EMPTY: Final = "(empty)"
_ABSENT: Final = "\0"
#: The governance headers that the chain's stages read, each as it is.
_CHAIN_HEADERS: Final = (
    "x-meshguard-delegation",
    "x-meshguard-pending-id",
    "x-meshguard-action-token",
    "x-meshguard-provenance",
    "x-meshguard-cost",
)

#: The governance headers that a request is known to carry when it cannot be read.
GOVERNANCE_HEADERS: Final = (
    "x-meshguard-action",
    "x-meshguard-resource",
    "x-meshguard-trace-id",
    "x-meshguard-agent-id",
    "x-meshguard-meta",
    "x-meshguard-upstream-authorization",
    OUR_API_KEY_HEADER,
    *_CHAIN_HEADERS,
)

_BARE_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")

#: The verb of an action that nobody named, by method (CONTRACT §1.2).
VERBS: Final = {
    "GET": "read",
    "HEAD": "read",
    "OPTIONS": "read",
    "POST": "write",
    "PUT": "write",
    "PATCH": "write",
    "DELETE": "delete",
}
#: The verb of a tunnel: what goes through it nobody sees.
TUNNEL: Final = "connect"
#: The ports that go without saying: of HTTP in cleartext, and of a tunnel, which is for TLS.
_HTTP_PORT: Final = 80
_TUNNEL_PORT: Final = 443


class Call(NamedTuple):
    """One governed action, as the agent put it. Texts are empty where the request had none."""

    source: Source
    action: str
    resource: str
    method: str
    #: Without the query string, as it arrived (percent-encoding kept).
    path: str
    #: As the request has it; outward in its one spelling, without the usual port, where it has one.
    host: str
    trace_id: str
    #: The `Authorization` header's value, unparsed. Never recorded. Outward: what
    #: `Proxy-Authorization` says in its place, and empty where there is none.
    authorization: str
    #: What the agent wants the upstream to receive as `Authorization`. Never recorded.
    upstream_authorization: str
    #: `X-MeshGuard-Agent-ID`: free text, recorded, never trusted (CONTRACT §3).
    claimed_agent: str
    #: `X-MeshGuard-Meta`: JSON of the agent's own making, what conditions call `context`.
    meta: str
    #: The path as the upstream will see it, decoded, without its first slash; empty where nothing
    #: is forwarded.
    upstream_path: str
    #: The request's headers that must not reach the upstream.
    governance_headers: tuple[str, ...]
    #: Why this call cannot be judged, one sentence; empty when it can.
    defect: str
    #: `X-MeshGuard-Action` or `-Resource` said what it is; else method and path did.
    declares_action: bool = False
    declares_resource: bool = False
    #: `X-MeshGuard-Delegation`: a relationship's id or a signed chain. Never recorded as it is.
    delegation: str = ""
    #: `X-MeshGuard-Pending-ID`.
    pending_id: str = ""
    #: `X-MeshGuard-Action-Token`. Never recorded.
    action_token: str = ""
    #: `X-MeshGuard-Provenance`, several joined with commas.
    provenance: str = ""
    #: `X-MeshGuard-Cost`.
    cost: str = ""
    #: Host and port of a plain request outward, which is reached besides what is done there; empty
    #: for everything else.
    destination: str = ""
    #: The trace that it belongs to, where one came with it and traces are on.
    parent: Parent | None = None

    @property
    def reaches(self) -> str:
        """The action of reaching the destination, where that is not all that is done."""
        return f"{TUNNEL}:{self.destination}" if self.destination else ""


_NOTHING: Final = Call(
    source="proxy",
    action="unknown",
    resource="",
    method="",
    path="",
    host="",
    trace_id="",
    authorization="",
    upstream_authorization="",
    claimed_agent="",
    meta="",
    upstream_path="",
    governance_headers=(),
    defect="",
)


def unreadable(source: Source, defect: str) -> Call:
    """A call of which nothing is known but that it came, and why it cannot be read."""
    # What it carries cannot be seen, so everything it may carry is kept from the upstream.
    headers = (*GOVERNANCE_HEADERS, ADMIN_HEADER, API_KEY_HEADER, "authorization")
    return _NOTHING._replace(source=source, governance_headers=headers, defect=defect)


def from_check_request(raw: bytes, *, traced: bool = False) -> Call:
    """Read an ext_authz `CheckRequest` (envoy.service.auth.v3, wire format).

    Args:
        traced: also read which trace it belongs to.
    """
    try:
        attributes = CheckRequest.FromString(raw).attributes
    except DecodeError:
        return unreadable("proxy", "the CheckRequest is not a valid protobuf message")
    http = attributes.request.http
    source: Source = "proxy"
    if attributes.context_extensions:
        # Written by the route alone. One that is not known is no reason to take the call for
        # another: it is judged as a request to no host.
        via = attributes.context_extensions.get(VIA, "")
        source = "capture" if via == "capture" else "forward"
    elif not http.path:
        return unreadable("proxy", "the CheckRequest has no HTTP method or path")
    if not http.method:
        return unreadable(source, "the CheckRequest has no HTTP method or path")
    headers = http.headers
    governing: dict[str, str] = {}
    # Most requests have none, and that is seen at once in all names together.
    names = " ".join(headers)
    if GOVERNANCE_PREFIX in names or ADMIN_HEADER in names:
        governing = {
            name: headers[name]
            for name in headers
            if name.startswith(GOVERNANCE_PREFIX) or name == ADMIN_HEADER
        }
    if API_KEY_HEADER in names and mentions_ours(headers.get(API_KEY_HEADER, "")):
        # The upstream's own key stays; a token that was put in its place by mistake does not.
        governing[API_KEY_HEADER] = headers[API_KEY_HEADER]
    parent = parent_in(headers.get) if traced and TRACEPARENT in names else None
    if source in OUTWARD:
        return from_outward(
            source, http.method, http.path, http.host, http.scheme, headers.get, governing, parent
        )
    return from_http("proxy", http.method, http.path, http.host, headers.get, governing, parent)


def parent_in(header: Lookup) -> Parent | None:
    """The trace that a request with these headers belongs to; `header` as for `from_http`."""
    return parent_of(header(TRACEPARENT, ""), header(TRACESTATE, ""))


def from_outward(
    source: Source,
    method: str,
    target: str,
    host: str,
    scheme: str,
    header: Lookup,
    governing: Mapping[str, str],
    parent: Parent | None = None,
) -> Call:
    """Read a request, or a CONNECT, to a host of the agent's own choice; arguments as `from_http`.

    Args:
        target: empty for CONNECT, which has none.
        host: the authority of the URL, or what stands after CONNECT.
        scheme: of the URL.
    """
    path = target.partition("?")[0].partition("#")[0]
    is_tunnel = method == "CONNECT"
    to, defect = _to(host, None if is_tunnel else _HTTP_PORT)
    is_known = not defect
    if is_tunnel:
        shown, resource, derived = to.without(_TUNNEL_PORT), to.whole, ""
        action = f"{TUNNEL}:{resource}"
        if target:
            defect = defect or "path: CONNECT has none"
    else:
        derived, of_path = _decode_path(path, prefix="/")
        shown = to.without(_HTTP_PORT)
        resource = f"{shown}/{derived}"
        action = f"{VERBS.get(method.upper(), 'execute')}:{resource}"
        defect = defect or of_path
        if scheme.lower() == "https":
            defect = defect or "an https URL needs a tunnel (CONNECT); in cleartext it is refused"
    shown = shown if is_known else visible(host)
    call = from_http(source, method, path, shown, header, governing, parent)
    # A captured request was not sent to us: a credential for a proxy is some other proxy's.
    authorization = header(PROXY_AUTHORIZATION_HEADER, _ABSENT) if source == "forward" else _ABSENT
    if not defect and len(action) > MAX_NAME:
        defect = f"action: longer than {MAX_NAME} characters"
    return call._replace(
        action=action[:MAX_NAME],
        resource=resource[:MAX_NAME],
        authorization="" if authorization is _ABSENT else of_proxy(authorization) or EMPTY,
        upstream_authorization=call.authorization,
        upstream_path=derived[:MAX_NAME],
        governance_headers=(*call.governance_headers, PROXY_AUTHORIZATION_HEADER),
        defect=defect or defect_of_resource(resource) or _of_method(method),
        declares_action=False,
        declares_resource=False,
        destination="" if is_tunnel else to.whole,
    )


def _to(authority: str, usual_port: int | None) -> tuple[Destination, str]:
    """Where a request goes, and why that cannot be told."""
    try:
        return destination(authority, usual_port), ""
    except ValueError as error:
        # Its action is to be no name's; the row has what stood there as its host, but for a user.
        return Destination("(unreadable)", usual_port or _TUNNEL_PORT), str(error)


def _of_method(method: str) -> str:
    return f"method: longer than {MAX_METHOD} characters" if len(method) > MAX_METHOD else ""


def from_http(
    source: Source,
    method: str,
    target: str,
    host: str,
    header: Lookup,
    governing: Mapping[str, str] | None = None,
    parent: Parent | None = None,
) -> Call:
    """Read an HTTP request.

    Args:
        target: path with or without a query string.
        header: `header(lower_case_name, default)`; repeated headers joined with commas.
        governing: those of the headers that govern us, by name, which the upstream must not see;
            None where nothing is forwarded, and `header` is asked for them.
        parent: the trace that it belongs to, where that is asked for.
    """
    govern = header if governing is None else governing.get
    path = target.partition("?")[0].partition("#")[0]
    # Only a proxied request's path names what it does; ours are the endpoints' own.
    derived, defect = _decode_path(path) if source == "proxy" else ("", "")
    declared = govern("x-meshguard-action", "").strip()
    if declared:
        defect = defect or defect_of_name("X-MeshGuard-Action", declared)
        if "," in declared:
            # Two headers come as one. Were `read:a,write:b` an action, `read:*` would allow it.
            defect = defect or "X-MeshGuard-Action: it has a comma, or was sent twice; send one"
    action = declared or f"{VERBS.get(method.upper(), 'execute')}:{derived}"
    named = govern("x-meshguard-resource", "").strip()
    resource = named or derived
    defect = defect or defect_of_resource(resource)
    defect = defect or _of_method(method)
    if not defect and len(action) > MAX_NAME:
        # Cut off it would be another action, and patterns match whole strings.
        defect = f"action: longer than {MAX_NAME} characters"
    delegation = pending_id = action_token = provenance = cost = ""
    if governing is None or governing:
        delegation, pending_id, action_token, provenance, cost = [
            _said(govern(name, _ABSENT)) for name in _CHAIN_HEADERS
        ]
    return Call(
        source=source,
        action=action[:MAX_NAME],
        resource=resource[:MAX_NAME],
        method=method[:MAX_METHOD],
        path=path[:MAX_NAME],
        # A user's name, and the password behind it, is no part of a host, and on record for ever.
        host=host.rpartition("@")[2][:MAX_LABEL],
        trace_id=_label(govern("x-meshguard-trace-id", "")) or _label(header("x-trace-id", "")),
        authorization=header("authorization", ""),
        upstream_authorization=govern("x-meshguard-upstream-authorization", ""),
        claimed_agent=govern("x-meshguard-agent-id", "")[:MAX_LABEL],
        meta=govern("x-meshguard-meta", "").strip()[: MAX_META + 1],
        upstream_path=derived[:MAX_NAME],
        governance_headers=tuple(governing) if governing else (),
        defect=defect,
        declares_action=bool(declared),
        declares_resource=bool(named),
        delegation=delegation,
        pending_id=pending_id,
        action_token=action_token,
        provenance=provenance,
        cost=cost,
        parent=parent,
    )


def verb_and_path(call: Call) -> str:
    """The action that a proxied request's method and path say it is."""
    return f"{VERBS.get(call.method.upper(), 'execute')}:{call.upstream_path}"


def _said(value: str) -> str:
    """A header as stages read it: empty only where it is absent.

    One that is there and empty says nothing that can be read. Were it taken for absent, an agent
    whose runtime has lost its delegation would act on its own authority.
    """
    if value is _ABSENT:
        return ""
    return value.strip()[: MAX_GOVERNANCE + 1] or EMPTY


def meta_of(context: Mapping[str, object]) -> str:
    """A context as `X-MeshGuard-Meta` carries it; one that is too long stays so, by a character."""
    said = json.dumps(context, ensure_ascii=False, separators=(",", ":"))
    return said[: MAX_META + 1]


def defect_of_name(where: str, name: str) -> str:
    """Why a declared action is unusable, as a sentence that names `where`; empty if it is fine.

    Published SDKs can only send ASCII (CONTRACT §16.6), so anything else is a second spelling.
    """
    if len(name) > MAX_NAME:
        return f"{where}: longer than {MAX_NAME} characters"
    if not (name.isascii() and name.isprintable()):
        return f"{where}: only printable ASCII characters are allowed"
    return ""


def defect_of_resource(resource: str) -> str:
    """Why a resource is unusable; empty if it is fine. Any script, but nothing that hides."""
    if len(resource) > MAX_NAME or not resource.isprintable():
        return f"resource: unprintable characters, or longer than {MAX_NAME} characters"
    return ""


def _decode_path(path: str, prefix: str = PROXY_PREFIX) -> tuple[str, str]:
    """The upstream's path as policies see it, and a defect when it is ambiguous.

    `prefix` is what the upstream does not get, or a slash.

    Envoy normalises before it asks us; these checks hold for any other proxy too, and where
    Envoy leaves a spelling alone that some servers fold.
    """
    rest = path[len(prefix) :] if path.startswith(prefix) else path.removeprefix("/")
    plain = rest.isascii() and "%" not in rest
    # Bytes that are no UTF-8 keep distinct spellings instead of all becoming U+FFFD.
    text = rest if plain else unquote_to_bytes(rest).decode("utf-8", "backslashreplace")
    if len(path) > MAX_NAME:
        return text[:MAX_NAME], f"path: longer than {MAX_NAME} characters"
    if not text.isprintable():
        # Controls, and format characters that make two names look, or sort, as one.
        return visible(text), "path: contains an unprintable character"
    if not plain:
        lowered = rest.lower()
        if "%2f" in lowered or "%5c" in lowered:
            return text, "path: contains an encoded slash"
        if _BARE_PERCENT.search(rest):
            # Else `%zz` and `%25zz` would be one action and two paths.
            return text, "path: contains a % that escapes nothing"
    if "\\" in rest:
        return text, "path: contains a backslash"
    if ";" in rest:
        # Servlet containers cut `;…` off a segment before they look for it.
        return text, "path: contains a ; parameter"
    if "//" in text or text.startswith("/"):
        return text, "path: contains an empty segment (//)"
    if "." in text and any(s.partition(";")[0] in (".", "..") for s in text.split("/")):
        return text, "path: contains a . or .. segment"
    return text, ""


def _label(text: str) -> str:
    """A caller's label if it can be echoed in a header as it is, else nothing."""
    text = text.strip()
    return text if len(text) <= MAX_TRACE_ID and text.isascii() and text.isprintable() else ""
