"""Made-up requests, good and bad, to every operation that the reference has (schemathesis).

- The examples first, which all do what they say; then the boundaries of each parameter and body,
  what is just beyond them, and what a generator makes of them. Always the same ones, so that a
  failure is found again.
- Each operation has a world of its own, in which what the examples name is there.
- Who may not is 401 at every operation that asks who it is, with whatever credential.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.generation.meta import TestPhase

from authz.edges.readers import jobs
from authz.reference.audit import DATABASE
from authz.reference.build import ALIASES
from authz.reference.operation import ADMIN as ADMINS
from authz.reference.operation import AGENT, IN_PATHS
from authz.stores.audit_slice import write_slice
from authz.stores.policies import PolicyDirectory
from tests.edges.conformity import document
from tests.edges.world import ADMIN, TOKEN, World

#: Made-up requests of an operation, besides its examples and boundaries.
EXAMPLES: Final = 3
#: A schema says less of a good request than its sentences do: an opaque `after`, a duration, a
#: policy whose name is the path's. What the examples ask for is done, though.
_LOOSE: Final = {"checks": {"positive_data_acceptance": {"enabled": False}}}
CONFIG: Final = SchemathesisConfig.from_dict(
    {
        "checks": {
            # 503 is a fault here: nothing that it could be for is missing in these worlds.
            "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx"]},
            "positive_data_acceptance": {"expected-statuses": ["2xx"]},
            # Besides what it expects: a body that is too large for its faults to be found.
            "negative_data_rejection": {"expected-statuses": ["4xx"]},
            # It sends its requests itself, and to a server; see the last test.
            "ignored_auth": {"enabled": False},
        },
        "phases": {"coverage": _LOOSE, "fuzzing": _LOOSE},
        # These worlds have nowhere to send alerts.
        "operations": [
            {
                "include-path-regex": "^/admin/alerts/.*test$",
                "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "409"]}},
            }
        ],
        # Credentials are ours to send.
        "generation": {"with-security-parameters": False},
    }
)
SCHEMA: Final = schemathesis.openapi.from_dict(document(), config=CONFIG)

RULES: Final = """\
name: everybody
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {effect: allow, actions: ["read:*", "delete:customers"]}
  - {effect: require_approval, actions: ["pay:*"]}
defaultEffect: deny
---
name: readers
version: "1"
appliesTo: {tags: [docs]}
rules: [{effect: allow, actions: ["read:*"]}]
defaultEffect: deny
---
kind: RiskWallet
name: points
version: "1"
capacity: 10
window: 1h
costs: [{actions: ["read:dear"], cost: 4}]
"""
#: Fails so often that a fuse opens.
FAILURES: Final = 5


class Furnished:
    """A world in which everything is that the examples are about."""

    def __init__(self, directory: Path) -> None:
        self.world = world = World(directory)
        world.policies.mkdir()
        (world.policies / "policies.yaml").write_text(RULES)
        world.loaded = PolicyDirectory(world.policies).read()
        world.snapshot = world.loaded.snapshot
        world.versions.start(world.snapshot)
        for agent_id in ("reviewer", "planner"):
            self._done(world.admin("POST", "/agents", json={"id": agent_id, "name": agent_id}))
        headers = world.agent("reviewer")
        body = {"targetAgentId": "helper", "scope": ["read:docs"]}
        made = self._done(world.ask("POST", "/relationships", headers=headers, json=body))
        edge = str(made["relationship"]["id"])
        for _ in range(FAILURES):
            world.check("helper", "read:other", delegation=edge)
        trace = IN_PATHS["trace_id"]
        told = self._done(world.check("reviewer", "read:dear", trace_id=trace))
        waiting = world.check("reviewer", "pay:invoice").json()
        #: What the ids of the examples are here.
        self._here: Mapping[str, str] = {
            IN_PATHS["decision_id"]: told["decisionId"],
            IN_PATHS["pending_id"]: waiting["pendingId"],
            IN_PATHS["relationship_id"]: edge,
            IN_PATHS["version"]: world.versions.current.version,
        }

    @staticmethod
    def _done(answer: httpx.Response) -> dict[str, Any]:
        assert answer.is_success, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def ask(self, case: "Case[Any]", headers: Mapping[str, str]) -> httpx.Response:
        """The answer to a made-up request with these headers besides its own."""
        arguments = case.as_transport_kwargs("http://a", dict(headers))
        asked = requests.Request(**arguments).prepare()
        assert asked.method is not None
        assert asked.url is not None
        body = asked.body.encode() if isinstance(asked.body, str) else asked.body or b""
        assert isinstance(body, bytes)
        url = asked.url
        for told, here in self._here.items():
            url, body = url.replace(told, here), body.replace(told.encode(), here.encode())
        if DATABASE.encode() in body:
            body = body.replace(DATABASE.encode(), self._trail())
        asked.headers["Content-Length"] = str(len(body))
        return self.world.ask(asked.method, url, headers=asked.headers, content=body)

    def _trail(self) -> bytes:
        """An audit database: its own trail."""
        file = self.world.database.with_name("slice.db")
        file.unlink(missing_ok=True)
        assert write_slice(self.world.database, 0, 100, file)
        return file.read_bytes()


class Worlds:
    """Where requests are made: a world takes longer to make than most of them.

    What only reads for administrators has one for all. Of what changes something each example has a
    world in which nothing has been done yet, and all the rest of an operation has one.
    """

    def __init__(self, directory: Path, quiet: Furnished) -> None:
        self._directory = directory
        self._quiet = quiet
        self._made: list[Furnished] = []
        self._shared: Furnished | None = None

    def of(self, case: "Case[Any]") -> Furnished:
        """Where a request is made."""
        assert case.meta is not None
        if case.operation.method == "get" and case.operation.path.startswith("/admin/"):
            return self._quiet
        if case.meta.phase.name is TestPhase.EXAMPLES:
            return self._new()
        if self._shared is None:
            self._shared = self._new()
        return self._shared

    def _new(self) -> Furnished:
        directory = self._directory / str(len(self._made))
        directory.mkdir()
        self._made.append(Furnished(directory))
        return self._made[-1]

    def close(self) -> None:
        for made in self._made:
            made.world.close()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Furnished]:
    made = Furnished(tmp_path_factory.mktemp("quiet"))
    yield made
    made.world.close()


@pytest.fixture
def worlds(tmp_path: Path, quiet: Furnished, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worlds]:
    # A tail that ends at once.
    monkeypatch.setattr(jobs, "TAIL_S", 0.0)
    made = Worlds(tmp_path, quiet)
    yield made
    made.close()


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    # Without shrinking, which would take longer than all the rest.
    phases=[Phase.explicit, Phase.generate],
    # The one world of an operation is meant.
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_is_described(case: "Case[Any]", worlds: Worlds) -> None:
    furnished = worlds.of(case)
    who = case.operation.definition.raw["security"]
    headers = furnished.world.agent("reviewer") if AGENT[0] in who else ADMIN
    case.validate_response(furnished.ask(case, headers), headers=dict(headers))


def _secured() -> Iterator[Any]:
    """Method, path, and the operation, of everything that asks who it is, by all its names."""
    for template, methods in document()["paths"].items():
        path = template.format_map(IN_PATHS)
        aliases = [path] + [f"/api/v1{path}"] * f"/api/v1{path}".startswith(ALIASES)
        for method, operation in methods.items():
            for name in aliases if operation["security"] else ():
                yield pytest.param(method.upper(), name, operation, id=f"{method.upper()} {name}")


@pytest.mark.parametrize(("method", "path", "operation"), list(_secured()))
def test_who_may_not_is_401_and_has_done_nothing(
    quiet: Furnished, method: str, path: str, operation: dict[str, Any]
) -> None:
    world = quiet.world
    parameters = operation.get("parameters", ())
    headers = [one for one in parameters if one["in"] == "header" and "example" in one]
    sent = {header["name"]: header["example"] for header in headers}
    bodies = operation.get("requestBody", {"content": {}})["content"]
    # A form is refused before it is read.
    body = bodies.get("application/json", {}).get("example")
    token = world.agent("reviewer")["Authorization"].removeprefix("Bearer ")
    others: list[dict[str, str]] = [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {token}"},
        {"Authorization": f"Bearer {token}x"},
        {"X-Admin-Token": f"{TOKEN}x"},
        {"X-Admin-Token": token},
    ]
    if AGENT[0] not in operation["security"]:
        others += [{"Authorization": f"Bearer {token}"}]
    if ADMINS[0] not in operation["security"]:
        others += [{"Authorization": f"Bearer {TOKEN}"}, ADMIN]
    before = world.changes()
    for credentials in others:
        answer = world.ask(method, path, headers={**sent, **credentials}, json=body)
        assert answer.status_code == 401, (credentials, answer.text)
    changed = [change for change in world.changes() if change not in before]
    assert [change for change in changed if "refused" not in change[0]] == []
