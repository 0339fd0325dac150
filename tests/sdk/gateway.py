"""A demo in one of the modes, the SDK's clients of it, and what came of their calls."""

import contextlib
import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import httpx
from meshguard import MeshGuardClient

from authz.core.mode import Mode
from tests.e2e.sidecar import Sidecar

#: What the agents of these tests are, for `policies.yaml`.
TAGS: Final = ("sdk",)
POLICY: Final = "sdk-tests"

_numbers = itertools.count(1)


class Judged(NamedTuple):
    """What a row says of a call."""

    action: str
    decision: str
    code: str


@dataclass
class Gateway:
    """What `make run` started, for the length of a test."""

    sidecar: Sidecar
    mode: Mode
    opened: contextlib.ExitStack = field(repr=False)

    @property
    def blocks(self) -> bool:
        """A denial keeps something from happening."""
        return self.mode is Mode.ENFORCE

    @property
    def records(self) -> bool:
        """Calls leave rows."""
        return self.mode is not Mode.BYPASS

    @property
    def demo_token(self) -> str:
        """The token that is printed for whoever tries it out."""
        [token] = re.findall(r"^TOKEN=(\S+)$", self.sidecar.out(), re.MULTILINE)
        return str(token)

    def secret(self, name: str) -> str:
        """A secret that was made up for the demo."""
        secrets = self.sidecar.directory / "data" / "run" / "dev-secrets.json"
        return str(json.loads(secrets.read_text())[name])

    def client(self, agent_token: str | None = None, **kwargs: Any) -> MeshGuardClient:
        """A client of the SDK with a trace of its own; it is closed with the test."""
        made = MeshGuardClient(self.sidecar.url, agent_token, **kwargs)
        self.opened.callback(made.close)
        return made

    def admin(self) -> MeshGuardClient:
        """A client of whoever has the admin token."""
        return self.client(admin_token=self.secret("ADMIN_TOKEN"))

    def agent(self, trust_tier: str = "verified", tags: tuple[str, ...] = TAGS) -> "Agent":
        """An agent made by the SDK, with a client that has its token."""
        made = self.admin().create_agent(f"agent-{next(_numbers)}", trust_tier, list(tags))
        return Agent(made["id"], made["name"], made["token"], self.client(made["token"]))

    def forwarded(self) -> int:
        """Requests that have reached the upstream so far."""
        [upstream] = re.findall(r"^ upstream: (\S+)$", self.sidecar.out(), re.MULTILINE)
        return int(httpx.get(f"{upstream}/__hits").json()["hits"])

    def rows(self, client: MeshGuardClient) -> list[dict[str, Any]]:
        """The rows of a client's calls: there is a trace for each client."""
        return [row for row in self.sidecar.rows() if row["trace_id"] == client.trace_id]

    def changes(self, about: str) -> list[str]:
        """What was recorded of changes to something, oldest first."""
        rows = self.sidecar.rows(control=True)
        return [row["action"] for row in rows if row["resource"] == about]

    def assert_recorded(
        self, client: MeshGuardClient, agent: "Agent | None", *expected: Judged
    ) -> None:
        """A row for each of a client's calls, as the mode has them, and no other.

        Args:
            agent: who was judged; None where nobody could be told from the token.
        """
        rows = self.rows(client)
        if not self.records:
            assert rows == []
            return
        assert [Judged(row["action"], row["decision"], row["code"]) for row in rows] == list(
            expected
        )
        for row in rows:
            assert row["mode"] == self.mode
            assert row["enforced"] == (row["decision"] if self.blocks else "allow")
            assert (row["agent_id"], row["agent_name"]) == (
                (agent.id, agent.name) if agent else (None, None)
            )


@dataclass
class Agent:
    """An agent in the demo's registry."""

    id: str
    name: str
    token: str
    client: MeshGuardClient
