"""What the SDK has for LangChain: a tool runs where its action is allowed, and nowhere else.

It wants of a tool that it has a name and can be run, so any such object is one. LangChain itself
is imported by one function only, which hands its governed tools on to it.
"""

import asyncio
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from meshguard import MeshGuardClient, PolicyDeniedError
from meshguard.client import PolicyDecision
from meshguard.langchain import (
    GovernedTool,
    GovernedToolkit,
    create_governed_agent,
    governed_tool,
)

from tests.sdk.gateway import Agent, Gateway, Judged
from tests.sdk.surface import drives


class Tool:
    """What the SDK takes for a LangChain tool."""

    description = "looks things up"

    def __init__(self, name: str = "search") -> None:
        self.name = name
        self.ran: list[Any] = []

    def run(self, *args: Any, **kwargs: Any) -> str:
        self.ran.append((args, kwargs))
        return f"found by {self.name}"

    async def arun(self, *args: Any, **kwargs: Any) -> str:
        return self.run(*args, **kwargs)


class Nameless:
    """A tool that says nothing of itself."""

    def run(self) -> str:
        return "ran"


def told(error: PolicyDeniedError, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """What a denial's callback gets."""
    return error.action, error.policy, error.rule, error.reason, args, kwargs


#: What it comes to, for a tool that was called with `"q", k=1`.
TOLD = ("drop:index", "sdk-tests", "never", "nothing is dropped", ("q",), {"k": 1})
ALLOWED = Judged("read:web", "allow", "rule_allowed")
DENIED = Judged("drop:index", "deny", "rule_denied")


@pytest.fixture
def agent(gateway: Gateway) -> Agent:
    return gateway.agent()


@pytest.fixture
def from_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MeshGuardClient]]:
    """The clients that the SDK makes for itself, which it leaves open."""
    made: list[MeshGuardClient] = []

    def make() -> MeshGuardClient:
        made.append(MeshGuardClient())
        return made[-1]

    monkeypatch.setattr("meshguard.langchain.MeshGuardClient", make)
    yield made
    for client in made:
        client.close()


def use_environment(gateway: Gateway, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the SDK's own clients are told."""
    monkeypatch.setenv("MESHGUARD_GATEWAY_URL", gateway.sidecar.url)
    monkeypatch.setenv("MESHGUARD_AGENT_TOKEN", agent.token)


@drives("governed_tool")
def test_a_decorated_function_runs_where_it_is_allowed(gateway: Gateway, agent: Agent) -> None:
    ran: list[str] = []

    def look_up(query: str, k: int = 0) -> str:
        """Look it up."""
        ran.append(query)
        return f"{query}{k}"

    def made(action: str, **kwargs: Any) -> Any:
        return governed_tool(action, client=agent.client, **kwargs)(look_up)

    allowed = made("read:web")
    assert (allowed.__name__, allowed.__doc__) == ("look_up", "Look it up.")
    assert allowed("q", k=1) == "q1"
    if gateway.blocks:
        with pytest.raises(PolicyDeniedError) as caught:
            made("drop:index")("q", k=1)
        assert told(caught.value, "q", k=1) == TOLD
        assert made("drop:index", on_deny=told)("q", k=1) == TOLD
    else:
        assert made("drop:index")("q", k=1) == "q1"
        assert made("drop:index", on_deny=told)("q", k=1) == "q1"
    assert len(ran) == (1 if gateway.blocks else 3)
    gateway.assert_recorded(agent.client, agent, ALLOWED, DENIED, DENIED)


@drives("governed_tool")
def test_a_function_that_asks_for_it_is_given_the_decision(gateway: Gateway, agent: Agent) -> None:
    def look_up(meshguard_decision: PolicyDecision | None = None) -> PolicyDecision | None:
        return meshguard_decision

    policy = "sdk-tests" if gateway.records else "bypassed"
    trace = agent.client.trace_id
    expected = PolicyDecision(True, "read:web", "allow", policy, None, None, trace)
    assert governed_tool("read:web", client=agent.client)(look_up)() == expected


@drives("GovernedTool", "GovernedTool.run", "GovernedTool.arun", "GovernedTool.__call__")
def test_a_wrapped_tool_runs_where_it_is_allowed(gateway: Gateway, agent: Agent) -> None:
    tool = Tool()
    allowed = GovernedTool(tool, "read:web", agent.client)
    denied = GovernedTool(tool, "drop:index", agent.client)
    telling = GovernedTool(tool, "drop:index", agent.client, on_deny=told)
    assert (allowed.name, allowed.description) == ("search", "looks things up")
    for call in _ways():
        assert call(allowed) == "found by search"
        if gateway.blocks:
            with pytest.raises(PolicyDeniedError) as caught:
                call(denied)
            assert told(caught.value, "q", k=1) == TOLD
            assert call(telling) == TOLD
        else:
            assert call(denied) == call(telling) == "found by search"
    assert tool.ran == [(("q",), {"k": 1})] * (3 if gateway.blocks else 9)
    gateway.assert_recorded(agent.client, agent, *[ALLOWED, DENIED, DENIED] * 3)


@drives("GovernedToolkit", "GovernedToolkit.get_action", "GovernedToolkit.get_tools")
def test_a_toolkit_governs_each_tool_by_its_name(gateway: Gateway, agent: Agent) -> None:
    search, index, other = Tool(), Tool("index"), Nameless()
    toolkit = GovernedToolkit(
        [search, index, other],
        client=agent.client,
        action_map={"search": "read:web", "index": "drop:index"},
        on_deny=told,
    )
    actions = ["read:web", "drop:index", "execute:tool"]
    assert [toolkit.get_action(tool) for tool in (search, index, other)] == actions
    governed = toolkit.get_tools()
    assert [tool.action for tool in governed] == actions
    assert [tool.name for tool in governed] == ["search", "index", "Nameless"]
    assert governed[0].run("q", k=1) == "found by search"
    said = governed[1].run("q", k=1), governed[2].run()
    if gateway.blocks:
        assert said[0] == TOLD
        assert said[1][:3] == ("execute:tool", "sdk-tests", "default-deny")
    else:
        assert said == ("found by index", "ran")
    # A tool that nobody has thought of is denied unless somebody allows it.
    default = Judged("execute:tool", "deny", "default_denied")
    gateway.assert_recorded(agent.client, agent, ALLOWED, DENIED, default)
    reading = GovernedToolkit([other], agent.client, default_action="read:anything")
    assert reading.get_tools()[0].run() == "ran"


@drives("governed_tool", "GovernedTool", "GovernedToolkit", "MeshGuardClient")
def test_without_a_client_they_make_one_from_the_environment(
    gateway: Gateway,
    agent: Agent,
    monkeypatch: pytest.MonkeyPatch,
    from_environment: list[MeshGuardClient],
) -> None:
    use_environment(gateway, agent, monkeypatch)
    assert governed_tool("read:web")(lambda: "ran")() == "ran"
    assert GovernedTool(Nameless(), "read:web").run() == "ran"
    toolkit = GovernedToolkit([Nameless()], default_action="read:web")
    assert toolkit.get_tools()[0].run() == "ran"
    assert len(from_environment) == 3
    for client in from_environment:
        gateway.assert_recorded(client, agent, ALLOWED)


@drives("create_governed_agent")
def test_an_agent_of_langchain_gets_governed_tools(
    gateway: Gateway, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def initialize_agent(**kwargs: Any) -> str:
        given.update(kwargs)
        return "an agent"

    kinds = ("ZERO_SHOT", "CONVERSATIONAL", "STRUCTURED_CHAT_ZERO_SHOT")
    names = [f"{kind}_REACT_DESCRIPTION" for kind in kinds]
    agents = types.ModuleType("langchain.agents")
    agents.initialize_agent = initialize_agent  # type: ignore[attr-defined]
    agents.AgentType = types.SimpleNamespace(**{name: name for name in names})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "langchain", types.ModuleType("langchain"))
    monkeypatch.setitem(sys.modules, "langchain.agents", agents)
    tool = Tool("index")
    actions = {"index": "drop:index"}
    made = create_governed_agent(
        "a model", [tool, Tool()], agent.client, actions, "conversational-react-description",
        verbose=True,
    )  # fmt: skip
    assert made == "an agent"
    assert (given["llm"], given["agent"], given["verbose"]) == ("a model", names[1], True)
    assert [governed.action for governed in given["tools"]] == ["drop:index", "execute:tool"]
    if gateway.blocks:
        with pytest.raises(PolicyDeniedError):
            given["tools"][0].run("q")
        assert tool.ran == []
    else:
        assert given["tools"][0].run("q") == "found by index"
    gateway.assert_recorded(agent.client, agent, DENIED)


@drives("create_governed_agent")
def test_without_langchain_it_says_what_is_missing(
    gateway: Gateway, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "langchain", None)
    monkeypatch.setitem(sys.modules, "langchain.agents", None)
    with pytest.raises(ImportError, match="LangChain is required"):
        create_governed_agent("a model", [Tool()], agent.client)
    assert gateway.rows(agent.client) == []


def _ways() -> list[Callable[[GovernedTool], Any]]:
    """Each way to run a tool."""
    return [
        lambda tool: tool.run("q", k=1),
        lambda tool: tool("q", k=1),
        lambda tool: asyncio.run(tool.arun("q", k=1)),
    ]
