"""Two agents, each with a sidecar of its own: what is one's is of no use at the other's."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.containers.pods import Pod, pod
from tests.e2e.sidecar import bearer

REVIEWER, SUMMARIZER = "code-reviewer", "summarizer"
POLICIES = {
    REVIEWER: """\
name: reviewer
version: "1"
appliesTo: {tags: [code-review]}
rules: [{effect: allow, actions: ["read:*", "write:comments"]}]
defaultEffect: deny
""",
    SUMMARIZER: """\
name: summarizer
version: "1"
appliesTo: {tags: [summaries]}
rules: [{effect: allow, actions: ["read:documents*"]}]
defaultEffect: deny
""",
}
TOKENS = {
    REVIEWER: bearer(agent_id=REVIEWER, tags=("code-review",)),
    SUMMARIZER: bearer(agent_id=SUMMARIZER, tags=("summaries",)),
}


class Two(NamedTuple):
    reviewer: Pod
    summarizer: Pod


@pytest.fixture(scope="module")
def two(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with contextlib.ExitStack() as stack:
        pods = []
        for agent, policy in POLICIES.items():
            directory: Path = tmp_path_factory.mktemp(agent)
            directory.chmod(0o755)
            (directory / "policy.yaml").write_text(policy)
            mounts: dict[str, str] = {str(directory): "/policies:ro"}
            pods.append(stack.enter_context(pod(image, mounts=mounts, SIDECAR_AGENT_ID=agent)))
        yield Two(*pods)


def test_each_has_its_own_policies_and_its_own_trail(two: Two) -> None:
    before = [len(one.rows()) for one in two]
    assert two.reviewer.client.get("/proxy/code", headers=TOKENS[REVIEWER]).status_code == 200
    assert two.summarizer.client.get("/proxy/code", headers=TOKENS[SUMMARIZER]).status_code == 403
    answer = two.summarizer.client.get("/proxy/documents/1", headers=TOKENS[SUMMARIZER])
    assert answer.status_code == 200
    reviewer, summarizer = (
        [(row["agent_id"], row["decision"]) for row in one.rows()[rows:]]
        for one, rows in zip(two, before, strict=True)
    )
    assert reviewer == [(REVIEWER, "allow")]
    assert summarizer == [(SUMMARIZER, "deny"), (SUMMARIZER, "allow")]
    assert two.reviewer.verify().endswith("the trail verifies\n")
    assert two.summarizer.verify().endswith("the trail verifies\n")


@pytest.mark.parametrize(("agent", "other"), [(REVIEWER, SUMMARIZER), (SUMMARIZER, REVIEWER)])
def test_a_token_is_of_no_use_at_the_other_sidecar(two: Two, agent: str, other: str) -> None:
    """Both trust the same key, so that only whose the token is tells them apart."""
    there, mine = (two.reviewer, two.summarizer) if other == REVIEWER else reversed(two)
    hits, rows, own = there.hits(), len(there.rows()), len(mine.rows())
    answer = there.client.get("/proxy/documents/1", headers=TOKENS[agent])
    assert (answer.status_code, answer.json()["code"]) == (401, "token_wrong_agent")
    assert there.hits() == hits
    [row] = there.rows()[rows:]
    assert (row["decision"], row["code"]) == ("deny", "token_wrong_agent")
    assert len(mine.rows()) == own
