"""`authz doctor` on real sidecars: sound, bypassed, with development secrets, changed, dead."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.e2e import sidecar as starter
from tests.e2e.sidecar import SAMPLE_POLICIES, Sidecar, wait_until
from tests.e2e.upstream import Upstream

#: As `openssl rand -hex` makes them.
SECRETS: Final = {
    "JWT_SECRET": "b1946ac92492d2347c6235b4d2611184f0d1e7a5c3968b02e47d8f6a1c5930eb",
    "ADMIN_TOKEN": "5891b5b522d5df086d0ff0b110fbd9d2",
}
LATER: Final = {"Enable OTEL", "Plan for disconnected operation", "Sign your policy bundles"}


def ask(sidecar: Sidecar, *arguments: str, **env: str) -> tuple[int, str, str]:
    """Run it with the sidecar's environment; exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "authz", "doctor", *arguments],
        cwd=sidecar.directory,
        env=sidecar.env | env,
        capture_output=True,
        text=True,
        timeout=starter.PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def lines(sidecar: Sidecar, *arguments: str, **env: str) -> dict[str, dict[str, Any]]:
    """Its lines by their titles."""
    code, out, err = ask(sidecar, "--json", *arguments, **env)
    told = json.loads(out)
    assert err == ""
    assert code == (1 if told["counts"]["fail"] else 0)
    return {line["line"]: line for line in told["lines"]}


def found(line: dict[str, Any], *statuses: str) -> list[str]:
    """What a line found of these statuses."""
    return [check["found"] for check in line["checks"] if check["status"] in statuses]


def test_a_sound_sidecar_and_what_is_then_done_to_it(upstream: Upstream) -> None:
    with starter.directory() as elsewhere:
        policies = Path(shutil.copytree(SAMPLE_POLICIES, elsewhere / "policies"))
        with starter.running(
            upstream,
            POLICIES_DIR=str(policies),
            JWT_SECRET=SECRETS["JWT_SECRET"],
            ADMIN_TOKEN=SECRETS["ADMIN_TOKEN"],
        ) as sidecar:
            sound = lines(sidecar)
            for title in ("Choose your mode", "Set production secrets", "Configure health checks",
                          "Lock down the network"):  # fmt: skip
                assert sound[title]["status"] == "pass", sound[title]
            assert {title for title in LATER if sound[title]["status"] == "warn"} == LATER
            # Where the trail lies is this machine's; that it works is the sidecar's.
            trail = found(sound["Persist audit data"], "pass")
            assert "rows can be written" in trail
            assert any(said.startswith("the end of the trail was signed") for said in trail)
            assert any(
                "3 loaded" in said for said in found(sound["Mount policies read-only"], "pass")
            )

            # What it says on a pipe is one line a finding, and no secret.
            code, out, err = ask(sidecar)
            assert (code, err) == (1 if "\nFAIL " in out else 0, "")
            assert "PASS    Choose your mode\n  pass    enforce: what policies deny" in out
            assert not any(secret in out for secret in SECRETS.values())

            # Others may write policies; the admin API knows another token; a file is for all to
            # read; the mode was switched.
            (policies / "more.yaml").write_text("name: [")
            (policies / "more.yaml").chmod(0o666)
            (sidecar.directory / "audit.db").chmod(0o644)
            sidecar.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "more.yaml" in sidecar.get("/health").text, "the bad file")
            changed = sidecar.client.put(
                "/admin/mode",
                json={"mode": "bypass"},
                headers={"x-admin-token": SECRETS["ADMIN_TOKEN"]},
            )
            assert changed.status_code == 200
            bad = lines(sidecar, ADMIN_TOKEN="f" * 15 + "0123456789abcde7")
            assert found(bad["Choose your mode"], "fail", "warn") == [
                "bypass: nothing is evaluated and nothing is recorded",
                "MODE says enforce: it was switched while it ran",
            ]
            assert found(bad["Set production secrets"], "warn")[-1].startswith(
                "the sidecar runs with another ADMIN_TOKEN"
            )
            mounted = bad["Mount policies read-only"]
            [writable] = found(mounted, "fail")
            assert writable.startswith(f"everybody may write {policies}/more.yaml ")
            assert "policies: 1 error in more.yaml" in found(
                bad["Mount policies read-only"], "warn"
            )
            assert any(
                said.startswith("everybody may use ")
                for said in found(bad["Persist audit data"], "fail")
            )

            # From outside the same is seen, less what is inside.
            outside = lines(sidecar, "--gateway", sidecar.url)
            assert outside["Choose your mode"]["status"] == "fail"
            assert outside["Set production secrets"]["status"] == "skip"

            # Without its Envoy it still answers on its socket; without both nobody does.
            os.kill(sidecar.process.pid, signal.SIGSTOP)
            os.kill(sidecar.child("envoy"), signal.SIGKILL)
            alone = lines(sidecar)
            assert alone["Configure health checks"]["status"] == "fail"
            assert found(alone["Lock down the network"], "fail") == [
                f"nobody listens on PORT {sidecar.port} here"
            ]
            os.kill(sidecar.child("service"), signal.SIGKILL)
            code, out, err = ask(sidecar)
            assert (code, out) == (5, "")
            assert err.startswith(f"authz: no sidecar answers on {sidecar.url} or ")
            os.kill(sidecar.process.pid, signal.SIGCONT)


def test_development_secrets_are_no_secrets() -> None:
    with starter.demo() as sidecar:
        seen = lines(sidecar, HOST="127.0.0.1", PROXY_TARGET="http://127.0.0.1:9")
        file = sidecar.directory / "data" / "run" / "dev-secrets.json"
        [said] = found(seen["Set production secrets"], "fail")
        assert said.startswith("development secrets are in use: ")
        assert said.endswith(file.name)
