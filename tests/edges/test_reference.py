"""The reference: it says what there is, its examples are true, and its page is served whole."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from authz.edges.http.admin import PREFIXES
from authz.edges.http.relationships import AGENT_PREFIXES
from authz.reference.build import OPERATIONS, TAGS
from tests.edges import conformity
from tests.edges.conformity import Unlike, document
from tests.edges.world import ADMIN, World

#: Where the page and its parts are.
PAGE: Final = "/api/docs"
PARTS: Final = {
    PAGE: "text/html; charset=utf-8",
    f"{PAGE}/start.js": "text/javascript; charset=utf-8",
    f"{PAGE}/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    f"{PAGE}/swagger-ui.css": "text/css; charset=utf-8",
    "/api/openapi.json": "application/json",
}


def _described() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every operation with its method and path."""
    for path, methods in document()["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def _contents(operation: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What is sent and answered: whose it is, its content type, its schema and example."""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield "request", media, content
    for status, response in operation["responses"].items():
        for media, content in response.get("content", {}).items():
            yield status, media, content


OPERATION: Final = pytest.mark.parametrize(
    "operation", [pytest.param(one, id=name) for name, one in _described()]
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


# What is said.


@OPERATION
def test_each_example_is_as_its_schema_says(operation: dict[str, Any]) -> None:
    for whose, media, content in _contents(operation):
        if media == "application/json" and "example" in content:
            assert conformity.problems(content["schema"], content["example"]) == [], whose


@OPERATION
def test_each_operation_shows_what_is_sent_and_what_comes_back(operation: dict[str, Any]) -> None:
    shown = {whose for whose, _, content in _contents(operation) if "example" in content}
    wanted = {status for status in operation["responses"] if status < "300"}
    assert wanted
    assert shown >= wanted | ({"request"} if "requestBody" in operation else set())


@OPERATION
def test_each_operation_stands_under_a_heading_and_explains_its_parameters(
    operation: dict[str, Any],
) -> None:
    assert operation["summary"]
    assert set(operation["tags"]) <= TAGS.keys()
    said = {one["name"]: one.get("description") for one in operation.get("parameters", ())}
    assert [name for name, words in said.items() if not words] == []


def test_each_heading_has_something_and_each_operation_its_own_name() -> None:
    assert {one.tag for one in OPERATIONS} == set(TAGS)
    names = [one.name for one in OPERATIONS]
    assert len(set(names)) == len(names)


def test_whoever_needs_a_credential_is_told_401_and_only_they() -> None:
    schemes = document()["components"]["securitySchemes"]
    for name, operation in _described():
        needed = {scheme for one in operation["security"] for scheme in one}
        assert needed <= schemes.keys()
        assert ("401" in operation["responses"]) == bool(needed), name


@OPERATION
def test_nobody_without_a_credential_gets_further(world: World, operation: dict[str, Any]) -> None:
    [name] = [name for name, one in _described() if one is operation]
    method, _, path = name.partition(" ")
    # Nothing else is wrong with it.
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    sent = {"json": body["example"]} if body else {}
    headers = {"X-MeshGuard-Action": "read:x"}
    answer = world.ask(method, re.sub(r"\{\w+\}", "x", path), headers=headers, **sent)
    assert (answer.status_code == 401) == bool(operation["security"])


# What there is.


def _routes(world: World) -> set[tuple[str, str, Any]]:
    return {
        (method, str(route.path), route.endpoint)
        for route in iter_route_contexts(world.app.routes)
        for method in route.methods or ()
    }


def test_what_has_two_names_is_one(world: World) -> None:
    routes = _routes(world)
    for first, second in (PREFIXES, [f"{prefix}/relationships" for prefix in AGENT_PREFIXES]):
        named = [
            {
                (method, path.removeprefix(prefix), endpoint)
                for method, path, endpoint in routes
                if path.startswith(prefix)
            }
            for prefix in (first, second)
        ]
        assert named[0]
        assert named[0] == named[1]


def test_nothing_redirects_and_no_path_has_another_spelling(world: World) -> None:
    headers = {**ADMIN, **world.agent("a")}
    for method, path, _ in _routes(world):
        spelled = re.sub(r"\{\w+\}", "x", path)
        others = [f"{spelled}/", f"/{spelled}", spelled.upper()]
        if spelled == "/":
            others = ["//"]
        for other in others:
            answer = world.ask(method, f"http://a{other}", headers=headers)
            assert answer.status_code == 404, other


@pytest.mark.parametrize(
    ("method", "path", "methods"),
    [
        ("POST", "/admin/agents/x", "DELETE, GET, PATCH, PUT"),
        ("DELETE", "/health", "GET"),
        ("HEAD", "/health", "GET"),
        ("OPTIONS", "/api/v1/relationships", "GET, POST"),
        ("FOO", "/relationships/x", "DELETE, GET"),
        ("POST", PAGE, "GET"),
    ],
)
def test_another_method_is_told_which_there_are(
    world: World, method: str, path: str, methods: str
) -> None:
    answer = world.ask(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_the_service_says_where_the_reference_is(world: World) -> None:
    where = world.ask("GET", "/").json()["docs"]
    assert world.ask("GET", where).headers["content-type"] == PARTS[PAGE]


# The page.


@pytest.mark.parametrize("path", list(PARTS))
def test_the_page_and_its_parts_are_served_as_what_they_are(world: World, path: str) -> None:
    answer = world.ask("GET", path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, PARTS[path])
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert len(answer.content) == int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("path", list(PARTS))
def test_what_somebody_has_is_not_sent_again(world: World, path: str) -> None:
    tag = world.ask("GET", path).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = world.ask("GET", path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
        assert "content-length" not in answer.headers
    for other in ('"other"', "", tag.strip('"')):
        assert world.ask("GET", path, headers={"If-None-Match": other}).status_code == 200


def test_everything_that_the_page_names_is_there(world: World) -> None:
    page, start = world.ask("GET", PAGE).text, world.ask("GET", f"{PAGE}/start.js").text
    named = re.findall(r'(?:src|href)="(/[^"]*)"', page) + re.findall(r'url: "([^"]*)"', start)
    assert {PAGE, *named} == set(PARTS)
    # Nothing is run, and nothing asked for, that another host has.
    assert "<script>" not in page
    assert "://" not in page + start


def test_the_document_is_served_as_it_was_made(world: World) -> None:
    answer = world.ask("GET", "/api/openapi.json")
    assert answer.json() == document()
    assert answer.json()["components"]["securitySchemes"].keys() == {
        "agentToken", "adminToken", "adminBearer",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "", "x", "index.html", "SWAGGER-UI.CSS", "swagger-ui.css/", "swagger-ui.css%00",
        "..%2fopenapi.json", "..%2f..%2fopenapi.json", "%2e%2e", "%2e%2e%2fstart.js",
        "redoc.standalone.js", "__init__.py", "/etc/passwd", "..%5c__init__.py",
    ],
)  # fmt: skip
def test_nothing_else_is_served_there(world: World, name: str) -> None:
    answer = world.ask("GET", f"http://a{PAGE}/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"] == "not_found"


# That answers which are not as described are seen.


def _answer(method: str, path: str, status: int, body: object, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(
        status,
        headers={"content-type": "application/json", **headers},
        content=content,
        request=httpx.Request(method, f"http://a{path}"),
    )


AGENT: Final = {
    "id": "a",
    "name": "a",
    "trustTier": "verified",
    "tags": [],
    "status": "active",
    "createdAt": "2026-01-31T12:00:00.000000Z",
}
ERROR: Final = {"error": "not_found", "message": "there is no agent a"}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_answer_that_is_as_described_passes(prefix: str) -> None:
    conformity.check(_answer("GET", f"{prefix}/agents/a", 200, AGENT))
    conformity.check(_answer("GET", f"{prefix}/agents/a", 404, ERROR))
    conformity.check(_answer("PUT", f"{prefix}/nothing", 404, ERROR))


@pytest.mark.parametrize(
    "answer",
    [
        # A status that is none of the operation's; a redirect.
        _answer("GET", "/admin/agents/a", 500, ERROR),
        _answer("GET", "/admin/agents/a", 201, AGENT),
        _answer("GET", "/admin/agents/a", 307, ERROR),
        # A key that is missing, null, of another type, one too many, or no time.
        _answer("GET", "/admin/agents/a", 200, {k: v for k, v in AGENT.items() if k != "tags"}),
        _answer("GET", "/admin/agents/a", 200, {**AGENT, "orgId": None}),
        _answer("GET", "/admin/agents/a", 200, {**AGENT, "tags": "x"}),
        _answer("GET", "/admin/agents/a", 200, {**AGENT, "secret": "x"}),
        _answer("GET", "/admin/agents/a", 200, {**AGENT, "createdAt": "today"}),
        _answer("GET", "/admin/agents/a", 200, {**AGENT, "status": "gone"}),
        # Another body, or content type.
        _answer("GET", "/admin/agents/a", 200, [AGENT]),
        _answer("GET", "/admin/agents/a", 404, {"detail": "Not Found"}),
        _answer("GET", "/admin/agents/a", 200, AGENT, **{"content-type": "text/plain"}),
        # A header that is missing.
        _answer("GET", "/admin/agents/a", 401, ERROR),
        _answer("GET", "/admin/agents/a", 503, ERROR),
        _answer("POST", "/admin/agents/a", 405, ERROR),
        # What is not described.
        _answer("POST", "/admin/agents/a", 200, AGENT),
        _answer("GET", "/nothing", 200, AGENT),
        _answer("GET", "/nothing", 405, ERROR, allow="GET"),
        _answer("GET", "/nothing", 404, {"detail": "Not Found"}),
    ],
)
def test_an_answer_that_is_not_as_described_is_seen(answer: httpx.Response) -> None:
    with pytest.raises((Unlike, json.JSONDecodeError)):
        conformity.check(answer)
