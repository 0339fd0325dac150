"""How it runs: what probes get, how much it may use, and who can reach it."""

import ipaddress
from collections.abc import Iterator
from typing import Final

from authz.cgroups import Memory
from authz.cli.doctor.facts import Answer, Facts, FileFacts, Inside
from authz.cli.doctor.finding import Finding, failed, passed, skipped, warned
from authz.settings import ENVOY_ADMIN_SOCKET

_MIB: Final = 1 << 20
#: What the seed asks for at least, and at most.
LEAST_MEMORY: Final = 128 * _MIB
#: The share of the limit above which the next peak may be the last.
NEARLY: Final = 0.9
_PROBES: Final = "point livenessProbe at /health and readinessProbe at /ready"


def health(facts: Facts) -> Iterator[Finding]:
    """Whether probes get the right answers, by their status: kubelet looks at nothing else."""
    if facts.health is None:
        yield failed(
            "the service answers on its socket, and nobody on PORT: Envoy is not there",
            "look at Envoy's lines in the log",
        )
        if facts.service is not None:
            yield _health("/health on the socket", facts.service)
        return
    yield _health("/health", facts.health)
    ready, status = facts.ready, "" if facts.ready is None else facts.ready.body.get("status")
    if ready is None:
        yield failed("/ready is not answered", "look at the log")
    elif ready.status == 200 and status == "ready":
        yield passed("/ready answers 200, ready")
    elif ready.status == 503 and status == "not_ready":
        yield failed(
            "/ready answers 503, not_ready: no traffic is to come here",
            "see the lines on policies and audit data",
        )
    else:
        yield _wrong("/ready", ready)


def _health(what: str, answer: Answer) -> Finding:
    status = answer.body.get("status")
    if answer.status == 200 and status == "healthy":
        return passed(f"{what} answers 200, healthy")
    if answer.status == 503 and status == "unhealthy":
        return failed(
            f"{what} answers 503, unhealthy: whoever probes it will restart it",
            "see the line on audit data",
        )
    return _wrong(what, answer)


def _wrong(what: str, answer: Answer) -> Finding:
    said = str(answer.body.get("code") or answer.body.get("error") or "no status")[:40]
    return failed(
        f"{what} answers {answer.status} ({said})",
        f"{_PROBES} of PORT, with nothing in between; 503 circuit_open means that the service is"
        " away",
    )


def limits(facts: Facts) -> Iterator[Finding]:
    """How much it may use, and whether it can live with that."""
    inside = facts.inside
    if inside is None:
        yield skipped()
        return
    yield from memory(inside.memory)
    if inside.cpus == float("inf"):
        yield warned("there is no CPU limit", "set one: 250m is what the sidecar is made for")
    else:
        yield passed(f"CPU limit {inside.cpus * 1000:.0f}m")


def memory(found: Memory) -> Iterator[Finding]:
    """What control groups say of memory."""
    if found.oom_kills:
        times = "once" if found.oom_kills == 1 else f"{found.oom_kills} times"
        yield failed(
            f"the kernel has killed a process here for want of memory, {times}",
            "raise the memory limit, and restart: 256Mi has room",
        )
    if found.limit is None:
        yield warned(
            "there is no memory limit", "set resources.limits.memory, or mem_limit, to 256Mi"
        )
        return
    said = f"memory limit {found.limit // _MIB} MiB"
    if found.limit < LEAST_MEMORY:
        yield warned(f"{said}: less than the 128 MiB that a sidecar lives in", "raise it to 256Mi")
        return
    if found.used is None:
        yield passed(said)
        return
    needed = max(0, found.used - (found.reclaimable or 0))
    said += f", {needed // _MIB} MiB in use"
    if needed > found.limit * NEARLY:
        yield warned(said, "raise it to 256Mi, or look for what has grown")
    else:
        yield passed(said)


def network(facts: Facts) -> Iterator[Finding]:
    """Who can reach it, and by what."""
    if facts.metrics is not None and facts.metrics.status == 200:
        yield warned(
            "/metrics is open to whoever reaches PORT (METRICS_ENABLED)",
            "let the NetworkPolicy admit Prometheus alone, or unset METRICS_ENABLED",
        )
    if facts.is_cleartext_elsewhere:
        yield warned(
            "it is asked over the network without TLS: tokens can be read on the way",
            "ask it by https, or from its own machine",
        )
    if facts.inside is None:
        yield skipped()
        return
    yield from listeners(facts.inside)
    yield from _sockets(facts.inside)
    if facts.inside.admin_ports:
        ports = ", ".join(map(str, facts.inside.admin_ports))
        yield failed(
            f"Envoy's admin endpoint answers on TCP port {ports}: the agent can change what judges"
            " it",
            "have Envoy's admin on a unix socket, as `authz envoy config` does",
        )
    else:
        yield passed("no Envoy's admin endpoint answers on TCP")


def listeners(inside: Inside) -> Iterator[Finding]:
    """Which addresses PORT is bound to."""
    where = ", ".join(inside.listening_on)
    if not inside.listening_on:
        yield failed(f"nobody listens on PORT {inside.port} here", "look at Envoy's lines")
    elif all(ipaddress.ip_address(one).is_loopback for one in inside.listening_on):
        yield passed(f"PORT {inside.port} is bound to {where}, for this machine or pod alone")
    elif inside.in_pod:
        yield warned(
            f"PORT {inside.port} is bound to {where}; a NetworkPolicy decides who else reaches it,"
            " and cannot be seen from here",
            "check that one admits the kubelet's probes alone, or set HOST=127.0.0.1 and probe with"
            " exec",
        )
    elif inside.in_container:
        yield warned(
            f"PORT {inside.port} is bound to {where}, and whoever is on this container's networks"
            " reaches it",
            "have nobody but the agent on a network with it, and publish the port on 127.0.0.1",
        )
    else:
        yield warned(
            f"PORT {inside.port} is bound to {where}, and other hosts may reach it",
            "set HOST=127.0.0.1 where the agent is on this host, or let a firewall admit the agent"
            " alone",
        )


def _is_envoys(socket: FileFacts, inside: Inside) -> bool:
    """Whether Envoy made it as a user of its own, as in compose.yaml: one of our group."""
    return socket.path.name == ENVOY_ADMIN_SOCKET and bool(inside.gid) and socket.gid == inside.gid


def _sockets(inside: Inside) -> Iterator[Finding]:
    cure = "stop it, remove what is in AUTHZ_RUN_DIR, and start it with a umask of 007"
    sound = True
    for socket in inside.sockets:
        if socket.mode & 0o007:
            sound = False
            yield failed(f"everybody may use {socket.name}", cure)
        elif _is_envoys(socket, inside):
            continue
        elif inside.uid and socket.uid not in (inside.uid, 0):
            sound = False
            yield warned(
                f"{socket.name} belongs to somebody else than us ({inside.uid})",
                "have nobody but the sidecar write in AUTHZ_RUN_DIR",
            )
    directory = inside.run_dir
    if directory is not None and directory.mode & 0o002 and not directory.mode & 0o1000:
        sound = False
        yield failed(
            f"everybody may replace the sockets in {directory.name}", f"chmod o-w {directory.path}"
        )
    if sound and inside.sockets:
        yield passed(f"its {len(inside.sockets)} unix sockets are closed to others")
    elif sound:
        yield warned("its unix sockets are not here", "set AUTHZ_RUN_DIR as the sidecar has it")
