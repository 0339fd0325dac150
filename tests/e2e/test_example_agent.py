"""The example agent of deploy/agent against real sidecars: its verdict is worth something."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from authz.core.identity import mint
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import JWT_SECRET, Sidecar, free_port
from tests.e2e.upstream import Upstream

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "deploy" / "agent" / "agent.py"
TAGS = {"code-reviewer": "code-review", "summarizer": "summaries"}


def agent(
    sidecar: Sidecar, name: str = "code-reviewer", **env: str
) -> subprocess.CompletedProcess[str]:
    token = mint(JWT_SECRET, agent_id=name, now=time.time(), ttl_s=3600, tags=(TAGS[name],))
    file = sidecar.directory / "agent.jwt"
    file.write_text(f"{token}\n")
    given = {"API_BASE_URL": f"{sidecar.url}/proxy", "AGENT_TOKEN_FILE": str(file), "AGENT": name}
    return subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, env=given | env, check=False
    )


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("code-reviewer", "enforce"),
        ("code-reviewer", "audit"),
        ("code-reviewer", "bypass"),
        ("summarizer", "enforce"),
    ],
)
def test_what_it_expects_is_what_its_policies_say(upstream: Upstream, name: str, mode: str) -> None:
    policies = str(ROOT / "deploy" / "policies" / name)
    with starter.running(upstream, MODE=mode, POLICIES_DIR=policies, SIDECAR_AGENT_ID=name) as run:
        around = f"http://127.0.0.1:{free_port()}/"
        done = agent(run, name, AROUND=around)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.endswith(f"\nAll of it as expected in mode {mode}.\n")
    assert f"{around}: not to be reached" in done.stdout
    assert ("DENY" in done.stdout) == (mode == "enforce")
    assert ("AUDIT-ONLY" in done.stdout) == (mode == "audit")


def test_policies_that_let_everything_through_are_a_surprise(
    upstream: Upstream, tmp_path: Path
) -> None:
    (tmp_path / "all.yaml").write_text(
        'name: all\nversion: "1"\nappliesTo: {tags: [code-review]}\n'
        'rules: [{effect: allow, actions: ["*"]}]\ndefaultEffect: allow\n'
    )
    with starter.running(upstream, POLICIES_DIR=str(tmp_path)) as run:
        done = agent(run)
    assert done.returncode == 1
    assert "agent: not as expected: write:delete went through" in done.stderr


def test_a_sidecar_that_denies_everything_is_a_surprise(upstream: Upstream, tmp_path: Path) -> None:
    with starter.running(upstream, POLICIES_DIR=str(tmp_path)) as run:
        done = agent(run)
    assert done.returncode == 1
    assert "agent: not as expected: read:docs/intro was denied" in done.stderr


def test_a_way_round_the_sidecar_is_a_surprise(enforcing: Sidecar, upstream: Upstream) -> None:
    done = agent(enforcing, AROUND=upstream.url)
    assert done.returncode == 1
    assert "was reached past the sidecar" in done.stderr


def test_another_agents_sidecar_has_to_refuse_it(enforcing: Sidecar, upstream: Upstream) -> None:
    with starter.running(upstream, SIDECAR_AGENT_ID="summarizer") as other:
        done = agent(enforcing, OTHER_SIDECAR=other.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "REFUSED token_wrong_agent" in done.stdout
    done = agent(enforcing, OTHER_SIDECAR=enforcing.url)
    assert done.returncode == 1
    assert "answered the token of another agent with 200" in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"AGENT": "nobody"}, "AGENT: no plan for it; write one of code-reviewer, summarizer"),
        ({"API_BASE_URL": ""}, "API_BASE_URL: not set; write http://SIDECAR:3100/proxy"),
        ({"AGENT_TOKEN_FILE": "/nothing"}, "AGENT_TOKEN_FILE: cannot be read"),
        ({"API_BASE_URL": "http://127.0.0.1:1/proxy"}, "http://127.0.0.1:1: ConnectError"),
    ],
)
def test_what_it_cannot_work_with_it_says(
    enforcing: Sidecar, env: dict[str, str], said: str
) -> None:
    done = agent(enforcing, **env)
    assert done.returncode == 1
    assert done.stderr.startswith(f"agent: {said}")
    assert done.stderr.count("\n") == 1
