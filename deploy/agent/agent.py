"""An agent to look at: what it may do, what it may not, and how it notices, by the published SDK.

It works through a small plan, prints each answer that it gets, and compares it with what its
sidecar's policies say, in the mode that the sidecar says it is in. It ends with 0 where everything
was as expected, and with 1 where something was not: also where something went through that must
not.

- `API_BASE_URL`: the sidecar, with the path below which it forwards: `http://sidecar:3100/proxy`.
- `AGENT_TOKEN_FILE`: a file with the token that says who it is.
- `AGENT`: whose plan it follows, `code-reviewer` (the default) or `summarizer`.
- `AROUND`, if set: URLs that it must not get to, separated by blanks. A good agent does not try;
  one that was talked into something does.
- `OTHER_SIDECAR`, if set: another agent's sidecar, which must not take its token.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from meshguard import MeshGuardClient, MeshGuardError, PolicyDeniedError

#: Seconds that an answer may take, and that trying to get round the sidecar may.
TIMEOUT_S: Final = 10.0
AROUND_TIMEOUT_S: Final = 3.0


@dataclass(frozen=True)
class Step:
    """Something to do: a request, and what it is called in the policies."""

    method: str
    path: str
    action: str


@dataclass(frozen=True)
class Plan:
    """What an agent is about to do, and what its policies say to that."""

    allowed: Step
    denied: Step
    #: Action, and whether it is allowed.
    actions: dict[str, bool]


PLANS: Final = {
    "code-reviewer": Plan(
        allowed=Step("GET", "docs/intro", "read:docs/intro"),
        denied=Step("DELETE", "docs/intro", "write:delete"),
        actions={
            "read:pull-requests": True,
            "write:comments": True,
            "write:delete": False,
            "admin:settings": False,
            "pay:invoice": False,
        },
    ),
    "summarizer": Plan(
        allowed=Step("GET", "documents/42", "read:documents/42"),
        denied=Step("POST", "mail", "send:mail"),
        actions={
            "read:documents/7": True,
            "write:summaries/7": True,
            "read:secrets/api-key": False,
            "write:comments": False,
        },
    ),
}


@dataclass
class Agent:
    """One run of a plan."""

    client: MeshGuardClient
    mode: str
    #: What was not as expected.
    surprises: list[str] = field(default_factory=list)

    @property
    def blocks(self) -> bool:
        """Denials block, in this mode."""
        return self.mode == "enforce"

    def follow(self, plan: Plan) -> None:
        """Do everything in it."""
        heading("A request that is allowed")
        self.request(plan.allowed, allowed=True)
        heading("A request that is denied")
        self.request(plan.denied, allowed=False)
        heading("check(): may I, without doing it")
        for action, allowed in plan.actions.items():
            self.check(action, allowed=allowed)
        heading("A whole plan at once, against one version of the policies")
        self.batch(plan.actions)

    def request(self, step: Step, *, allowed: bool) -> None:
        """Send a request through the sidecar."""
        print(f"  {step.method} /{step.path} as {step.action}")
        try:
            answer = self.client.request(step.method, step.path, action=step.action)
        except PolicyDeniedError as denied:
            self.say("DENY", denied.policy, denied.rule, denied.reason)
            self.expect(not allowed and self.blocks, f"{step.action} was denied")
            return
        would_deny = answer.headers.get("x-meshguard-would-deny")
        policy = answer.headers.get("x-meshguard-policy")
        if would_deny:
            self.say(
                "AUDIT-ONLY", policy, would_deny, "forwarded; enforce mode would have denied it"
            )
        else:
            self.say("ALLOW", policy, None, None)
        print(f"             the upstream answered {answer.status_code}, and saw {seen(answer)}")
        self.expect(allowed or not self.blocks, f"{step.action} went through")
        self.expect(
            bool(would_deny) == (not allowed and self.mode == "audit"),
            f"{step.action} would {'' if would_deny else 'not '}have been denied",
        )

    def check(self, action: str, *, allowed: bool) -> None:
        """Ask whether an action is allowed."""
        said = self.client.check(action)
        # What audit mode would have denied, this SDK does not tell: the batch below does.
        self.say("ALLOW" if said.allowed else "DENY", said.policy, said.rule, said.reason, action)
        self.expect(said.allowed == (allowed or not self.blocks), f"check({action!r}) was answered")

    def batch(self, actions: dict[str, bool]) -> None:
        """Ask for all of them in one request, which the SDK has no method for yet."""
        answer = httpx.post(
            f"{self.client.gateway_url}/api/v1/governance/batch",
            headers={"Authorization": f"Bearer {self.client.agent_token}"},
            json={"actions": [{"action": action} for action in actions]},
            timeout=TIMEOUT_S,
        ).raise_for_status()
        results: list[dict[str, Any]] = answer.json()["results"]
        self.expect(len(results) == len(actions), "the batch was answered")
        for (action, allowed), result in zip(actions.items(), results, strict=False):
            would_deny = bool(result.get("wouldDeny"))
            verdict = "AUDIT-ONLY" if would_deny else str(result["decision"]).upper()
            self.say(
                verdict, result.get("policy"), result.get("rule"), result.get("reason"), action
            )
            self.expect(
                (result["decision"] == "allow") == (allowed or not self.blocks)
                and would_deny == (not allowed and self.mode == "audit"),
                f"{action} was answered in the batch",
            )

    def go_around(self, url: str) -> None:
        """Try to reach something without the sidecar."""
        try:
            answer = httpx.get(url, timeout=AROUND_TIMEOUT_S)
        except httpx.TransportError as error:
            print(f"  {url}: not to be reached ({type(error).__name__}: {error})")
        else:
            print(f"  {url}: HTTP {answer.status_code}")
            self.expect(False, f"{url} was reached past the sidecar")

    def impersonate(self, url: str) -> None:
        """Try what another agent's sidecar says to our token."""
        # By hand: the SDK keeps to itself why a token is refused.
        answer = httpx.get(
            f"{url}/proxy/check",
            headers={
                "Authorization": f"Bearer {self.client.agent_token}",
                "X-MeshGuard-Action": "read:documents/7",
            },
            timeout=TIMEOUT_S,
        )
        said = answer.json()
        verdict = "REFUSED" if answer.status_code == 401 else str(said.get("decision")).upper()
        if said.get("wouldDeny"):
            verdict = "AUDIT-ONLY"
        reason = said.get("message") or said.get("reason") or ""
        print(f"  {url}: {verdict} {said.get('code', '')} ({reason})")
        # Audit mode forwards everything, this too, and has it on record.
        self.expect(
            answer.status_code == (401 if self.blocks else 200),
            f"{url} answered the token of another agent with {answer.status_code}",
        )

    def say(
        self,
        verdict: str,
        policy: str | None,
        rule: str | None,
        reason: str | None,
        action: str = "",
    ) -> None:
        """Print an answer on a line."""
        by = " ".join(part for part in (policy, rule) if part)
        words = [
            f"  {verdict:<10}",
            f"{action:<22}" if action else "",
            by,
            f"({reason})" if reason else "",
        ]
        print(" ".join(word for word in words if word).rstrip())

    def expect(self, condition: bool, surprise: str) -> None:
        """Remember what must not be."""
        if not condition:
            self.surprises.append(surprise)


def heading(text: str) -> None:
    """Begin a part of the output."""
    print(f"\n{text}")


def seen(answer: httpx.Response) -> str:
    """What the bundled echo upstream says that it got; another one says something else."""
    try:
        echo = answer.json()
        headers = {name.lower() for name in echo["headers"]}
        token = "our token" if "authorization" in headers else "no token"
        return f"{echo['method']} {echo['path']} with {token}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "more than it tells"


def main(env: dict[str, str], plans: dict[str, Plan] = PLANS) -> int:
    """Follow the plan of an environment; the exit code."""
    name = env.get("AGENT") or "code-reviewer"
    if name not in plans:
        return fail(f"AGENT: no plan for it; write one of {', '.join(plans)}")
    url = env.get("API_BASE_URL", "").rstrip("/").removesuffix("/proxy")
    if not url:
        return fail("API_BASE_URL: not set; write http://SIDECAR:3100/proxy")
    try:
        token = Path(env.get("AGENT_TOKEN_FILE", "")).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        return fail(f"AGENT_TOKEN_FILE: cannot be read: {error}")
    with MeshGuardClient(gateway_url=url, agent_token=token, timeout=TIMEOUT_S) as client:
        try:
            mode = str(client.health()["mode"])
            agent = Agent(client, mode)
            print(f"I am {name}. My sidecar is {url}, in mode {mode}.")
            agent.follow(plans[name])
            extra: list[tuple[str, str, Callable[[str], None]]] = [
                ("AROUND", "Past the sidecar", agent.go_around),
                ("OTHER_SIDECAR", "Through another agent's sidecar", agent.impersonate),
            ]
            for variable, title, attempt in extra:
                urls = env.get(variable, "").split()
                if urls:
                    heading(title)
                for one in urls:
                    attempt(one)
        except (MeshGuardError, httpx.HTTPError, ValueError, KeyError) as error:
            return fail(f"{url}: {type(error).__name__}: {error}")
    if agent.surprises:
        return fail("not as expected: " + "; ".join(agent.surprises))
    print(f"\nAll of it as expected in mode {mode}.")
    return 0


def fail(sentence: str) -> int:
    """Say what is wrong."""
    sys.stdout.flush()
    print(f"agent: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(dict(os.environ)))
