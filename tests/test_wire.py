"""Our protocol messages against Envoy's official schema (`envoy-data-plane`), both directions.

Every field that proto/wire.proto declares is written by one side and read by the other.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.service.auth.v3 import (
    AttributeContext,
    AttributeContextHttpRequest,
    AttributeContextPeer,
    AttributeContextRequest,
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Struct, Value
from envoy_data_plane.google.rpc import Status
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict

from authz.core import wire_pb2 as ours

#: Where the official message of each of ours is.
OFFICIAL: Final[dict[str, type[Any]]] = {
    "CheckRequest": CheckRequest,
    "AttributeContext": AttributeContext,
    "AttributeContext.Peer": AttributeContextPeer,
    "AttributeContext.Request": AttributeContextRequest,
    "AttributeContext.HttpRequest": AttributeContextHttpRequest,
    "CheckResponse": CheckResponse,
    "Status": Status,
    "HttpStatus": HttpStatus,
    "DeniedHttpResponse": DeniedHttpResponse,
    "OkHttpResponse": OkHttpResponse,
    "HeaderValueOption": HeaderValueOption,
    "HeaderValue": HeaderValue,
}


def _messages() -> Iterator[Descriptor]:
    def walk(message: Descriptor) -> Iterator[Descriptor]:
        if not message.GetOptions().map_entry:
            yield message
        for nested in message.nested_types:
            yield from walk(nested)

    for message in ours.DESCRIPTOR.message_types_by_name.values():
        yield from walk(message)


def test_every_message_has_its_official_counterpart() -> None:
    names = {message.full_name.removeprefix("authz.wire.v1.") for message in _messages()}
    assert names == set(OFFICIAL)


@pytest.mark.parametrize("message", list(_messages()), ids=lambda message: message.name)
def test_every_field_has_envoys_name_and_number(message: Descriptor) -> None:
    official = OFFICIAL[message.full_name.removeprefix("authz.wire.v1.")]
    theirs = {
        name: field.metadata["betterproto"].number
        for name, field in official.__dataclass_fields__.items()
    }
    for field in message.fields:
        assert theirs[field.name] == field.number, field.full_name


def test_the_append_actions_have_envoys_numbers() -> None:
    actions = ours.HeaderValueOption.HeaderAppendAction
    assert dict(actions.items()) == {
        str(action.name): int(action) for action in HeaderValueOptionHeaderAppendAction
    }


HTTP: Final[dict[str, Any]] = {
    "id": "7",
    "method": "POST",
    "headers": {"authorization": "Bearer x", ":path": "/proxy/a", "empty": "", "ü": "ü"},
    "path": "/proxy/a?q=1",
    "host": "sidecar:3100",
    "scheme": "http",
    "protocol": "HTTP/1.1",
    "body": "text",
    "raw_body": b"\x00\xff",
}


def test_a_check_request_of_envoys_is_read_by_us() -> None:
    theirs = CheckRequest(
        attributes=AttributeContext(
            source=AttributeContextPeer(principal="spiffe://agent"),
            destination=AttributeContextPeer(principal="spiffe://sidecar"),
            request=AttributeContextRequest(http=AttributeContextHttpRequest(**HTTP)),
            context_extensions={"key": "value"},
        )
    )
    read = ours.CheckRequest.FromString(bytes(theirs)).attributes
    assert read.source.principal == "spiffe://agent"
    assert read.destination.principal == "spiffe://sidecar"
    assert dict(read.context_extensions) == {"key": "value"}
    assert _plain(read.request.http) == HTTP


def test_a_check_request_of_ours_is_read_by_envoys() -> None:
    written = ours.CheckRequest()
    written.attributes.source.principal = "spiffe://agent"
    written.attributes.destination.principal = "spiffe://sidecar"
    written.attributes.context_extensions["key"] = "value"
    http = written.attributes.request.http
    for name, value in HTTP.items():
        if isinstance(value, dict):
            http.headers.update(value)
        else:
            setattr(http, name, value)
    read = CheckRequest.parse(written.SerializeToString()).attributes
    assert read is not None
    assert read.source is not None
    assert read.source.principal == "spiffe://agent"
    assert read.destination is not None
    assert read.destination.principal == "spiffe://sidecar"
    assert read.context_extensions == {"key": "value"}
    assert read.request is not None
    assert {name: getattr(read.request.http, name) for name in HTTP} == HTTP


def _plain(http: ours.AttributeContext.HttpRequest) -> dict[str, Any]:
    values = {name: getattr(http, name) for name in HTTP}
    values["headers"] = dict(http.headers)
    return values


ACTIONS: Final = list(HeaderValueOptionHeaderAppendAction)


def _their_options() -> list[HeaderValueOption]:
    return [
        HeaderValueOption(
            header=HeaderValue(key=f"x-{int(action)}", value=str(action.name)), append_action=action
        )
        for action in ACTIONS
    ]


def _fill(options: Any) -> None:
    for action in ACTIONS:
        option = options.add()
        option.header.key, option.header.value = f"x-{int(action)}", str(action.name)
        option.append_action = int(action)


def _read(options: Any) -> list[tuple[str, str, int]]:
    return [(o.header.key, o.header.value, int(o.append_action)) for o in options]


EXPECTED: Final = [(f"x-{int(action)}", str(action.name), int(action)) for action in ACTIONS]


def test_an_ok_response_both_ways() -> None:
    mine = ours.CheckResponse()
    mine.status.code = 0
    _fill(mine.ok_response.headers)
    _fill(mine.ok_response.response_headers_to_add)
    mine.ok_response.headers_to_remove.extend(["authorization", "x-admin-token"])
    mine.dynamic_metadata.fields["decision_id"].string_value = "d-1"
    theirs = CheckResponse.parse(mine.SerializeToString())
    ok = theirs.ok_response
    assert ok is not None
    assert theirs.denied_response is None
    assert theirs.error_response is None
    assert _read(ok.headers) == _read(ok.response_headers_to_add) == EXPECTED
    assert ok.headers_to_remove == ["authorization", "x-admin-token"]
    assert theirs.dynamic_metadata is not None
    assert theirs.dynamic_metadata.fields["decision_id"].string_value == "d-1"

    back = ours.CheckResponse.FromString(
        bytes(
            CheckResponse(
                status=Status(code=0),
                ok_response=OkHttpResponse(
                    headers=_their_options(),
                    headers_to_remove=["authorization"],
                    response_headers_to_add=_their_options(),
                ),
                dynamic_metadata=Struct(fields={"decision_id": Value(string_value="d-2")}),
            )
        )
    )
    assert back.WhichOneof("http_response") == "ok_response"
    assert _read(back.ok_response.headers) == EXPECTED
    assert _read(back.ok_response.response_headers_to_add) == EXPECTED
    assert list(back.ok_response.headers_to_remove) == ["authorization"]
    assert MessageToDict(back.dynamic_metadata) == {"decision_id": "d-2"}


@pytest.mark.parametrize("kind", ["denied_response", "error_response"])
def test_a_refusal_both_ways(kind: str) -> None:
    mine = ours.CheckResponse()
    mine.status.code = 7
    refusal = getattr(mine, kind)
    refusal.status.code = 403
    refusal.body = '{"error": "Forbidden"}'
    _fill(refusal.headers)
    theirs = CheckResponse.parse(mine.SerializeToString())
    assert theirs.status is not None
    assert theirs.status.code == 7
    read = getattr(theirs, kind)
    assert read.status.code == StatusCode(403)
    assert read.body == '{"error": "Forbidden"}'
    assert _read(read.headers) == EXPECTED

    sent = DeniedHttpResponse(
        status=HttpStatus(code=StatusCode(503)), headers=_their_options(), body="x"
    )
    arguments: dict[str, Any] = {"status": Status(code=14), kind: sent}
    back = ours.CheckResponse.FromString(bytes(CheckResponse(**arguments)))
    assert back.status.code == 14
    assert back.WhichOneof("http_response") == kind
    assert getattr(back, kind).status.code == 503
    assert _read(getattr(back, kind).headers) == EXPECTED
