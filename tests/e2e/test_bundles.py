"""A signed bundle through a real Envoy: only what was signed, and nothing older, is in force.

The sidecar is one for all tests; each puts newer bundles there than the ones before.
"""

import base64
import io
import itertools
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.bundles.build import build
from authz.bundles.signature import PublicKeys
from tests.bundling import Key, Shelf, policy, replace
from tests.e2e import sidecar as starter
from tests.e2e.sidecar import ADMIN_TOKEN, JWT_SECRET, Sidecar, bearer, wait_until
from tests.e2e.upstream import Upstream

ADMIN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
ARCHIVE = "/admin/policies/bundle"


class Live:
    """A sidecar that takes bundles from a shelf."""

    def __init__(self, sidecar: Sidecar, shelf: Shelf) -> None:
        self.sidecar = sidecar
        self.shelf = shelf
        self.versions = itertools.count(2)

    def publish(self, files: dict[str, bytes] | None = None, **about: Any) -> int:
        """Put the next version there, which allows `read:vN`; its number."""
        version = next(self.versions)
        given = files or {"a.yaml": policy("a", f"read:v{version}")}
        self.shelf.put(version, given, **{"created": time.time() - 1, **about})
        return version

    def in_force(self, **about: Any) -> int:
        """The same, and wait for it to be in force."""
        version = self.publish(**about)
        wait_until(lambda: self.allows(version), f"version {version} to be in force")
        return version

    def allows(self, version: int) -> bool:
        return self.ask(version) == 200

    def ask(self, version: int) -> int:
        return self.sidecar.get(f"/proxy/v{version}", headers=bearer()).status_code

    def health(self) -> dict[str, Any]:
        """What `/health` says of the bundle; empty while nobody answers."""
        answer = self.sidecar.get("/health")
        found: dict[str, Any] = answer.json().get("bundle", {}) if answer.status_code == 200 else {}
        return found

    def until_told(self, sentence: str) -> None:
        wait_until(lambda: sentence in self.health().get("problem", ""), sentence)

    def control(self) -> list[tuple[str, str]]:
        rows = self.sidecar.rows(control=True)
        return [(row["action"], row["reason"]) for row in rows if row["source"] == "control"]

    def restart(self) -> None:
        """kill -9, and the supervisor starts it anew."""
        before = self.sidecar.child("service")
        os.kill(before, signal.SIGKILL)

        def is_another() -> bool:
            try:
                return self.sidecar.child("service") != before and starter.answers(self.sidecar)
            except StopIteration:
                return False

        wait_until(is_another, "another service")


@pytest.fixture(scope="module")
def live(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    shelf = Shelf(tmp_path_factory.mktemp("bundle"))
    shelf.put(1, {"a.yaml": policy("a", "read:v1")}, created=time.time() - 60, revision="4e43f1c")
    with starter.running(
        upstream,
        POLICY_BUNDLE=str(shelf.bundle),
        POLICY_BUNDLE_KEYS=str(shelf.public),
        REQUIRE_SIGNED_POLICIES="true",
        METRICS_ENABLED="true",
    ) as sidecar:
        yield Live(sidecar, shelf)


def test_what_was_signed_is_in_force_and_told_of(live: Live) -> None:
    assert live.allows(1)
    assert live.ask(0) == 403
    told = live.health()
    key_id = PublicKeys.parse([("cosign.pub", live.shelf.key.pem)]).ids[0]
    assert told.pop("ageSeconds") > 59
    assert {**told, "created": "", "digest": ""} == {
        "version": 1, "revision": "4e43f1c", "created": "", "digest": "", "signed": True,
        "keyId": key_id,
    }  # fmt: skip
    log = live.sidecar.log()
    assert "POLICIES_DIR: has no effect beside POLICY_BUNDLE" in log
    taken = "POLICY_BUNDLE: policies.tar.gz, version 1, revision 4e43f1c, created "
    assert f"{taken}{told['created']}" in log
    [reason] = [reason for action, reason in live.control() if action == "policies:bundle"][:1]
    assert reason.startswith("version 1, revision 4e43f1c")
    assert reason.endswith(f"sha256 {told['digest']}, signed by key {key_id}")


def test_another_bundle_is_one_swap(live: Live) -> None:
    before = live.in_force()
    after = live.in_force(files={"b.yaml": policy("b", f"read:v{before + 1}")})
    assert after == before + 1
    assert live.ask(before) == 403


def _flipped(live: Live) -> None:
    live.publish()
    data = bytearray(live.shelf.bundle.read_bytes())
    data[50] ^= 4
    replace(live.shelf.bundle, bytes(data))


def _signature_flipped(live: Live) -> None:
    live.publish()
    signature = bytearray(base64.b64decode(live.shelf.signature.read_bytes()))
    signature[-1] ^= 1
    replace(live.shelf.signature, base64.b64encode(signature))


def _truncated(live: Live) -> None:
    live.publish()
    replace(live.shelf.bundle, live.shelf.bundle.read_bytes()[:-10])


def _from_the_future(live: Live) -> None:
    live.publish(created=time.time() + 3600)


def _by_nobody_known(live: Live) -> None:
    live.publish(key=Key())


def _old(live: Live) -> None:
    live.shelf.put(1, {"a.yaml": policy("a", "read:v1")}, created=time.time() - 60)


def _expired(live: Live) -> None:
    live.publish(created=time.time() - 60, not_after=time.time() - 30)


def _not_all_valid(live: Live) -> None:
    live.publish(files={"a.yaml": policy("a"), "b.yaml": b"name: b\n"})


def _removed(live: Live) -> None:
    live.shelf.bundle.unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_flipped, "by a key that is known"),
        (_signature_flipped, "by a key that is known"),
        (_truncated, "by a key that is known"),
        (_from_the_future, "set the clock, or build the bundle again"),
        (_by_nobody_known, "by a key that is known"),
        (_old, "the bundle has version 1, and version "),
        (_expired, "was to be used until"),
        (_not_all_valid, "has 1 error and is not taken: policies.tar.gz!b.yaml:1:1"),
        (_removed, "policies.tar.gz is not there"),
    ],
)
def test_what_is_refused_leaves_what_was_in_force(
    live: Live, spoil: Callable[[Live], None], why: str
) -> None:
    good = live.in_force()
    spoil(live)
    live.until_told(why)
    problem = live.health()["problem"]
    assert (live.ask(good), live.ask(1)) == (200, 403)
    assert live.health()["version"] == good
    assert live.sidecar.get("/ready").status_code == 200
    wait_until(lambda: ("incident:bundle_refused", problem) in live.control(), "the row")
    told = live.sidecar.get("/metrics").text
    assert 'meshguard_incidents_open{kind="bundle_refused"} 1.0' in told
    live.in_force()
    assert "problem" not in live.health()
    assert ("incident:bundle_refused:over", f"no longer: {problem}") in live.control()


def test_one_that_expires_goes_on_until_a_restart_and_then_there_is_none(live: Live) -> None:
    good = live.in_force(not_after=time.time() + 6)
    live.until_told("was to be used until")
    assert live.allows(good)
    assert live.sidecar.get("/ready").status_code == 200
    wait_until(lambda: "incident:bundle_expired" in dict(live.control()), "the row")
    live.restart()
    answer = live.sidecar.get(f"/proxy/v{good}", headers=bearer())
    assert (answer.status_code, answer.json()["code"]) == (403, "no_policy")
    ready = live.sidecar.get("/ready")
    assert ready.status_code == 503
    assert "was to be used until" in ready.json()["checks"]["policies"]
    assert live.sidecar.get(ARCHIVE, headers=ADMIN).status_code == 503
    live.in_force()
    assert live.sidecar.get("/ready").status_code == 200


def test_an_older_one_is_refused_also_after_kill_9(live: Live) -> None:
    live.in_force()
    old = live.shelf.bundle.read_bytes(), live.shelf.signature.read_bytes()
    live.in_force()
    replace(live.shelf.signature, old[1])
    replace(live.shelf.bundle, old[0])
    live.restart()
    assert "was taken before" in live.health()["problem"]
    assert live.sidecar.get("/ready").status_code == 503
    live.in_force()


def test_half_a_pair_is_waited_for_and_no_incident(live: Live) -> None:
    live.in_force()
    before = len(live.control())
    version = next(live.versions)
    new = build({"a.yaml": policy("a", f"read:v{version}")}, version=version, created=time.time())
    replace(live.shelf.bundle, new)
    replace(live.shelf.signature, live.shelf.key.sign(new))
    wait_until(lambda: live.allows(version), "the pair to be in force")
    assert not any("incident" in action for action, _ in live.control()[before:])


def test_an_operator_goes_back_to_a_version_and_the_floor_stays(live: Live) -> None:
    first = live.in_force()
    name = live.sidecar.get("/ready").json()["policyVersion"]
    second = live.in_force()
    rollback = "/admin/policies/rollback"
    answer = live.sidecar.client.post(rollback, headers=ADMIN, json={"version": name})
    assert answer.status_code == 200
    assert (live.ask(first), live.ask(second)) == (200, 403)
    assert live.health()["version"] == second
    assert live.sidecar.client.post("/admin/policies/release", headers=ADMIN).status_code == 200
    assert live.allows(second)
    _old(live)
    live.until_told("was taken before")
    live.in_force()


def test_policies_of_a_bundle_cannot_be_changed_here(live: Live, tmp_path: Path) -> None:
    headers = {**ADMIN, "Content-Type": "application/yaml"}
    path = "/admin/policies/x"
    answer = live.sidecar.client.put(path, headers=headers, content=policy("x"))
    assert (answer.status_code, answer.json()["error"]) == (409, "conflict")
    assert "come from a bundle, policies.tar.gz (POLICY_BUNDLE)" in answer.json()["message"]
    assert live.sidecar.client.delete("/admin/policies/a", headers=ADMIN).status_code == 409
    (tmp_path / "x.yaml").write_bytes(policy("x"))
    apply = ("policy", "apply", str(tmp_path / "x.yaml"))
    there = ("--gateway", live.sidecar.url)
    for more in (there, ()):
        done = _authz(live, *more, *apply)
        assert done.returncode != 0
        assert "come from a bundle" in done.stderr


def _authz(live: Live, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**live.sidecar.env, "MESHGUARD_ADMIN_TOKEN": ADMIN_TOKEN}
    return subprocess.run(
        [sys.executable, "-m", "authz", *arguments],
        cwd=live.sidecar.directory, env=env, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_the_seeds_curl_and_tar_work_as_printed(live: Live, tmp_path: Path) -> None:
    version = live.in_force()
    (tmp_path / "policies").mkdir()
    script = f"""
curl -s {live.sidecar.url}/admin/policies/bundle \\
  -H "Authorization: Bearer $ADMIN_TOKEN" \\
  -o {tmp_path}/policies.tar.gz
tar xzf {tmp_path}/policies.tar.gz -C {tmp_path}/policies/
curl -sf {live.sidecar.url}/admin/policies/bundle.sig \\
  -H "Authorization: Bearer $ADMIN_TOKEN" -o {tmp_path}/policies.tar.gz.sig
base64 -d {tmp_path}/policies.tar.gz.sig > {tmp_path}/der
openssl dgst -sha256 -verify {live.shelf.public} -signature {tmp_path}/der \\
  {tmp_path}/policies.tar.gz
"""
    env = {"PATH": os.environ["PATH"], "ADMIN_TOKEN": ADMIN_TOKEN}
    done = subprocess.run(
        ["sh", "-ec", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "Verified OK" in done.stdout
    assert (tmp_path / "policies.tar.gz").read_bytes() == live.shelf.bundle.read_bytes()
    assert (tmp_path / "policies" / "a.yaml").read_bytes() == policy("a", f"read:v{version}")


@pytest.mark.parametrize("prefix", ["/admin", "/api/v1/admin"])
def test_what_a_puller_asks_is_answered_by_headers(live: Live, prefix: str) -> None:
    version = live.in_force()
    path = f"{prefix}/policies/bundle"
    answer = live.sidecar.get(path, headers=ADMIN)
    tag = answer.headers["etag"]
    signature = live.shelf.signature.read_text()
    assert answer.headers["x-meshguard-bundle-version"] == str(version)
    assert answer.headers["x-meshguard-bundle-signature"] == signature
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        assert archive.getnames() == [".manifest.json", "a.yaml"]
    head = live.sidecar.client.head(path, headers=ADMIN)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", tag)
    assert head.headers["content-length"] == str(len(answer.content))
    again = live.sidecar.get(path, headers={**ADMIN, "If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    for where in (f"{path}.sig", f"{path}/bundle.sig"):
        assert live.sidecar.get(where, headers=ADMIN).text == signature
    assert live.sidecar.get(path).status_code == 401
    assert (
        live.sidecar.get(path, headers={"Authorization": f"Bearer {JWT_SECRET}"}).status_code == 401
    )
