"""Gathers the facts: asks the sidecar, and looks at what is around it here.

- Nothing is changed, and nothing is recorded but an ADMIN_TOKEN that the sidecar does not take,
  which its trail has as an attempt.
- Everything is bounded: files, rows, bytes and seconds.
"""

import contextlib
import json
import os
import socket
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from authz import cgroups, dev_secrets, tcp_table
from authz.cli.destination import Destination
from authz.cli.doctor import traces
from authz.cli.doctor.asking import Asker
from authz.cli.doctor.facts import (
    Answer,
    Audit,
    Facts,
    FileFacts,
    Inside,
    Policies,
    Secret,
    WouldDeny,
)
from authz.cli.doctor.mounts import volume_of
from authz.core.timestamps import seconds_of
from authz.edges.cpu_quota import cpus_allowed
from authz.settings import ENVOY_ADMIN_SOCKET, EXT_AUTHZ_SOCKET, HTTP_SOCKET, Settings
from authz.stores.audit_check import NotATrail, newest_head
from authz.stores.audit_key import default_key_file
from authz.stores.audit_schema import companions

#: Files of POLICIES_DIR that are looked at.
MAX_FILES: Final = 2000
#: Rows of the trail, the newest, that are looked at; about a tenth of a second.
MAX_ROWS: Final = 100_000
#: Variables that name a file with something secret in it end like this.
_PRIVATE: Final = ("_KEY_FILE", "_SECRET_FILE", "_TOKEN_FILE", "_AUTHORIZATION_FILE")
#: Where Envoy's admin endpoint is by its documentation's examples, and by Istio's.
ADMIN_PORTS: Final = (9901, 15000)
_SECRETS: Final = ("JWT_SECRET", "ADMIN_TOKEN")
_WOULD_DENY: Final = """
    WITH newest AS (
        SELECT seq, timestamp, mode, decision, enforced FROM audit ORDER BY seq DESC LIMIT ?
    )
    SELECT count(*), min(timestamp), (SELECT count(*) FROM newest) FROM newest
    WHERE mode = 'audit' AND decision = 'deny' AND enforced = 'allow'
    AND seq > coalesce((SELECT max(seq) FROM newest WHERE mode <> 'audit'), 0)
"""


class Nobody(Exception):
    """No sidecar answers; one sentence."""


def from_outside(there: Destination) -> Facts:
    """What can be known of a sidecar elsewhere.

    Raises:
        Nobody: none answers.
    """
    facts = _facts(there.name, Asker(there.base_url, there.socket), None, None)
    if not facts.said:
        raise Nobody(f"{there.name}: no sidecar answers there{_unless(there)}")
    return facts


def _unless(there: Destination) -> str:
    """What else an answer may be missing for: TLS that only one end speaks, or does not trust."""
    if there.socket:
        return ""
    if there.base_url.startswith("https:"):
        return ", or its certificate is not trusted here: then set SSL_CERT_FILE to its issuer"
    return ", or it speaks TLS: then ask https:// instead"


def from_inside(settings: Settings, env: Mapping[str, str]) -> Facts:
    """Everything of the sidecar whose environment this is.

    Raises:
        Nobody: it answers neither on PORT nor on its socket.
    """
    way = Asker("http://sidecar", settings.http_socket)
    service = way.ask("/health")
    # Tokens go to the socket alone: on PORT may be anybody.
    inside = _inside(settings, env, way if service is not None else None)
    host = settings.reachable_host
    if settings.tls_client_ca_file is None:
        door = _port(f"[{host}]" if ":" in host else host, settings.port)
        name = door.base_url
    else:
        # PORT is for who has a certificate, and the checklist's reader has none.
        door, name = way, str(settings.http_socket)
    facts = _facts(name, door, service, inside)
    if not facts.said:
        raise Nobody(
            f"no sidecar answers on {facts.name} or {settings.http_socket}; start it, or set PORT"
            " and AUTHZ_RUN_DIR as it has them, or name it with --gateway"
        )
    return facts


def _facts(name: str, way: Asker, service: Answer | None, inside: Inside | None) -> Facts:
    health = way.ask("/health")
    elsewhere = inside is None and way.base_url.startswith("http:") and "://" in name
    return Facts(
        name=name,
        is_cleartext_elsewhere=elsewhere and not _is_near(name),
        health=health,
        ready=None if health is None else way.ask("/ready"),
        metrics=None if health is None else way.ask("/metrics"),
        service=service,
        inside=inside,
    )


def _is_near(url: str) -> bool:
    host = url.split("://", 1)[1].rsplit(":", 1)[0].split("/", 1)[0]
    return host in ("localhost", "[::1]") or host.startswith("127.")


def _port(host: str, port: int) -> Asker:
    """The way through PORT, whether it has TLS or not. No credential is sent by it."""
    plain = Asker(f"http://{host}:{port}")
    encrypted = Asker(f"https://{host}:{port}", is_ours=True)
    if plain.ask("/health") is None and encrypted.ask("/health") is not None:
        return encrypted
    return plain


def _inside(settings: Settings, env: Mapping[str, str], way: Asker | None) -> Inside:
    secrets = {name: env[name] for name in _SECRETS if env.get(name, "").strip()}
    made_up = settings.run_dir / dev_secrets.FILE
    found = made_up if os.path.exists(made_up) else None  # noqa: PTH110 - it never raises
    status = _admin_status(way, secrets.get("ADMIN_TOKEN", ""))
    used = found is not None and status != 200 and _takes_made_up(way, found)
    names = (EXT_AUTHZ_SOCKET, HTTP_SOCKET, ENVOY_ADMIN_SOCKET)
    return Inside(
        uid=os.geteuid(),
        gid=os.getegid(),
        in_pod="KUBERNETES_SERVICE_HOST" in env,
        in_container=_in_container(env),
        mode=settings.mode,
        has_mode_file=settings.mode_file is not None,
        secrets=tuple(Secret(name, value) for name, value in secrets.items()),
        has_jwks=settings.jwks_file is not None,
        dev_secrets=found,
        dev_secrets_used=used,
        admin_status=status,
        private_files=tuple(_private(settings, env)),
        policies=_policies(_policies_path(settings)),
        audit=_audit(settings),
        memory=_memory(),
        cpus=cpus_allowed(),
        traces=traces.refusal(settings),
        port=settings.port,
        listening_on=tuple(listening(settings.port)),
        run_dir=file_facts(settings.run_dir),
        sockets=tuple(
            facts for name in names if (facts := file_facts(settings.run_dir / name)) is not None
        ),
        admin_ports=tuple(port for port in ADMIN_PORTS if _is_envoy_admin(port)),
        require_signed=settings.require_signed_policies,
    )


def _memory() -> cgroups.Memory:
    """Of the sidecar, which is less than that of its group: we are in it, too."""
    found = cgroups.memory()
    if found.used is None:
        return found
    return found._replace(used=max(0, found.used - cgroups.own_memory()))


def _admin_status(way: Asker | None, token: str) -> int:
    answer = way.ask("/admin/mode", token) if way is not None and token else None
    return 0 if answer is None else answer.status


def _takes_made_up(way: Asker | None, file: Path) -> bool:
    try:
        token = str(json.loads(file.read_bytes())["ADMIN_TOKEN"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return _admin_status(way, token) == 200


def _in_container(env: Mapping[str, str]) -> bool:
    marks = ("/.dockerenv", "/run/.containerenv")
    return "KUBERNETES_SERVICE_HOST" in env or any(map(os.path.exists, marks))


def file_facts(path: Path) -> FileFacts | None:
    """Whose a file is; None where it is not there, or cannot be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return FileFacts(path, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


def _private(settings: Settings, env: Mapping[str, str]) -> Iterator[FileFacts]:
    named = [Path(value) for name, value in env.items() if name.endswith(_PRIVATE) and value]
    database = settings.audit_db_path
    named += [
        settings.run_dir / dev_secrets.FILE,
        settings.audit_key_file or default_key_file(database),
        settings.delegation_key_file or Path(f"{database}.delegation.key"),
    ]
    for path in dict.fromkeys(named):
        found = file_facts(path)
        if found is not None:
            yield found


def _policies_path(settings: Settings) -> Path:
    bundle = settings.policy_bundle
    return settings.policies_dir if bundle is None else bundle.parent


def _policies(path: Path) -> Policies:
    files = [facts] if (facts := file_facts(path)) is not None else []
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(path)):  # noqa: PTH208
            if len(files) > MAX_FILES:
                break
            if (facts := file_facts(path / name)) is not None:
                files.append(facts)
    ours = any(os.access(facts.path, os.W_OK) for facts in files)
    return Policies(path, volume_of(path), tuple(files), ours)


def _audit(settings: Settings) -> Audit:
    path = settings.audit_db_path
    wal = file_facts(companions(path)[0])
    return Audit(
        path=path,
        volume=volume_of(path.parent),
        file=file_facts(path),
        wal_bytes=0 if wal is None else _size(wal.path),
        signed_ago_s=_signed_ago(path),
        would_deny=_would_deny(path),
        retention_days=settings.audit_retention_days,
        on_failure=settings.audit_on_failure,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _signed_ago(path: Path) -> float | None:
    try:
        head = newest_head(path)
        return None if head is None else max(0.0, time.time() - seconds_of(head.at))
    except (NotATrail, OSError, ValueError, sqlite3.Error):
        return None


def _would_deny(path: Path) -> WouldDeny | None:
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=1)
        ) as database:
            count, since, seen = database.execute(_WOULD_DENY, (MAX_ROWS,)).fetchone()
    except (OSError, sqlite3.Error):
        return None
    return WouldDeny(count, str(since or ""), seen == MAX_ROWS)


def listening(port: int, net: Path = tcp_table.NET) -> Iterator[str]:
    """The addresses on which somebody in this network namespace listens on a TCP port."""
    found = (_address(one.address) for one in tcp_table.sockets(port, tcp_table.LISTEN, net))
    yield from dict.fromkeys(found)


def _address(text: str) -> str:
    """An address of the kernel's table as people write it."""
    raw = b"".join(
        int(text[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(text), 8)
    )
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw)


def _is_envoy_admin(port: int) -> bool:
    if not any(listening(port)):
        return False
    answer = Asker(f"http://127.0.0.1:{port}").ask("/server_info")
    return answer is not None and answer.status == 200 and "command_line_options" in answer.body
