"""The access log: a JSON object a line on stdout, for every request (ACCESS_LOG=json).

- What was decided stands beside what was carried: `decision_id` is the audit row's `id`.
- Nothing that could be a credential: no header of the agent's but the decision's, no query string.
- Bounded: what others may choose is cut off at `MAX_VALUE` bytes.
- Fields without a value are left out. Numbers are numbers.
- Probes that go well are left out unless ACCESS_LOG_PROBES says otherwise.
"""

import json
from typing import Final

from authz.core.names import DECISION_HEADER, DECISION_ID_HEADER
from authz.envoy_config.clusters import SERVICE
from authz.envoy_config.filters import EXT_AUTHZ
from authz.envoy_config.parts import Config, type_url, where

#: Bytes of a path, or of what a header says, that are kept.
MAX_VALUE: Final = 1024
#: The path as the agent sent it, which the route replaces before anything is logged.
_PATH_STATE: Final = "authz.path"
_PROBES: Final = ("/health", "/ready")


def _first(*operators: tuple[str, str]) -> str:
    """The first of these commands, each with its parameter, that has a value."""
    listed = [
        {"command": command, "param": parameter, "max_length": MAX_VALUE}
        for command, parameter in operators
    ]
    return f"%COALESCE({json.dumps({'operators': listed}, separators=(',', ':'))})%"


def _decided(name: str, header: str = "") -> str:
    """What the decision says: of Envoy's own question, else of the service's answer."""
    metadata = f"{EXT_AUTHZ}:{name}"
    if not header:
        return f"%DYNAMIC_METADATA({metadata}):{MAX_VALUE}%"
    return _first(("DYNAMIC_METADATA", metadata), ("RESPONSE_HEADER", header))


#: What a line holds.
FIELDS: Final[Config] = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "decision_id": _decided("decision_id", DECISION_ID_HEADER),
    "trace_id": _decided("trace_id", "x-meshguard-trace-id"),
    "agent_id": _decided("agent_id", "x-meshguard-agent-id"),
    "action": _decided("action"),
    "decision": _decided("decision"),
    "enforced": _decided("enforced", DECISION_HEADER),
    "code": _decided("code"),
    "policy": _decided("policy", "x-meshguard-policy"),
    "rule": _decided("rule"),
    "mode": _decided("mode", "x-meshguard-mode"),
    "method": "%REQUEST_HEADER(:METHOD):32%",
    "path": _first(("FILTER_STATE", f"{_PATH_STATE}:PLAIN"), ("PATH", "NQ")),
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "upstream": "%UPSTREAM_HOST%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "client_certificate": "%DOWNSTREAM_PEER_SUBJECT%",
}


def outward_log() -> list[Config]:
    """The same where the agent chooses the host, which is told then.

    But for one with a user before it, who may have a password: no format takes that away, so such
    requests, which are malformed, have a log of their own.
    """
    host = {"host": f"%REQUEST_HEADER(:AUTHORITY):{MAX_VALUE}%"}
    with_user = {
        "name": ":authority",
        "string_match": {"contains": "@"},
        "treat_missing_header_as_empty": True,
    }
    return [
        {
            **_stdout({**FIELDS, **host}),
            "filter": {"header_filter": {"header": {**with_user, "invert_match": True}}},
        },
        {**_stdout(FIELDS), "filter": {"header_filter": {"header": with_user}}},
    ]


def access_log(*, probes: bool) -> list[Config]:
    """The HTTP connection manager's `access_log`."""
    log = _stdout(FIELDS)
    if not probes:
        # Below /proxy/ the upstream may have such paths too, and by now they look the same.
        paths = ", ".join(f"'{path}'" for path in _PROBES)
        log["filter"] = where(
            f"!(xds.cluster_name == '{SERVICE}' && response.code < 400"
            f" && request.url_path in [{paths}])"
        )
    return [log]


def _stdout(fields: Config) -> Config:
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": type_url("extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": {"omit_empty_values": True, "json_format": fields},
        },
    }


def remember_path() -> Config:
    """The filter, before all others, that keeps the path for the log."""
    return {
        "name": "remember_path",
        "typed_config": {
            "@type": type_url("extensions.filters.http.set_filter_state.v3.Config"),
            "on_request_headers": [
                {
                    "object_key": _PATH_STATE,
                    "factory_key": "envoy.string",
                    "format_string": {
                        "text_format_source": {"inline_string": f"%PATH(NQ):{MAX_VALUE}%"}
                    },
                }
            ],
        },
    }
