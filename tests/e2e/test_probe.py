"""`authz probe` against a real sidecar, and against one of which a part is missing."""

import os
import signal
import subprocess
import sys

import pytest

from tests.e2e import sidecar as starter
from tests.e2e.sidecar import Sidecar, wait_until
from tests.e2e.upstream import Upstream

#: Seconds. A machine that runs the whole suite is slower than a container that is probed.
PATIENCE = ("--timeout", "30")


def probe(sidecar: Sidecar, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "authz", "probe", *PATIENCE, *arguments],
        capture_output=True,
        text=True,
        cwd=sidecar.directory,
        env=sidecar.env,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "how"),
    [((), "healthy"), (("--ready",), "ready"), (("--socket",), "healthy"),
     (("--socket", "--ready"), "ready"), (("--envoy",), "ready")],
)  # fmt: skip
def test_a_sidecar_that_runs_is_well(
    enforcing: Sidecar, arguments: tuple[str, ...], how: str
) -> None:
    code, said = probe(enforcing, *arguments)
    assert (code, said.endswith(f": {how}\n")) == (0, True), said
    assert said.count("\n") == 1


def test_no_policy_is_healthy_and_not_ready(upstream: Upstream) -> None:
    with starter.running(upstream, POLICIES_DIR=os.devnull) as sidecar:
        assert probe(sidecar)[0] == 0
        code, said = probe(sidecar, "--ready")
        assert code == 1
        assert "no valid policy is loaded" in said


def test_which_of_both_is_missing_is_said(upstream: Upstream) -> None:
    with starter.running(upstream) as sidecar:
        # Stopped, and not killed: what is killed is started again at once.
        service, envoy = sidecar.child("service"), sidecar.child("envoy")
        os.kill(service, signal.SIGSTOP)
        try:
            code, said = probe(sidecar, "--socket", "--timeout", "0.5")
            assert (code, said.endswith("no answer in time\n")) == (1, True), said
            assert probe(sidecar, "--envoy")[0] == 0
        finally:
            os.kill(service, signal.SIGCONT)
        os.kill(envoy, signal.SIGSTOP)
        try:
            assert probe(sidecar, "--timeout", "0.5")[0] == 1
            assert probe(sidecar, "--socket")[0] == 0
        finally:
            os.kill(envoy, signal.SIGCONT)
        wait_until(lambda: probe(sidecar)[0] == 0, "both to be there again")
        assert sidecar.stop() == 0
        assert [probe(sidecar, *how)[0] for how in ((), ("--socket",), ("--envoy",))] == [5, 5, 5]
