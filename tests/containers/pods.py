"""Pods: containers in one network namespace, as hardened as the manifests have them.

- The upstream owns the namespace and its ports, so that whatever else is killed or replaced finds
  the same one again. An agent is a container in it, or a client of the port on 127.0.0.1.
- Two shapes: `authz run` in one container, or `authz serve` and Envoy in two, which share the
  directory of the sockets and nothing else.
- Nobody starts again by itself: the tests are the kubelet.
- How long a decision takes is a benchmark's to say; other tests have the processors too.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, cast

import httpx
from docker.errors import NotFound
from testcontainers.core.container import DockerContainer

from tests.containers import engine
from tests.e2e.sidecar import ADMIN_TOKEN, JWT_SECRET, SAMPLE_POLICIES

UID: Final = 10001
PORT: Final = 3100
ECHO_PORT: Final = 8080
#: Seconds that anything may take before a test gives up, a start with little processor time too.
PATIENCE_S: Final = 90.0
#: Seconds between two looks.
PAUSE_S: Final = 0.05

#: Without this docker gives an empty volume owner and mode of the image's directory.
KEPT: Final = "rw,nocopy"

Shape = Literal["run", "serve"]
SHAPES: Final[tuple[Shape, ...]] = ("run", "serve")

ECHO: Final = ("echo", "--host", "0.0.0.0", "--port", str(ECHO_PORT))

#: Kubernetes' own.
_PERIOD_US: Final = 100_000

_ROWS: Final = """
import contextlib, json, sqlite3
names = "seq source agent_id action decision enforced mode code policy trace_id".split()
with contextlib.closing(sqlite3.connect("file:/data/audit.db?mode=ro", uri=True)) as db:
    rows = db.execute(f"SELECT {', '.join(names)} FROM audit ORDER BY seq")
    print(json.dumps([dict(zip(names, row)) for row in rows]))
"""


class Ended(NamedTuple):
    """What a container that has ended left behind."""

    code: int
    log: str


class Used(NamedTuple):
    """What a container has used, as its cgroup counts."""

    #: The most memory so far, in MiB, and what was read of files is in it.
    peak_mb: float
    cpu_s: float
    #: Periods of 0.1 s in which it had work, and those in which it had to wait for the next one.
    periods: int
    throttled: int


class Box:
    """One container."""

    def __init__(self, container: DockerContainer) -> None:
        self.container = container.get_wrapped_container()

    @property
    def id(self) -> str:
        return str(self.container.id)

    def state(self) -> dict[str, Any]:
        """What the engine says of it now."""
        self.container.reload()
        return cast("dict[str, Any]", self.container.attrs["State"])

    def log(self) -> str:
        """What it has written so far."""
        said: Any = self.container.logs()
        return str(said.decode(errors="replace"))

    def exec(self, *command: str, code: int | None = 0) -> str:
        """The output of a command in it."""
        done = self.container.exec_run(list(command))
        assert isinstance(done.output, bytes)
        said = done.output.decode(errors="replace")
        assert code is None or done.exit_code == code, said
        return said

    def python(self, program: str) -> str:
        """What a program prints in it."""
        return self.exec("python", "-c", program)

    def port(self, inner: int) -> int:
        """Where 127.0.0.1 leads to it."""
        self.container.reload()
        [binding] = self.container.attrs["NetworkSettings"]["Ports"][f"{inner}/tcp"]
        return int(binding["HostPort"])

    def ended(self) -> Ended:
        """Wait for its end."""
        code = self.container.wait(timeout=PATIENCE_S)["StatusCode"]
        return Ended(int(code), self.log())

    def hold(self, cpus: float, memory_mb: int) -> None:
        """Limit it from now on; there is no swap besides."""
        memory = memory_mb << 20
        self.container.update(
            cpu_period=_PERIOD_US,
            cpu_quota=round(cpus * _PERIOD_US),
            mem_limit=memory,
            memswap_limit=memory,
        )

    def used(self) -> "Used":
        """What it has used so far."""
        said: Any = self.container.stats(stream=False, one_shot=True)
        memory, cpu = said["memory_stats"], said["cpu_stats"]
        # The second version of cgroups has its peak in a file alone.
        peak = memory.get("max_usage") or int(self.exec("cat", "/sys/fs/cgroup/memory.peak"))
        waits = cpu["throttling_data"]
        return Used(
            peak / 2**20,
            cpu["cpu_usage"]["total_usage"] / 1e9,
            waits["periods"],
            waits["throttled_periods"],
        )

    def was_short_of_memory(self) -> bool:
        """Something in it was killed for want of memory."""
        return bool(self.state()["OOMKilled"]) or "signal SIGKILL" in self.log()

    def kill(self) -> None:
        """SIGKILL to its first process, which takes the others along."""
        self.container.kill()
        self.container.wait(timeout=PATIENCE_S)

    def start(self) -> None:
        self.container.start()

    def stop(self, patience_s: int) -> int:
        """SIGTERM, and SIGKILL after so many seconds; the exit code."""
        self.container.stop(timeout=patience_s)
        return int(self.state()["ExitCode"])

    def remove(self) -> None:
        self.container.remove(force=True)


@contextlib.contextmanager
def boxed(
    image: str,
    *command: str,
    entrypoint: str | None = None,
    env: Mapping[str, str] | None = None,
    volumes: Mapping[str, str] | None = None,
    tmpfs: Mapping[str, str] | None = None,
    network_of: Box | None = None,
    ports: tuple[int, ...] = (),
    **kwargs: Any,
) -> Iterator[Box]:
    """A container of the image, without root, capabilities and a writable root file system.

    Args:
        volumes: `path:mode` in the container by the name of a volume or a path of this machine.
        tmpfs: options by path in the container.
        network_of: whose network namespace it shares.
        ports: to be published on a free port of 127.0.0.1.
        kwargs: the rest is docker's own, and overrides what is ours.
    """
    options: dict[str, Any] = {
        "user": f"{UID}:{UID}",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        # Engine 20.10 looks for the first time after a whole interval.
        "healthcheck": {"test": ["NONE"]},
        # The image's own limit is none; this one is for a test that goes wrong.
        "pids_limit": 256,
    }
    if entrypoint is not None:
        options["entrypoint"] = [entrypoint]
    if network_of is not None:
        options["network_mode"] = f"container:{network_of.id}"
    container = DockerContainer(image, env=dict(env or {}), **(options | kwargs))
    if command:
        container.with_command(list(command))
    for source, target in (volumes or {}).items():
        path, _, mode = target.partition(":")
        container.with_volume_mapping(source, path, mode or "rw")
    for path, how in (tmpfs or {}).items():
        container.with_tmpfs_mount(path, how)
    for inner in ports:
        # Their own ways of saying it publish on every address of the machine.
        cast("dict[str, Any]", container.ports)[f"{inner}/tcp"] = ("127.0.0.1", None)
    try:
        container.start()
        yield Box(container)
    finally:
        # A test may have removed it.
        with contextlib.suppress(NotFound):
            container.stop()
        container.get_docker_client().client.close()


def volume() -> str:
    """A volume that goes when the session ends; its root's owner and mode are the image's."""
    name = f"authz-tests-{secrets.token_hex(6)}"
    engine.client().volumes.create(name, labels=engine.LABELS)
    return name


def owned(image: str, owner: str, mode: str) -> str:
    """A volume whose root has another owner and mode than the image's, to be mounted as `KEPT`."""
    name = volume()
    give(image, name, owner, mode)
    return name


def give(image: str, name: str, owner: str, mode: str) -> None:
    """Give a volume to somebody, as root, whoever uses it."""
    user, group = map(int, owner.split(":"))
    program = f"import os; os.chown('/volume', {user}, {group}); os.chmod('/volume', 0o{mode})"
    root: dict[str, Any] = {"user": "0:0", "cap_add": ["CHOWN", "FOWNER"]}
    volumes = {name: f"/volume:{KEPT}"}
    with boxed(image, "-c", program, entrypoint="python", volumes=volumes, **root) as one:
        ended = one.ended()
    assert ended.code == 0, ended.log


def until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition that has no event to wait on."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for: {what}")
        time.sleep(PAUSE_S)


class Pod:
    """An upstream, and a sidecar before it."""

    def __init__(
        self, stack: contextlib.ExitStack, image: str, shape: Shape, env: Mapping[str, str]
    ) -> None:
        self._stack = stack
        self.image = image
        self.shape: Final = shape
        #: Settings of the sidecar.
        self.env = {
            "JWT_SECRET": JWT_SECRET,
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "PROXY_TARGET": f"http://127.0.0.1:{ECHO_PORT}",
            "DECISION_TIMEOUT_MS": "10000",
            **env,
        }
        #: By path in the container: a volume or a path of this machine, and how.
        self.mounts: dict[str, tuple[str, str]] = {
            "/run/authz": (volume(), "rw"),
            "/data": (volume(), "rw"),
            "/policies": (str(SAMPLE_POLICIES), "ro"),
        }
        #: What docker is told of the containers of the sidecar.
        self.limits: dict[str, Any] = {}
        self.owner = stack.enter_context(boxed(image, *ECHO, ports=(PORT, ECHO_PORT)))
        self.port = self.owner.port(PORT)
        self.client = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S)
        )
        self._upstream = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{self.owner.port(ECHO_PORT)}")
        )
        self.boxes: dict[str, Box] = {}

    @property
    def service(self) -> Box:
        """The container that decides."""
        return self.boxes["sidecar" if self.shape == "run" else "service"]

    def volumes(self, *paths: str) -> dict[str, str]:
        """What is mounted at these paths; at all of them when none is named."""
        chosen = paths or self.mounts
        return {self.mounts[path][0]: f"{path}:{self.mounts[path][1]}" for path in chosen}

    def start(self) -> None:
        """Start the sidecar, and wait until it answers."""
        if self.shape == "run":
            self.boxes["sidecar"] = self.enter("run")
        else:
            # What an init container does.
            with self.box("envoy", "config", "--out", "/run/authz") as config:
                ended = config.ended()
            assert ended.code == 0, ended.log
            self.boxes["service"] = self.enter("serve")
            self.boxes["envoy"] = self.enter(
                *("--config-path", "/run/authz/envoy.yaml", "--disable-hot-restart"),
                *("--concurrency", "1", "--log-level", "warning"),
                entrypoint="envoy",
                env={},
                volumes=self.volumes("/run/authz"),
                # What is the service's alone in there it cannot read.
                user=f"10002:{UID}",
            )
        self.until_answering()

    def hold(self, cpus: float, memory_mb: int) -> None:
        """Limit what the sidecar has in all from now on; two containers have half of it each."""
        share = len(self.boxes)
        for box in self.boxes.values():
            box.hold(cpus / share, memory_mb // share)

    def box(self, *command: str, **kwargs: Any) -> contextlib.AbstractContextManager[Box]:
        """A container of the sidecar's, with its settings and volumes unless others are given."""
        given: dict[str, Any] = {
            "env": self.env, "volumes": self.volumes(), "network_of": self.owner, **self.limits,
        }  # fmt: skip
        return boxed(self.image, *command, **(given | kwargs))

    def enter(self, *command: str, **kwargs: Any) -> Box:
        """The same, until the pod ends."""
        return self._stack.enter_context(self.box(*command, **kwargs))

    def agent(
        self, *command: str, env: Mapping[str, str], volumes: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a program of an agent's: another user, in the pod, with nothing of the sidecar's."""
        with boxed(
            self.image,
            *command,
            entrypoint="python",
            env=env,
            volumes=volumes,
            network_of=self.owner,
            user="20001:20001",
        ) as one:
            return one.ended()

    def replace(self) -> None:
        """Remove the sidecar's containers, and start others with the same volumes."""
        for box in self.boxes.values():
            assert box.stop(10) == 0, box.log()
            box.remove()
        self.start()

    def answers(self) -> bool:
        """The service answers at the port."""
        try:
            return self.client.get("/").status_code == 200
        except httpx.TransportError:
            return False

    def until_answering(self) -> None:
        def done() -> bool:
            return self.answers() or any(not box.state()["Running"] for box in self.boxes.values())

        until(done, "the sidecar to answer")
        for name, box in self.boxes.items():
            assert box.state()["Running"], f"{name}: {box.log()}"

    def hits(self) -> int:
        """Requests that have reached the upstream."""
        return int(self._upstream.get("/__hits").json()["hits"])

    def rows(self, *, control: bool = False, apart: bool = False) -> list[dict[str, Any]]:
        """The rows of requests, oldest first.

        Args:
            control: also those about the sidecar.
            apart: read in a container of its own: the service has neither the work nor the memory.
        """
        if apart:
            mine: dict[str, Any] = {"volumes": self.volumes("/data"), "env": {}}
            with boxed(self.image, "-c", _ROWS, entrypoint="python", **mine) as reader:
                ended = reader.ended()
            assert ended.code == 0, ended.log
            said = ended.log
        else:
            said = self.service.python(_ROWS)
        rows: list[dict[str, Any]] = json.loads(said)
        return [row for row in rows if control or row["source"] != "control"]

    def verify(self) -> str:
        """What `authz audit verify` prints; that it succeeds is asserted."""
        return self.service.exec("authz", "audit", "verify")

    def logs(self) -> str:
        return "".join(f"--- {name}\n{box.log()}" for name, box in self.boxes.items())


@contextlib.contextmanager
def pod(
    image: str,
    shape: Shape = "run",
    *,
    mounts: Mapping[str, str] | None = None,
    limits: Mapping[str, Any] | None = None,
    **env: str,
) -> Iterator[Pod]:
    """A pod that answers. `env` are settings of its sidecar's."""
    with contextlib.ExitStack() as stack:
        one = Pod(stack, image, shape, env)
        for source, target in (mounts or {}).items():
            path, _, how = target.partition(":")
            one.mounts[path] = (source, how or "rw")
        one.limits = dict(limits or {})
        try:
            one.start()
            yield one
        except BaseException:
            print(one.logs()[-8000:])  # noqa: T201 - pytest shows it with the failure
            raise
