"""The image alone, as `authz run`: what is in it, what it may do, and how it ends."""

import json
from collections.abc import Iterator

import pytest

from authz import __version__
from tests.containers import engine
from tests.containers.pods import KEPT, UID, Pod, boxed, owned, pod, until
from tests.e2e.sidecar import ADMIN_TOKEN, JWT_SECRET, bearer

MAX_MB = 300
DENIED = {"X-MeshGuard-Action": "write:delete"}
#: What whoever has taken a program over would look for.
TOOLS = ("apt-get", "cc", "curl", "gcc", "perl", "pip", "su", "wget")
#: A program of an image that cannot be run: what needs a shell fails.
NO_SHELL = {"/dev/null": "/usr/bin/dash:ro"}

#: What each process may do (proc(5)).
_MAY = """
import json, pathlib
found = {}
for entry in pathlib.Path("/proc").iterdir():
    if entry.name.isdigit():
        status = dict(line.split(":\\t", 1) for line in (entry / "status").read_text().splitlines())
        found[entry.name] = {
            name: status[name].split() for name in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs")
        }
print(json.dumps(found))
"""

#: What may be written to, in places that a program would try.
_WRITES = """
import errno, json, tempfile
found = {}
for path in ("/", "/tmp", "/etc", "/opt/authz", "/var/tmp", "/policies", "/run/authz", "/data"):
    try:
        tempfile.TemporaryFile(dir=path).close()
        found[path] = ""
    except OSError as error:
        found[path] = errno.errorcode[error.errno]
print(json.dumps(found))
"""

#: Files with the setuid or setgid bit; and what is no program of ours but could be used.
_FILES = """
import json, os, stat
root = os.stat("/").st_dev
special, names = [], []
for place, directories, files in os.walk("/"):
    directories[:] = [
        name for name in directories if os.lstat(os.path.join(place, name)).st_dev == root
    ]
    for name in files:
        path = os.path.join(place, name)
        if os.lstat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):
            special.append(path)
        names.append(path)
print(json.dumps([special, names]))
"""


#: A digest of each file that its user may read.
_CONTENTS = """
import hashlib, json, os
found = {}
for place, directories, files in os.walk("/"):
    directories[:] = [
        name for name in directories if os.path.join(place, name) not in ("/proc", "/sys", "/dev")
    ]
    for name in files:
        path = os.path.join(place, name)
        # The engine's own: names and addresses.
        if path in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv"):
            continue
        if not os.path.islink(path) and os.access(path, os.R_OK):
            with open(path, "rb") as file:
                found[path] = hashlib.file_digest(file, "sha256").hexdigest()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def alone(image: str) -> Iterator[Pod]:
    """With the image's own health check, only more often, and without a shell."""
    limits = {"healthcheck": {"interval": 300_000_000}}
    with pod(image, mounts=NO_SHELL, limits=limits) as one:
        yield one


def test_it_is_small_and_says_what_it_is(image: str) -> None:
    found = engine.client().images.get(image)
    assert found.attrs["Size"] <= MAX_MB * 1_000_000
    config = found.attrs["Config"]
    label = "org.opencontainers.image."
    assert config["Labels"][f"{label}version"] == __version__
    assert config["Labels"][f"{label}title"] == "authz-sidecar"
    assert config["Labels"][f"{label}licenses"] == "Apache-2.0"
    assert config["Labels"][f"{label}description"]
    # A number: Kubernetes cannot know that a name is not root's.
    assert config["User"] == f"{UID}:{UID}"
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"] == {"3100/tcp": {}}
    # Of lists, so without a shell.
    assert config["Entrypoint"] == ["authz"]
    assert config["Healthcheck"]["Test"][0] == "CMD"
    # A volume without a name would keep a trail that the next container does not find.
    assert not config.get("Volumes")


def test_it_holds_no_secret_and_nothing_that_makes_one_of_root(alone: Pod, image: str) -> None:
    found = engine.client().images.get(image)
    variables = [variable.partition("=")[0] for variable in found.attrs["Config"]["Env"]]
    assert not [name for name in variables if "SECRET" in name or "TOKEN" in name or "KEY" in name]
    history = json.dumps(found.history())
    for word in ("JWT_SECRET", "ADMIN_TOKEN", "PRIVATE KEY", "eyJ"):
        assert word not in history
    special, names = json.loads(alone.service.python(_FILES))
    assert special == []
    assert [name for name in names if name.startswith(("/home/", "/tmp/", "/build/"))] == []
    assert [name for name in names if name.startswith("/root") and "/." in name] == []
    ours = ("audit.db", "dev-secrets", ".env", ".git/", ".pem", ".key")
    outside = ("/usr/lib/", "/etc/ssl/", "/opt/authz/lib/", "/usr/share/ca-certificates/")
    assert [
        name
        for name in names
        if any(mark in name for mark in ours) and not name.startswith(outside)
    ] == []
    # And no tool that a program which was taken over would start with.
    programs = {name.rpartition("/")[2] for name in names if "/bin/" in name or "/sbin/" in name}
    assert programs & set(TOOLS) == set()


def test_its_own_health_check_says_that_it_is_healthy(alone: Pod) -> None:
    def health() -> str:
        return str(alone.service.state()["Health"]["Status"])

    until(lambda: health() == "healthy", "a healthy container")
    last = alone.service.state()["Health"]["Log"][-1]
    assert (last["ExitCode"], last["Output"]) == (
        0, "http://127.0.0.1:3100/health: healthy\n",
    )  # fmt: skip


def test_it_decides_and_records(alone: Pod) -> None:
    hits, rows = alone.hits(), len(alone.rows())
    allowed = alone.client.get("/proxy/docs/intro?q=1", headers=bearer())
    assert (allowed.status_code, allowed.json()["path"]) == (200, "/docs/intro")
    assert "authorization" not in allowed.json()["headers"]
    denied = alone.client.delete("/proxy/docs", headers=bearer() | DENIED)
    assert (denied.status_code, denied.json()["code"]) == (403, "rule_denied")
    nobody = alone.client.get("/proxy/docs")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "token_missing")
    assert alone.hits() == hits + 1
    assert [(row["decision"], row["code"]) for row in alone.rows()[rows:]] == [
        ("allow", "rule_allowed"),
        ("deny", "rule_denied"),
        ("deny", "token_missing"),
    ]


def test_no_process_has_a_privilege(alone: Pod) -> None:
    found = json.loads(alone.service.python(_MAY))
    # The supervisor, the service, Envoy, and who asks.
    assert len(found) >= 4
    for process in found.values():
        assert process["Uid"] == process["Gid"] == [str(UID)] * 4
        assert int(process["CapEff"][0], 16) == int(process["CapBnd"][0], 16) == 0
        assert process["NoNewPrivs"] == ["1"]


def test_it_writes_where_it_has_to_and_nowhere_else(alone: Pod) -> None:
    assert json.loads(alone.service.python(_WRITES)) == {
        "/": "EROFS",
        "/tmp": "EROFS",
        "/etc": "EROFS",
        "/opt/authz": "EROFS",
        "/var/tmp": "EROFS",
        "/policies": "EROFS",
        "/run/authz": "",
        "/data": "",
    }


def test_no_shell_is_in_reach_and_none_was_missed(alone: Pod) -> None:
    assert "executable file not found" in alone.service.exec("sh", "-c", "true", code=126)
    assert alone.service.exec("authz", "--version") == f"{__version__}\n"
    assert alone.verify().endswith("the trail verifies\n")


def test_no_secret_is_written_to_the_log(alone: Pod) -> None:
    token = bearer()
    assert alone.client.get("/proxy/docs", headers=token).status_code == 200
    log = alone.service.log()
    assert "listening on 0.0.0.0:3100" in log
    for secret in (JWT_SECRET, ADMIN_TOKEN, token["Authorization"].removeprefix("Bearer ")):
        assert secret not in log


def test_its_version_needs_no_setting_and_no_directory(image: str) -> None:
    with boxed(image, "--version", network_mode="none") as one:
        assert one.ended() == (0, f"{__version__}\n")


def test_sigterm_ends_it_in_order(image: str) -> None:
    """By itself: how long it takes is for `tests/e2e/test_run.py`, without an engine between."""
    with pod(image) as one:
        assert one.client.get("/proxy/docs", headers=bearer()).status_code == 200
        # After that it would be killed, and that is 137.
        assert one.service.stop(30) == 0
        assert "[run] stopping\n" in one.service.log()
        state = one.service.state()
        assert (state["OOMKilled"], state["Error"]) == (False, "")


def test_another_user_will_do_that_may_write_the_volumes(image: str) -> None:
    """As where ids are given out: any user, none of our groups, volumes of the pod's own group."""
    group = 54_321
    mounts = {
        owned(image, f"0:{group}", "2770"): f"{path}:{KEPT}" for path in ("/run/authz", "/data")
    }
    with pod(image, limits={"user": "12345:0", "group_add": [group]}, mounts=mounts) as one:
        assert one.client.get("/proxy/docs", headers=bearer()).status_code == 200
        assert [row["decision"] for row in one.rows()] == ["allow"]
        assert one.service.exec("id", "-u") == "12345\n"


@pytest.mark.skipif(engine.ROUNDS == 1, reason="takes minutes: make containers")
@pytest.mark.timeout(1800)
def test_it_is_built_from_nothing_and_is_the_same_again() -> None:
    """Without any layer of an earlier build; what is in it does not depend on when it is built."""
    built = [engine.build("from-nothing", "--no-cache", timeout_s=800) for _ in range(2)]
    try:
        listed = []
        for one in built:
            with boxed(one, "-c", _CONTENTS, entrypoint="python", network_mode="none") as box:
                ended = box.ended()
            assert ended.code == 0, ended.log
            listed.append(json.loads(ended.log))
        assert listed[0].keys() == listed[1].keys()
        assert {path for path, digest in listed[0].items() if listed[1][path] != digest} == set()
    finally:
        for one in set(built):
            engine.client().images.remove(one, force=True)
