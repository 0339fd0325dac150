"""Two sidecars: one is the control plane, the other one follows it, through their real Envoys."""

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner, Result

from authz.cli import app
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import ADMIN_TOKEN, Sidecar, bearer, wait_until
from tests.e2e.upstream import Upstream
from tests.sync.plane import Signer, bundle, policy

ROOT: Final = Path(__file__).parents[2]
#: Another one than the control plane's.
EDGE_TOKEN: Final = "an admin token of the edge"


@dataclass
class Site:
    """A control plane and a sidecar that follows it."""

    control: Sidecar
    edge: Sidecar
    signer: Signer
    directory: Path
    version: int = 0

    def publish(self, *names: str, **files: bytes) -> bytes:
        """A new version, signed, is put where the control plane has its own."""
        self.version += 1
        data = bundle(self.version, *names, **files)
        for name, content in (("sig", self.signer.sign(data).encode()), ("", data)):
            path = self.directory / f"control.tar.gz{'.' * bool(name)}{name}"
            path.with_suffix(".new").write_bytes(content)
            path.with_suffix(".new").replace(path)
        return data

    def health(self) -> dict[str, Any]:
        """What the edge says of synchronisation."""
        found: dict[str, Any] = self.edge.get("/health").json()["sync"]
        return found

    def command(self, *arguments: str) -> Result:
        """`authz sync …` as a CronJob runs it."""
        given = {
            "SYNC_URL": self.control.url,
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "AUDIT_DB_PATH": str(self.edge.database),
            "POLICIES_DIR": str(self.directory / "policies"),
            "SYNC_STATE_DIR": str(self.directory / "state"),
        }
        return CliRunner().invoke(app, ["sync", *arguments], env=given)


@pytest.fixture(scope="module")
def site(upstream: Upstream) -> Iterator[Site]:
    directory = Path(tempfile.mkdtemp(prefix="authz-sync-"))
    signer = Signer()
    keys = signer.public(directory / "cosign.pub")
    made = Site(None, None, signer, directory)  # type: ignore[arg-type]
    made.publish("first")
    shared: dict[str, Any] = {
        "POLICY_BUNDLE_KEYS": str(keys),
        "REQUIRE_SIGNED_POLICIES": "true",
        "POLICIES_DIR": "",
    }
    try:
        with (
            starter.running(
                upstream, POLICY_BUNDLE=str(directory / "control.tar.gz"), **shared
            ) as control,
            starter.running(
                upstream,
                POLICY_BUNDLE=str(directory / "edge.tar.gz"),
                SYNC_URL=control.url,
                SYNC_INTERVAL="1s",
                SYNC_TOKEN=ADMIN_TOKEN,
                ADMIN_TOKEN=EDGE_TOKEN,
                SYNC_STATE_DIR=str(directory / "edge-state"),
                **shared,
            ) as edge,
        ):
            made.control, made.edge = control, edge
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _write(edge: Sidecar) -> int:
    return edge.client.post("/proxy/doc", headers=bearer()).status_code


def test_what_is_published_is_enforced_at_the_edge(site: Site) -> None:
    """It began without any policy."""
    wait_until(lambda: _write(site.edge) == 403, "the first bundle to be enforced")
    site.publish(first=policy("first", "allow"))
    wait_until(lambda: _write(site.edge) == 200, "the second bundle to be enforced")
    data = site.publish("first")
    wait_until(lambda: _write(site.edge) == 403, "the third bundle to be enforced")
    assert (site.directory / "edge.tar.gz").read_bytes() == data
    said = site.edge.get("/health").json()
    assert said["bundle"]["version"] == 3
    assert "problem" not in said["sync"]
    assert site.directory.name not in json.dumps(said["sync"])


def _ingested(site: Site) -> set[str]:
    path = Path(f"{site.control.database}.ingested")
    if not path.exists():
        return set()
    with (
        contextlib.suppress(Exception),
        contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db,
    ):
        return {row[0] for row in db.execute("SELECT id FROM audit")}
    return set()


def test_what_is_decided_at_the_edge_is_on_record_at_the_control_plane(site: Site) -> None:
    _write(site.edge)
    ids = {row["id"] for row in site.edge.rows()}
    assert ids
    wait_until(lambda: ids <= _ingested(site), "the rows to be there")
    wait_until(lambda: site.health()["lastPush"] and site.health()["pending"] is not None, "a push")


def test_an_older_bundle_is_refused_and_told(site: Site) -> None:
    """Somebody puts back what the control plane had: its signature is right. Neither takes it."""
    wait_until(lambda: _write(site.edge) == 403, "the bundle to be enforced")
    old = bundle(1, first=policy("first", "allow"))
    (site.directory / "control.tar.gz.sig").write_bytes(site.signer.sign(old).encode())
    (site.directory / "control.tar.gz").write_bytes(old)
    wait_until(
        lambda: "problem" in site.control.get("/health").json()["bundle"], "it to be refused"
    )
    assert _write(site.edge) == 403
    site.publish("first")
    wait_until(
        lambda: "problem" not in site.control.get("/health").json()["bundle"], "it to be mended"
    )


def test_status_shows_the_bundle_and_the_synchronisation(site: Site) -> None:
    place = ["--gateway", site.edge.url]
    lines = CliRunner().invoke(app, ["status", *place]).stdout.splitlines()
    shown = {line.rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in lines}
    bundle = site.edge.get("/health").json()["bundle"]
    assert shown["bundle version"] == str(bundle["version"])
    assert shown["sync lastPull"].endswith("Z")
    said = json.loads(CliRunner().invoke(app, ["status", *place, "--json"]).stdout)
    assert (said["bundle"]["keyId"], said["sync"]["pending"] >= 0) == (bundle["keyId"], True)


def test_the_commands_do_one_turn(site: Site) -> None:
    pulled = site.command("pull", "--json")
    assert pulled.exit_code == 0, pulled.stderr
    assert json.loads(pulled.stdout)["files"] == 1
    assert (site.directory / "policies/first.yaml").exists()
    pushed = site.command("push", "--json")
    assert pushed.exit_code == 0, pushed.stderr
    said = json.loads(pushed.stdout)
    assert said["pending"] <= 2
    assert said["duplicates"] + said["ingested"] == said["acknowledged"]
    assert ADMIN_TOKEN not in pulled.stdout + pulled.stderr + pushed.stdout + pushed.stderr


def test_the_seeds_two_curls_and_tar(site: Site, tmp_path: Path) -> None:
    """As docs/sync.md has them from the seed, but for the host and where files are."""
    assert shutil.which("curl"), "curl is needed"
    (tmp_path / "policies").mkdir()
    text = (ROOT / "docs/sync.md").read_text()
    [script] = re.findall(r"```sh\n(# Push local audit logs .*?)```", text, re.DOTALL)
    for printed, here in (
        ("https://gw.meshguard.app", site.control.url),
        ("/data/audit.db", str(site.edge.database)),
        ("/tmp/policies.tar.gz", f"{tmp_path}/policies.tar.gz"),
        ("-C /policies/", f"-C {tmp_path}/policies/"),
    ):
        assert printed in script
        script = script.replace(printed, here)
    said: dict[str, Any] = {}

    def is_taken() -> bool:
        """The edge sends, too, and one upload is taken at a time."""
        done = subprocess.run(
            ["/bin/sh", "-ec", script],
            env={"PATH": os.environ["PATH"], "ADMIN_TOKEN": ADMIN_TOKEN},
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        said.update(json.loads(done.stdout))
        return "duplicates" in said

    wait_until(is_taken, "the upload to be taken")
    assert said["duplicates"] + said["ingested"] > 0
    assert (tmp_path / "policies/first.yaml").read_bytes() == policy("first")
