"""What a container does with what it cannot work with: it says so, and ends or serves.

Ends with a number of its own: what cannot be put right while it runs. Serves as the failure matrix
says (DESIGN §8): what may be put right from outside, since who restarts it would change nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pytest

from authz.exits import Exit
from tests.containers.pods import KEPT, PORT, Pod, boxed, give, owned, pod, until, volume
from tests.e2e.sidecar import JWT_SECRET, bearer

GOOD: Final = {"JWT_SECRET": JWT_SECRET, "PROXY_TARGET": "http://127.0.0.1:9"}
WRITABLE: Final = "uid=10001,gid=10001,mode=0770"
PLACES: Final = {"/run/authz": WRITABLE, "/data": WRITABLE}
WEAK: Final = "hunter2"


class Bad(NamedTuple):
    """Something that nobody can work with."""

    code: Exit
    #: Each has to be in the log.
    sentences: tuple[str, ...]
    env: Mapping[str, str] = GOOD
    tmpfs: Mapping[str, str] = PLACES
    memory: str = ""


BAD: Final = {
    "no secret": Bad(
        Exit.SETTINGS,
        ("authz: JWT_SECRET: not set; make one with: openssl rand -hex 32\n",),
        env={},
    ),
    "weak secrets": Bad(
        Exit.SETTINGS,
        (
            "authz: JWT_SECRET: shorter than 32 characters; make one with: openssl rand -hex 32\n",
            "authz: ADMIN_TOKEN: shorter than 16 characters; make one with: openssl rand -hex 16\n",
        ),
        env={"JWT_SECRET": WEAK, "ADMIN_TOKEN": WEAK},
    ),
    "a mode that is none": Bad(
        Exit.SETTINGS,
        ("authz: MODE: must be enforce, audit or bypass\n",),
        env=GOOD | {"MODE": "off"},
    ),
    "a run directory that is read-only": Bad(
        Exit.RUN_DIRECTORY,
        ("authz: AUTHZ_RUN_DIR: /run/authz cannot be used: Read-only file system; mount",),
        tmpfs={"/data": WRITABLE},
    ),
    "a run directory of somebody else": Bad(
        Exit.RUN_DIRECTORY,
        (
            "authz: AUTHZ_RUN_DIR: /run/authz cannot be used: Permission denied; /run/authz belongs"
            " to 0:0 with mode 0770, and this process is 10001:10001;",
            "securityContext.fsGroup: 10001",
        ),
        tmpfs=PLACES | {"/run/authz": "uid=0,gid=0,mode=0770"},
    ),
    "no Envoy": Bad(
        Exit.ENVOY,
        ("authz: ENVOY_BIN: /nowhere is not an executable file\n",),
        env=GOOD | {"ENVOY_BIN": "/nowhere"},
    ),
    "a certificate that is none": Bad(
        Exit.KEY_FILE,
        ("authz: TLS_KEY_FILE: /etc/os-release: not PEM certificates\n",),
        env=GOOD | {"TLS_CERT_FILE": "/etc/os-release", "TLS_KEY_FILE": "/etc/os-release"},
    ),
    "a certificate that is not there": Bad(
        Exit.KEY_FILE,
        ("authz: TLS_CERT_FILE: /nowhere.pem: No such file or directory\n",),
        env=GOOD | {"TLS_CERT_FILE": "/nowhere.pem", "TLS_KEY_FILE": "/nowhere.key"},
    ),
    "a quarter of the least memory": Bad(
        Exit.MEMORY, ("because the memory limit of 32 MiB is too small; raise it: ",), memory="32m"
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_container_that_cannot_start_says_why_and_ends(image: str, bad: Bad) -> None:
    limits: dict[str, Any] = {}
    if bad.memory:
        limits = {"mem_limit": bad.memory, "memswap_limit": bad.memory}
    with boxed(image, env=bad.env, tmpfs=bad.tmpfs, network_mode="none", **limits) as one:
        ended = one.ended()
    assert ended.code == bad.code, ended.log
    for sentence in bad.sentences:
        assert sentence in ended.log
    assert "Traceback" not in ended.log
    for secret in (WEAK, JWT_SECRET):
        assert secret not in ended.log


@pytest.fixture(scope="module")
def first(image: str) -> Iterator[Pod]:
    with pod(image) as one:
        yield one


def test_a_second_sidecar_in_a_pod_finds_the_port_taken(first: Pod) -> None:
    with first.box(volumes={volume(): "/run/authz", volume(): "/data"}) as second:
        ended = second.ended()
    assert ended.code == Exit.ADDRESS
    assert (
        f"authz: PORT: 0.0.0.0:{PORT} cannot be listened on (Address already in use)" in ended.log
    )
    assert first.client.get("/proxy/docs", headers=bearer()).status_code == 200


def test_a_second_sidecar_on_the_same_sockets_ends(first: Pod) -> None:
    with first.box(env=first.env | {"PORT": "3101"}) as second:
        ended = second.ended()
    assert ended.code == Exit.RUN_DIRECTORY
    assert "authz: AUTHZ_RUN_DIR: another sidecar uses /run/authz" in ended.log
    assert first.client.get("/proxy/docs", headers=bearer()).status_code == 200


# Served.


def _is_unavailable(one: Pod) -> None:
    hits = one.hits()
    answer = one.client.get("/proxy/docs", headers=bearer())
    assert (answer.status_code, answer.json()["code"]) == (503, "audit_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert one.hits() == hits
    assert one.client.get("/ready").status_code == 503


def test_a_trail_that_is_read_only_lets_nobody_through(image: str) -> None:
    with pod(image, mounts={volume(): "/data:ro"}) as one:
        _is_unavailable(one)
        [line] = [
            line
            for line in one.service.log().splitlines()
            if "AUDIT_DB_PATH" in line and "cannot be written" in line
        ]
        assert "/data is mounted read-only; mount a volume that can be written there" in line


def test_a_trail_of_somebody_else_lets_nobody_through_until_it_is_given_over(image: str) -> None:
    data = owned(image, "0:0", "0750")
    with pod(image, mounts={data: f"/data:{KEPT}"}) as one:
        _is_unavailable(one)
        assert (
            "/data belongs to 0:0 with mode 0750, and this process is 10001:10001; give it /data"
        ) in one.service.log()
        give(image, data, "10001:10001", "0750")
        until(
            lambda: one.client.get("/proxy/docs", headers=bearer()).status_code == 200,
            "a trail that can be written",
        )
        assert one.rows()[-1]["decision"] == "allow"


def test_a_trail_of_somebody_else_stops_nobody_in_audit_mode(image: str) -> None:
    data = owned(image, "0:0", "0750")
    with pod(image, mounts={data: f"/data:{KEPT}"}, MODE="audit") as one:
        hits = one.hits()
        assert one.client.get("/proxy/docs", headers=bearer()).status_code == 200
        assert one.client.delete("/proxy/docs").status_code == 200
        assert one.hits() == hits + 2
        assert one.client.get("/health").json()["unrecorded"] == 2


def test_without_policies_everything_is_denied_and_nothing_is_ready(image: str) -> None:
    with pod(image, mounts={volume(): "/policies:ro"}) as one:
        answer = one.client.get("/proxy/docs", headers=bearer())
        assert (answer.status_code, answer.json()["code"]) == (403, "no_policy")
        assert one.client.get("/ready").status_code == 503
        assert one.client.get("/health").status_code == 200
        assert one.hits() == 0
        assert "POLICIES_DIR: no valid policy is loaded" in one.service.log()
        assert [row["code"] for row in one.rows()] == ["no_policy"]


def test_an_upstream_that_nobody_knows_is_told_of_and_is_503(image: str) -> None:
    with pod(image, PROXY_TARGET="http://nowhere.invalid") as one:
        answer = one.client.get("/proxy/docs", headers=bearer())
        assert (answer.status_code, answer.json()["error"]) == (503, "upstream_unreachable")
        # What its agent may not do it is told all the same.
        assert one.client.delete("/proxy/docs", headers=bearer()).status_code == 403
        until(
            lambda: "PROXY_TARGET: nowhere.invalid cannot be resolved" in one.service.log(),
            "the warning",
        )
        assert one.client.get("/ready").status_code == 200
        assert [row["decision"] for row in one.rows()] == ["allow", "deny"]
