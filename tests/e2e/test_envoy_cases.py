"""Cases whose answer is Envoy's own (`through: envoy`), with the real Envoy and the real service.

Only the chain of the service is the case's: its stage `slow` decides when a file says that Envoy
has answered, which takes as long as Envoy waits and no longer.
"""

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz import envoy_config
from authz.envoy_config import EnvoyOptions
from authz.settings import Settings
from tests import case_files
from tests.case_files import Case, name_of
from tests.case_run import columns, compare_answer, compare_row
from tests.case_world import Answered
from tests.e2e import sidecar as starter
from tests.e2e.bare_envoy import connects, process
from tests.e2e.sidecar import PATIENCE_S, bearer, environment, free_port, wait_until
from tests.e2e.upstream import Upstream

_SERVICE = """
import asyncio, functools, json, os, time
from pathlib import Path
from authz import logs, wiring
from authz.core.finding import NO_OBJECTION
from authz.core.stages import CHAIN
from authz.core.stages.stage import Stage
from authz.settings import Settings

def slow(case):
    deadline = time.monotonic() + float(os.environ["PATIENCE_S"])
    while not Path("answered").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return NO_OBJECTION

stages = {stage.name: stage for stage in (*CHAIN, Stage("slow", slow))}
chain = [stages[name] for name in json.loads(os.environ["CHAIN"])]
logs.configure("info", "text", "authz")
wiring.Gate = functools.partial(wiring.Gate, chain=chain)
asyncio.run(wiring.serve(Settings.from_env(os.environ)))
"""


@contextlib.contextmanager
def _serving(path: Path, case: Case, upstream: Upstream) -> Iterator[httpx.Client]:
    """Envoy and a service with the case's chain, in a directory."""
    policies = path / "policies"
    policies.mkdir()
    (policies / "case.yaml").write_text(case.given.documents, "utf-8")
    settings = {"POLICIES_DIR": str(policies), "AUTHZ_RUN_DIR": str(path), **case.given.settings}
    env = environment(path, free_port(), upstream.url, **settings)
    env |= {"CHAIN": json.dumps(case.given.chain), "PATIENCE_S": str(PATIENCE_S)}
    options = EnvoyOptions.of(Settings.from_env(env))
    with (
        (path / "stderr").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-c", _SERVICE], env=env, cwd=path, stderr=log
        ) as service,
        httpx.Client(base_url=f"http://127.0.0.1:{options.port}", timeout=PATIENCE_S) as client,
    ):
        try:
            wait_until(options.run_dir.joinpath("http.sock").exists, "the service")
            with process(path, envoy_config.write(options, path)):
                wait_until(lambda: connects(client), "Envoy to listen")
                yield client
        finally:
            service.terminate()


def _rows(database: Path) -> list[dict[str, Any]]:
    with contextlib.closing(
        sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    ) as connection:
        connection.row_factory = sqlite3.Row
        query = "SELECT * FROM audit WHERE source = 'proxy' ORDER BY seq"
        return [dict(row) for row in connection.execute(query)]


@pytest.mark.parametrize("path", case_files.paths("envoy"), ids=name_of)
def test_what_the_case_says_is_what_envoy_does(path: Path, upstream: Upstream) -> None:
    case = case_files.read(path)
    with starter.directory() as directory, _serving(directory, case, upstream) as client:
        for number, step in enumerate(case.steps, 1):
            [asked] = step.asked
            call, before = asked.call, upstream.hits
            answer = client.request(
                call.method, call.path, headers=bearer(agent_id=call.agent, tags=())
            )
            (directory / "answered").touch()
            answered = Answered(answer.status_code, answer.headers, answer.json(), {})
            compare_answer(asked.then, answered, str)
            assert upstream.hits == before + (asked.then.status < 400)
            # It comes when the service has decided, which may be after Envoy has answered.
            wait_until(lambda: len(_rows(directory / "audit.db")) == number, "the row")  # noqa: B023
            assert asked.row is not None
            compare_row(columns(asked.then, asked.row), _rows(directory / "audit.db")[-1], str)
            (directory / "answered").unlink()
