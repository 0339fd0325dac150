"""Reading a request never fails, shows policies the path that the upstream will see, and calls
every spelling that could be read as another path a defect."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.call import MAX_NAME, Call, from_check_request
from tests.builders import check_request


def read(method: str, path: str, **headers: str) -> Call:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return from_check_request(check_request(method, path, named))


@pytest.mark.parametrize(
    ("method", "verb"),
    [
        ("GET", "read"),
        ("HEAD", "read"),
        ("OPTIONS", "read"),
        ("POST", "write"),
        ("PUT", "write"),
        ("PATCH", "write"),
        ("DELETE", "delete"),
        ("CONNECT", "execute"),
        ("TRACE", "execute"),
        ("PURGE", "execute"),
    ],
)
def test_without_a_header_method_and_path_name_the_action(method: str, verb: str) -> None:
    call = read(method, "/proxy/api/users/123")
    assert (call.action, call.resource) == (f"{verb}:api/users/123", "api/users/123")
    assert (call.method, call.path) == (method, "/proxy/api/users/123")
    assert call.defect == ""


@pytest.mark.parametrize(
    ("path", "action"),
    [
        ("/proxy/", "read:"),
        ("/proxy/a/", "read:a/"),
        ("/proxy/proxy/a", "read:proxy/a"),
        ("/proxy/a%20b", "read:a b"),
        ("/proxy/caf%C3%A9", "read:caf\u00e9"),
        ("/proxy/%61dmin", "read:admin"),
        ("/proxy/a%3Fb", "read:a?b"),
        ("/proxy/a.b/..c/d..", "read:a.b/..c/d.."),
        ("/proxy/.env", "read:.env"),
        ("/proxy/...", "read:..."),
    ],
)
def test_the_path_is_percent_decoded_for_policies(path: str, action: str) -> None:
    call = read("GET", path)
    assert (call.action, call.defect) == (action, "")


@pytest.mark.parametrize(
    ("path", "action"),
    [
        ("/proxy/%252e%252e/a", "read:%2e%2e/a"),
        ("/proxy/a%252fb", "read:a%2fb"),
        ("/proxy/a%255cb", "read:a%5cb"),
        ("/proxy/a%2500", "read:a%00"),
        ("/proxy/%2561", "read:%61"),
    ],
)
def test_the_path_is_decoded_once_and_not_again(path: str, action: str) -> None:
    call = read("GET", path)
    assert (call.action, call.defect) == (action, "")


def test_headers_name_action_and_resource_before_the_path_does() -> None:
    call = read(
        "POST",
        "/proxy/api/v1",
        x_meshguard_action=" invoke:Tool ",
        x_meshguard_resource=" r\u00e9sum\u00e9 ",
    )
    assert (call.action, call.resource, call.defect) == ("invoke:Tool", "r\u00e9sum\u00e9", "")


def test_a_blank_header_names_nothing() -> None:
    call = read("GET", "/proxy/doc", x_meshguard_action="  ", x_meshguard_resource="")
    assert (call.action, call.resource) == ("read:doc", "doc")


@pytest.mark.parametrize(
    "action", ["a\nb", "a\x00", "a\x7f", "a\x85b", "caf\u00e9", "re\u0430d:x", "x" * 9000]
)
def test_a_declared_action_that_sdks_cannot_send_is_a_defect(action: str) -> None:
    assert read("GET", "/proxy/doc", x_meshguard_action=action).defect


@pytest.mark.parametrize("resource", ["a\nb", "a\x00b", "a\x7fb", "x" * 9000])
def test_a_resource_with_control_characters_or_without_end_is_a_defect(resource: str) -> None:
    assert read("GET", "/proxy/doc", x_meshguard_resource=resource).defect


TRAPS = [
    "/proxy/..",
    "/proxy/../admin",
    "/proxy/a/../b",
    "/proxy/a/..",
    "/proxy/.",
    "/proxy/./a",
    "/proxy/a/./b",
    "/proxy/..;x/a",
    "/proxy/a/..;/b",
    "/proxy/.;x/a",
    "/proxy/..%3bx/a",
    "/proxy/a;b=1",
    "/proxy/a/;/b",
    "/proxy/%2e%2e/a",
    "/proxy/.%2E/a",
    "/proxy/%2e/a",
    "/proxy//a",
    "/proxy/a//b",
    "/proxy/a//",
    "/proxy/a%00b",
    "/proxy/a\x00b",
    "/proxy/a%0ab",
    "/proxy/a%0d%0aX:y",
    "/proxy/a%1b",
    "/proxy/a%7f",
    "/proxy/a\tb",
    "/proxy/a%2fb",
    "/proxy/a%2Fb",
    "/proxy/%2f",
    "/proxy/..%2f..%2fetc",
    "/proxy/a%5cb",
    "/proxy/a%5Cb",
    "/proxy/a\\b",
    "/proxy/..\\b",
    "/proxy/100%",
    "/proxy/%zz",
    "/../proxy/a",
    "/proxy/" + "a" * 9000,
]


@pytest.mark.parametrize("path", TRAPS, ids=lambda path: ascii(path[:24]))
def test_a_path_with_two_readings_is_a_defect(path: str) -> None:
    assert read("GET", path).defect.startswith("path: ")


@pytest.mark.parametrize("path", TRAPS, ids=lambda path: ascii(path[:24]))
def test_a_declared_action_does_not_excuse_the_path(path: str) -> None:
    assert read("GET", path, x_meshguard_action="read:doc").defect.startswith("path: ")


def test_bytes_that_are_not_utf_8_keep_their_differences() -> None:
    calls = [read("GET", f"/proxy/a{tail}") for tail in ("%ff", "%fe", "%c3", "%EF%BF%BD")]
    assert len({call.action for call in calls}) == 4


def test_overlong_utf_8_does_not_become_dots_or_slashes() -> None:
    call = read("GET", "/proxy/%c0%ae%c0%ae%c0%afetc")
    assert ".." not in call.action
    assert "/" not in call.action


@given(st.text(max_size=30), st.text(max_size=30))
@settings(deadline=None)
def test_the_query_string_changes_nothing_and_is_kept_nowhere(path: str, query: str) -> None:
    path = "/proxy/" + path.partition("?")[0].partition("#")[0]
    assert read("GET", f"{path}?{query}") == read("GET", path)


def test_a_secret_in_the_query_string_is_in_no_field() -> None:
    call = read("GET", "/proxy/doc?token=hush&next=/proxy/x?token=hush")
    assert "hush" not in repr(call)
    assert (call.action, call.path) == ("read:doc", "/proxy/doc")


@pytest.mark.parametrize(
    ("headers", "trace_id"),
    [
        ({"x_meshguard_trace_id": "first", "x_trace_id": "second"}, "first"),
        ({"x_meshguard_trace_id": "", "x_trace_id": "second"}, "second"),
        ({"x_trace_id": " second "}, "second"),
        ({"x_meshguard_trace_id": "x" * 2000, "x_trace_id": "second"}, "second"),
        ({"x_meshguard_trace_id": "a\r\nx-admin: b"}, ""),
        ({"x_meshguard_trace_id": "caf\u00e9"}, ""),
        ({}, ""),
    ],
)
def test_the_callers_trace_id_is_taken_when_a_header_can_carry_it(
    headers: dict[str, str], trace_id: str
) -> None:
    assert read("GET", "/proxy/doc", **headers).trace_id == trace_id


def test_every_governance_header_is_kept_from_the_upstream() -> None:
    call = read(
        "GET",
        "/proxy/doc",
        x_meshguard_action="read:x",
        x_meshguard_anything_at_all="1",
        x_admin_token="t",
        accept="*/*",
    )
    assert sorted(call.governance_headers) == [
        "x-admin-token",
        "x-meshguard-action",
        "x-meshguard-anything-at-all",
    ]


def test_the_claimed_agent_id_is_kept_but_is_only_a_claim() -> None:
    call = read("GET", "/proxy/doc", x_meshguard_agent_id="someone else")
    assert (call.claimed_agent, call.defect) == ("someone else", "")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff", b"\x0a\x05abc", check_request("", "/proxy/a"), check_request("GET", "")],
)
def test_what_is_no_request_is_a_defect_and_may_carry_anything(raw: bytes) -> None:
    call = from_check_request(raw)
    assert call.defect
    assert {"authorization", "x-admin-token", "x-meshguard-action"} <= {*call.governance_headers}


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_read_without_an_exception(raw: bytes) -> None:
    call = from_check_request(raw)
    assert call.defect or (call.method and call.path)


PATHS = st.lists(
    st.sampled_from([*"aB./\\;%2f5c0e\x00\n\x7f ", "\u00e9", "%2e", "%ff"]), max_size=12
).map("".join)


@given(PATHS)
@settings(deadline=None, max_examples=1000)
def test_an_accepted_path_has_one_reading(path: str) -> None:
    call = read("GET", f"/proxy/{path}")
    if call.defect:
        return
    seen = call.action.removeprefix("read:")
    assert "//" not in f"/{seen}"
    assert "\\" not in path
    assert seen.count("/") == path.count("/")
    assert not {segment.partition(";")[0] for segment in seen.split("/")} & {".", ".."}
    assert not [char for char in seen if ord(char) < 0x20 or ord(char) == 0x7F]


def test_an_action_is_never_cut_to_fit() -> None:
    for method in ("GET", "PURGE"):
        for length in (MAX_NAME - 8, MAX_NAME):
            path = "/proxy/" + "a" * (length - len("/proxy/secret")) + "secret"
            asked = read(method, path)
            assert asked.defect or asked.action.endswith("secret")


@pytest.mark.parametrize("path", ["//secret", "//admin", "//proxy/secret", "/proxy//x"])
def test_an_empty_first_segment_is_a_defect(path: str) -> None:
    assert "empty segment" in read("GET", path).defect


@pytest.mark.parametrize(
    "escaped",
    [
        "%c2%80",
        "%c2%85",
        "%c2%9b",
        "%7f",
        "%1f",
        "%c2%a0",
        "%c2%ad",
        "%e2%80%a8",
        "%e2%80%ae",
        "%e3%80%80",
    ],
)
def test_what_hides_is_a_defect(escaped: str) -> None:
    assert "unprintable" in read("GET", f"/proxy/a{escaped}").defect


def test_a_blank_of_the_path_stays_in_the_action() -> None:
    assert read("GET", "/proxy/doc%20").action == "read:doc "


def test_a_method_too_long_to_be_recorded_is_a_defect() -> None:
    assert read("X" * 33, "/proxy/a").defect == "method: longer than 32 characters"
