"""`authz doctor`: what each check says of which facts, and where the facts come from."""

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from typer.testing import CliRunner

from authz.cgroups import Memory
from authz.cli import app
from authz.cli.doctor import checklist, gathering, running, stored
from authz.cli.doctor.decisions import bits, strength
from authz.cli.doctor.facts import (
    Answer,
    Audit,
    Facts,
    FileFacts,
    Inside,
    Policies,
    Secret,
    Volume,
    WouldDeny,
)
from authz.cli.doctor.finding import Status, worst
from authz.cli.doctor.mounts import volume_of
from authz.cli.doctor.traces import refusal
from authz.core.mode import Mode
from authz.core.timestamps import rfc3339
from authz.settings import Settings
from tests import otlp
from tests.e2e.sidecar import directory
from tests.otlp import receiving

MIB: Final = 1 << 20
US: Final = 10001
#: 32 and 16 random bytes, made for this file.
STRONG: Final = "b1946ac92492d2347c6235b4d2611184f0d1e7a5c3968b02e47d8f6a1c5930eb"
STRONG_TOO: Final = "5891b5b522d5df086d0ff0b110fbd9d2"
VOLUME: Final = Volume("/data", "ext4", "/volumes/pvc-1", False, 900 * MIB, 0.9, 0.9)
CHECKS: Final = {"database": "ok", "policies": "ok"}


def file(path: str, mode: int = 0o640, uid: int = US) -> FileFacts:
    return FileFacts(Path(path), mode, uid, US)


INSIDE: Final = Inside(
    uid=US,
    gid=US,
    in_pod=True,
    in_container=True,
    mode=Mode.ENFORCE,
    has_mode_file=False,
    secrets=(Secret("JWT_SECRET", STRONG), Secret("ADMIN_TOKEN", STRONG_TOO)),
    has_jwks=False,
    dev_secrets=None,
    dev_secrets_used=False,
    admin_status=200,
    private_files=(file("/data/audit.db.key", 0o600),),
    policies=Policies(
        Path("/policies"), VOLUME._replace(read_only=True), (file("/policies", 0o755, 0),), False
    ),
    audit=Audit(
        path=Path("/data/audit.db"),
        volume=VOLUME,
        file=file("/data/audit.db"),
        wal_bytes=0,
        signed_ago_s=1.0,
        would_deny=WouldDeny(0, "", False),
        retention_days=90,
        on_failure="deny",
    ),
    memory=Memory(256 * MIB, 120 * MIB, 130 * MIB, 40 * MIB, 0),
    cpus=0.25,
    traces=None,
    port=3100,
    listening_on=("127.0.0.1",),
    run_dir=file("/run/authz", 0o770),
    sockets=(file("/run/authz/http.sock", 0o660),),
    admin_ports=(),
)
HEALTH: Final = {"status": "healthy", "mode": "enforce", "checks": CHECKS}
FACTS: Final = Facts(
    name="http://127.0.0.1:3100",
    is_cleartext_elsewhere=False,
    health=Answer(200, HEALTH),
    ready=Answer(200, {"status": "ready", "policies": 3, "policyVersion": "abc"}),
    metrics=Answer(404, {}),
    service=Answer(200, HEALTH),
    inside=INSIDE,
)
LATER: Final = {"Enable OTEL", "Plan for disconnected operation", "Sign your policy bundles"}


def said(facts: Facts, title: str) -> list[tuple[str, str]]:
    """What a line of the checklist finds that is not as it should be."""
    [line] = [line for line in checklist.LINES if line.title == title]
    found = list(line.check(facts))
    for one in found:
        assert bool(one.cure) is (one.status in (Status.WARN, Status.FAIL)), one
    return [(str(one.status), one.found) for one in found if one.status is not Status.PASS]


def inside(**changes: Any) -> Facts:
    return replace(FACTS, inside=replace(INSIDE, **changes))


def telling(**changes: Any) -> Facts:
    """As `/health` says it, on PORT and on the socket."""
    answer = Answer(200, {**HEALTH, **changes})
    return replace(FACTS, health=answer, service=answer)


def test_a_sound_sidecar_passes_and_warns_of_what_it_does_not_use() -> None:
    results = checklist.run(FACTS)
    assert {r.line.title for r in results if r.status is not Status.PASS} == LATER
    assert all(r.status is Status.WARN for r in results if r.line.title in LATER)


def test_from_outside_every_line_says_something_and_none_looks_inside() -> None:
    results = checklist.run(replace(FACTS, inside=None, service=None))
    statuses = {result.line.title: result.status for result in results}
    assert statuses["Set production secrets"] is Status.SKIP
    assert statuses["Configure health checks"] is Status.PASS
    assert all(result.findings for result in results)


def test_a_lines_status_is_its_worst() -> None:
    results = checklist.run(inside(memory=Memory(None, None, None, None, 3)))
    [limits] = [r for r in results if r.line.title == "Set resource limits"]
    assert [one.status for one in limits.findings] == [Status.FAIL, Status.WARN, Status.PASS]
    assert limits.status is Status.FAIL
    assert worst([]) is Status.SKIP


def test_modes() -> None:
    line = "Choose your mode"
    assert said(telling(mode="bypass"), line)[0] == (
        "fail", "bypass: nothing is evaluated and nothing is recorded",
    )  # fmt: skip
    audit = INSIDE.audit._replace(would_deny=WouldDeny(7, "2026-11-01", True))
    facts = replace(telling(mode="audit"), inside=replace(INSIDE, audit=audit, mode=Mode.AUDIT))
    assert said(facts, line) == [
        ("warn", "audit: nothing is blocked; at least 7 requests would have been denied since"
         " 2026-11-01")
    ]  # fmt: skip
    assert said(telling(mode="audit"), line)[1] == (
        "warn", "MODE says enforce: it was switched while it ran",
    )  # fmt: skip
    bad = telling(checks={**CHECKS, "mode": "must hold enforce, audit or bypass"})
    assert said(bad, line)[0][0] == "fail"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("JWT_SECRET", "your-production-jwt-secret", "fail"),
        ("ADMIN_TOKEN", "msat_your-production-token", "fail"),
        ("JWT_SECRET", "a-password-of-more-than-thirty-two-characters", "fail"),
        ("JWT_SECRET", "0123456789abcdef0123456789abcdef", "fail"),
        ("JWT_SECRET", "abcdefghijklmnopqrstuvwxyzABCDEF", "fail"),
        ("JWT_SECRET", "z" * 64, "fail"),
        ("JWT_SECRET", "aabb" * 16, "fail"),
        ("ADMIN_TOKEN", "b1946ac92492d234", "warn"),
        ("ADMIN_TOKEN", "Zq7vK2mXw9RtLb4N", "warn"),
        ("ADMIN_TOKEN", STRONG_TOO, "pass"),
        ("JWT_SECRET", STRONG, "pass"),
    ],
)
def test_secrets_that_could_be_guessed(name: str, value: str, status: str) -> None:
    found = strength(Secret(name, value))
    assert found.status == status
    assert value not in found.found + found.cure


def test_no_secret_is_in_what_is_printed_of_facts() -> None:
    assert STRONG not in repr(FACTS)
    assert STRONG_TOO not in repr(FACTS)
    assert bits("") == 0.0


def test_secrets_and_where_they_are() -> None:
    line = "Set production secrets"
    assert said(inside(secrets=()), line) == [("fail", "JWT_SECRET is not in this environment")]
    assert said(inside(secrets=(), has_jwks=True, admin_status=0), line) == []
    same = (Secret("JWT_SECRET", STRONG), Secret("ADMIN_TOKEN", STRONG))
    assert said(inside(secrets=same), line) == [("fail", "ADMIN_TOKEN and JWT_SECRET are the same")]
    made_up = Path("/run/authz/dev-secrets.json")
    assert said(inside(secrets=(), dev_secrets=made_up, dev_secrets_used=True), line) == [
        ("fail", f"development secrets are in use: {made_up}")
    ]
    assert said(inside(dev_secrets=made_up), line)[0][0] == "warn"
    assert said(inside(admin_status=401), line)[0][0] == "warn"
    assert said(inside(admin_status=404), line)[0][0] == "warn"
    for mode, status in ((0o644, "fail"), (0o602, "fail"), (0o640, None)):
        found = said(inside(private_files=(file("/run/key.pem", mode),)), line)
        assert [one for one, _ in found] == ([status] if status else [])


def test_policies_and_who_may_write_them() -> None:
    line = "Mount policies read-only"
    writable = INSIDE.policies._replace(volume=VOLUME)
    assert said(inside(policies=writable), line) == []
    assert said(inside(policies=writable._replace(ours_to_write=True)), line) == [
        ("warn", "/policies can be written by the user of the sidecar")
    ]
    others = writable._replace(files=(file("/policies", 0o777), file("/policies/a.yaml", 0o666)))
    assert said(inside(policies=others), line) == [
        ("fail", f"everybody may write /policies (owner {US}:{US}, mode 0777) and 1 more")
    ]
    # What is mounted read-only cannot be written, whatever the modes say.
    read_only = others._replace(volume=VOLUME._replace(read_only=True))
    assert said(inside(policies=read_only), line) == []
    assert said(inside(policies=writable._replace(volume=None)), line)[0][0] == "fail"
    stale = telling(checks={**CHECKS, "policies": "ok, 1 error in a.yaml; 1 stale: a.yaml"})
    assert said(stale, line) == [("warn", "policies: 1 error in a.yaml; 1 stale: a.yaml")]
    none = telling(checks={**CHECKS, "policies": "no valid policy is loaded"})
    assert said(none, line) == [("fail", "policies: no valid policy is loaded")]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"kind": "tmpfs"}, "fail"),
        ({"kind": "overlay", "mount_point": "/"}, "fail"),
        ({"root": "/var/lib/kubelet/pods/1/volumes/kubernetes.io~empty-dir/data"}, "warn"),
        ({"read_only": True}, "fail"),
        ({"free": 63 * MIB}, "fail"),
        ({"free_share": 0.04}, "warn"),
        ({"free_files_share": 0.01}, "warn"),
        ({}, None),
    ],
)
def test_where_the_trail_is(change: dict[str, Any], status: str | None) -> None:
    audit = INSIDE.audit._replace(volume=VOLUME._replace(**change))
    found = said(inside(audit=audit), "Persist audit data")
    assert [one for one, _ in found] == ([status] if status else [])


def test_outside_of_a_container_the_root_file_system_is_a_disk() -> None:
    root = VOLUME._replace(mount_point="/")
    found = stored.persisted(root, replace(INSIDE, in_container=False), INSIDE.audit)
    assert [one.status for one in found] == [Status.PASS]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"file": None}, "fail"),
        ({"file": file("/data/audit.db", 0o644)}, "fail"),
        ({"file": file("/data/audit.db", uid=0)}, "warn"),
        ({"wal_bytes": 200 * MIB}, "warn"),
        ({"signed_ago_s": None}, "fail"),
        ({"signed_ago_s": 181.0}, "fail"),
        ({"retention_days": 0}, "warn"),
        ({"on_failure": "allow"}, "warn"),
    ],
)
def test_the_trail_itself(change: dict[str, Any], status: str) -> None:
    found = said(inside(audit=INSIDE.audit._replace(**change)), "Persist audit data")
    assert [one for one, _ in found] == [status]


def test_a_trail_that_cannot_be_written() -> None:
    line = "Persist audit data"
    facts = telling(checks={**CHECKS, "database": "failing: disk full"}, unrecorded=4)
    assert said(facts, line) == [
        ("fail", "rows cannot be written: disk full"),
        ("fail", "4 decisions since the start have no row"),
    ]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"health": None}, "fail"),
        ({"health": Answer(200, {"status": "unhealthy"})}, "fail"),
        ({"health": Answer(503, {**HEALTH, "status": "unhealthy"})}, "fail"),
        ({"health": Answer(503, {"code": "circuit_open"})}, "fail"),
        ({"health": Answer(200, {})}, "fail"),
        ({"ready": None}, "fail"),
        ({"ready": Answer(503, {"status": "not_ready"})}, "fail"),
        ({"ready": Answer(200, {"status": "not_ready"})}, "fail"),
        ({}, None),
    ],
)
def test_probes_get_the_right_answers(change: dict[str, Any], status: str | None) -> None:
    found = said(replace(FACTS, **change), "Configure health checks")
    assert [one for one, _ in found] == ([status] if status else [])


@pytest.mark.parametrize(
    ("memory", "statuses"),
    [
        (Memory(256 * MIB, 250 * MIB, None, 100 * MIB, 0), ["pass"]),
        (Memory(256 * MIB, 250 * MIB, None, 10 * MIB, 0), ["warn"]),
        (Memory(128 * MIB, None, None, None, None), ["pass"]),
        (Memory(127 * MIB, MIB, None, 0, 0), ["warn"]),
        (Memory(None, MIB, None, 0, 0), ["warn"]),
        (Memory(256 * MIB, MIB, None, 0, 1), ["fail", "pass"]),
    ],
)
def test_memory_limits(memory: Memory, statuses: list[str]) -> None:
    assert [str(one.status) for one in running.memory(memory)] == statuses


def test_who_can_reach_it() -> None:
    line = "Lock down the network"
    everywhere = ("0.0.0.0",)
    assert said(inside(listening_on=("127.0.0.1", "::1")), line) == []
    for where, words in (
        ({"in_pod": True}, "NetworkPolicy"),
        ({"in_pod": False}, "this container's networks"),
        ({"in_pod": False, "in_container": False}, "other hosts"),
    ):
        [(status, found)] = said(inside(listening_on=everywhere, **where), line)
        assert status == "warn"
        assert words in found
    assert said(inside(listening_on=()), line) == [("fail", "nobody listens on PORT 3100 here")]
    for change, status in (
        ({"sockets": (file("/run/authz/http.sock", 0o666),)}, "fail"),
        ({"sockets": (file("/run/authz/http.sock", 0o660, 7),)}, "warn"),
        ({"sockets": ()}, "warn"),
        ({"run_dir": file("/run/authz", 0o777)}, "fail"),
        ({"admin_ports": (9901,)}, "fail"),
    ):
        assert [one for one, _ in said(inside(**change), line)] == [status], change
    # Envoy as a user of its own, as in compose.yaml: of our group, or it is somebody else.
    theirs = file("/run/authz/envoy-admin.sock", 0o600, US + 1)
    assert said(inside(sockets=(theirs,)), line) == []
    for other in (theirs._replace(gid=US + 1), theirs._replace(path=Path("/run/authz/http.sock"))):
        assert [one for one, _ in said(inside(sockets=(other,)), line)] == ["warn"]
    assert said(replace(FACTS, metrics=Answer(200, {})), line)[0][0] == "warn"
    assert said(replace(FACTS, is_cleartext_elsewhere=True, inside=None), line)[0][0] == "warn"


MOUNTINFO: Final = r"""
22 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw
30 22 0:25 / {base} rw - tmpfs tmpfs rw
31 22 0:26 /x/volumes/kubernetes.io~empty-dir/d {base}/with\040blank rw - xfs /dev/b rw
32 22 0:27 / {base}/with rw - ext4 /dev/c rw
broken
"""


def test_the_deepest_mount_above_a_path_is_its_volume(tmp_path: Path) -> None:
    inner = tmp_path / "with blank" / "inner"
    inner.mkdir(parents=True)
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTINFO.format(base=tmp_path))
    found = volume_of(inner, mounts)
    assert found is not None
    assert (found.kind, found.mount_point) == ("xfs", f"{tmp_path}/with blank")
    assert "empty-dir" in found.root
    assert volume_of(tmp_path, mounts)._replace(free=0).kind == "tmpfs"  # type: ignore[union-attr]
    assert volume_of(Path("/"), mounts).kind == "ext4"  # type: ignore[union-attr]
    assert volume_of(tmp_path / "nowhere", mounts) is None


def test_who_listens_is_what_the_kernel_says() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        assert list(gathering.listening(port)) == ["127.0.0.1"]
    with socket.create_server(("", 0)) as all_of_them:
        assert list(gathering.listening(all_of_them.getsockname()[1])) == ["0.0.0.0"]
    assert list(gathering.listening(port)) == []


def test_ipv6_addresses_are_read_in_the_machines_order(tmp_path: Path) -> None:
    (tmp_path / "tcp6").write_text(
        "  sl  local_address                         remote_address                        st\n"
        "   0: 00000000000000000000000001000000:0C1C 0000:0000 0A 0:0 0:0 0 0 0 7\n"
        "   1: 00000000000000000000000000000000:0C1D 0000:0000 0A 0:0 0:0 0 0 0 8\n"
        "   2: 00000000000000000000000000000000:0C1C 0000:0000 01 0:0 0:0 0 0 0 9\n"
    )
    assert list(gathering.listening(3100, tmp_path)) == ["::1"]
    assert list(gathering.listening(3101, tmp_path)) == ["::"]


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(tmp_path / "audit.db", isolation_level=None) as database:
        database.execute("CREATE TABLE audit (seq INTEGER, timestamp, mode, decision, enforced)")
        yield database
    database.close()


def test_what_audit_mode_would_have_denied_counts_from_its_beginning(
    trail: sqlite3.Connection, tmp_path: Path
) -> None:
    rows = [
        ("audit", "deny", "allow"),
        ("enforce", "deny", "deny"),
        ("audit", "allow", "allow"),
        ("audit", "deny", "allow"),
        ("audit", "deny", "allow"),
    ]
    for seq, row in enumerate(rows, 1):
        trail.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", (seq, f"t{seq}", *row))
    assert gathering._would_deny(tmp_path / "audit.db") == WouldDeny(2, "t4", False)
    assert gathering._would_deny(tmp_path / "none.db") is None


def test_nobody_there_is_one_sentence_and_5() -> None:
    with directory() as path:
        env = {
            "AUTHZ_RUN_DIR": str(path), "PORT": "1", "HOST": "127.0.0.1", "JWT_SECRET": STRONG,
            "MESHGUARD_GATEWAY_URL": "", "HOME": str(path),
        }  # fmt: skip
        done = CliRunner().invoke(app, ["doctor"], env=env)
        assert done.exit_code == 5
        assert done.stderr.startswith("authz: no sidecar answers on http://127.0.0.1:1 or ")
        done = CliRunner().invoke(app, ["doctor", "--gateway", "http://127.0.0.1:1"], env=env)
        assert done.exit_code == 5
        assert len(done.stderr.splitlines()) == 1


def test_settings_that_are_none_are_listed_and_2() -> None:
    env = {"MODE": "loud", "PORT": "none", "HOME": os.environ["HOME"]}
    done = CliRunner().invoke(app, ["doctor"], env=env)
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 2


def test_json_has_every_line_and_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "from_outside", lambda there: inside(admin_ports=(9901,)))
    done = CliRunner().invoke(app, ["doctor", "--json", "--gateway", "http://127.0.0.1:1"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["counts"] == {"pass": 6, "warn": 3, "fail": 1, "skip": 0}
    assert [line["line"] for line in told["lines"]] == [line.title for line in checklist.LINES]
    assert told["lines"][-1]["status"] == "fail"
    for line in told["lines"]:
        for check in line["checks"]:
            assert ("cure" in check) is (check["status"] in ("warn", "fail"))


@pytest.mark.parametrize(
    ("gateway", "sentence"),
    [
        ("https://127.0.0.1:{port}", "set SSL_CERT_FILE to its issuer"),
        ("http://127.0.0.1:{port}", "or it speaks TLS: then ask https:// instead"),
        ("unix:/nowhere/http.sock", "no sidecar answers there\n"),
    ],
)
def test_where_nobody_answers_it_may_be_for_want_of_tls(gateway: str, sentence: str) -> None:
    with socket.socket() as nobody:  # bound, and listened on by none
        nobody.bind(("127.0.0.1", 0))
        there = gateway.format(port=nobody.getsockname()[1])
        done = CliRunner().invoke(app, ["doctor", "--gateway", there])
    assert done.exit_code == 5
    assert sentence in done.stderr


# Signed bundles.

SIGNING: Final = "Sign your policy bundles"
BUNDLE: Final = {
    "digest": "2f" * 32,
    "signed": True,
    "keyId": "90" * 32,
    "version": 7,
    "revision": "abc",
    "created": "2026-01-31T12:00:00.000000Z",
    "ageSeconds": 86_400.0,
}


def test_a_signed_bundle_of_which_none_older_is_taken_passes() -> None:
    facts = replace(telling(bundle=BUNDLE), inside=replace(INSIDE, require_signed=True))
    assert said(facts, SIGNING) == []
    # Whoever may write where it lies.
    ours = Policies(Path("/data/bundle"), VOLUME, (file("/data/bundle", 0o777),), True)
    facts = replace(facts, inside=replace(INSIDE, require_signed=True, policies=ours))
    assert said(facts, "Mount policies read-only") == []


def _soon() -> str:
    return rfc3339(time.time() + 2 * 86_400)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"problem": "POLICY_BUNDLE: b is not there"}, [("fail", "POLICY_BUNDLE: b is not there")]),
        (
            {"signed": False, "keyId": ""},
            [("fail", "the bundle in force is not verified: there is no key to verify it with")],
        ),
        ({"notAfter": _soon()}, [("warn", "it is to be used for 2.0 days more")]),
        ({"notAfter": "2099-01-31T12:00:00.000000Z"}, []),
    ],
)
def test_a_bundle_that_is_not_as_it_should_be_is_told(
    changes: dict[str, object], found: list[tuple[str, str]]
) -> None:
    facts = telling(bundle={**BUNDLE, **changes})
    facts = replace(facts, inside=replace(INSIDE, require_signed=True))
    assert said(facts, SIGNING) == found


def test_a_directory_and_a_bundle_without_a_version_are_warned_of() -> None:
    [(status, sentence)] = said(FACTS, SIGNING)
    assert (status, sentence) == (
        "warn",
        "policies are read from a directory, and nobody has signed them",
    )
    plain = {name: BUNDLE[name] for name in ("digest", "signed", "keyId")}
    found = said(telling(bundle=plain), SIGNING)
    assert [status for status, _ in found] == ["warn", "warn"]
    assert "has no version" in found[0][1]
    assert "REQUIRE_SIGNED_POLICIES is not set" in found[1][1]


@pytest.mark.parametrize(
    ("traces", "found"),
    [
        (None, [("warn", "no traces are exported")]),
        ("", []),
        ("V: http://otel takes no traces: it hung up",
         [("warn", "V: http://otel takes no traces: it hung up")]),
    ],
)  # fmt: skip
def test_traces_are_exported_and_arrive(traces: str | None, found: list[tuple[str, str]]) -> None:
    assert said(inside(traces=traces), "Enable OTEL") == found


def test_a_collector_is_asked_whether_it_takes_traces() -> None:
    env = {"JWT_SECRET": STRONG, "AUTHZ_RUN_DIR": "/", "OTEL_ENABLED": "true"}
    with receiving() as receiver:
        there = Settings.from_env({**env, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
        assert refusal(there) == ""
        receiver.answer = lambda: otlp.Answer(404)
        said = f"OTEL_EXPORTER_OTLP_ENDPOINT: {receiver.url}/v1/traces takes no traces:"
        assert refusal(there) == f"{said} it answered 404"
    assert refusal(there) == f"{said} connection refused"
    assert refusal(there.model_copy(update={"otel_enabled": False})) is None
