"""What the checks look at, as plain values: they are gathered once, and every check is a function.

- `Facts` is what a sidecar says over HTTP, wherever it is. `Inside` is what its own machine or
  container says besides: None where the sidecar was asked from elsewhere.
- No secret leaves this module but as `Secret`, whose repr is starred.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from authz.cgroups import Memory
from authz.core.mode import Mode


class Answer(NamedTuple):
    """An HTTP answer; a body that is no JSON object is empty."""

    status: int
    body: Mapping[str, Any]


class FileFacts(NamedTuple):
    """Whose a file is, and who may do what with it."""

    path: Path
    #: Permission bits.
    mode: int
    uid: int
    gid: int

    @property
    def name(self) -> str:
        """For sentences."""
        return f"{self.path} (owner {self.uid}:{self.gid}, mode {self.mode:04o})"


class Volume(NamedTuple):
    """The file system that a path is on, as it is mounted here."""

    mount_point: str
    #: `ext4`, `overlay`, `tmpfs`.
    kind: str
    #: Which part of the file system is mounted: Kubernetes' volumes are known by it.
    root: str
    read_only: bool
    #: Bytes, and the share of them and of its files that is free, 0 to 1.
    free: int
    free_share: float
    free_files_share: float


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in the environment or the file of development secrets."""

    name: str
    value: str = field(repr=False)


class Policies(NamedTuple):
    """POLICIES_DIR, or the directory that POLICY_BUNDLE is in."""

    path: Path
    #: None where it is not there.
    volume: Volume | None
    #: The directory and what is in it, up to a bound.
    files: tuple[FileFacts, ...]
    #: This user could change something in it, were it mounted to be written.
    ours_to_write: bool


class WouldDeny(NamedTuple):
    """What audit mode would have blocked."""

    denials: int
    #: The time of the first of them; empty where there is none.
    since: str
    #: The trail is longer than what was looked at.
    more: bool


class Audit(NamedTuple):
    """AUDIT_DB_PATH."""

    path: Path
    volume: Volume | None
    #: None where there is no such file.
    file: FileFacts | None
    wal_bytes: int
    #: Seconds since the end of the trail was signed; None where it never was.
    signed_ago_s: float | None
    would_deny: WouldDeny | None
    retention_days: int
    on_failure: str


@dataclass(frozen=True, slots=True)
class Inside:
    """What only the sidecar's own machine or container tells."""

    uid: int
    gid: int
    #: In Kubernetes; in a container of any kind.
    in_pod: bool
    in_container: bool
    #: Of the environment; a sidecar may have been told another one since.
    mode: Mode
    has_mode_file: bool
    #: JWT_SECRET and ADMIN_TOKEN as far as they are given; public keys may stand in for the first.
    secrets: tuple[Secret, ...]
    has_jwks: bool
    #: The file of development secrets, where there is one, and whether the sidecar takes them.
    dev_secrets: Path | None
    dev_secrets_used: bool
    #: The status with which it answered our ADMIN_TOKEN; 0 where there is none to ask with.
    admin_status: int
    #: Files with something secret in them.
    private_files: tuple[FileFacts, ...]
    policies: Policies
    audit: Audit
    memory: Memory
    #: Processors' worth of time; infinite without a limit.
    cpus: float
    #: Why the collector takes no traces, empty where it does; None where none are exported.
    traces: str | None
    port: int
    #: Where somebody listens on PORT.
    listening_on: tuple[str, ...]
    run_dir: FileFacts | None
    sockets: tuple[FileFacts, ...]
    #: TCP ports on which an Envoy's admin endpoint answers.
    admin_ports: tuple[int, ...]
    #: REQUIRE_SIGNED_POLICIES.
    require_signed: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything."""

    #: Its URL or socket, as people call it.
    name: str
    #: Asked by name over the network, in cleartext.
    is_cleartext_elsewhere: bool
    #: Through PORT or the gateway, None where nobody answers there.
    health: Answer | None
    ready: Answer | None
    metrics: Answer | None
    #: The service itself, by its socket.
    service: Answer | None
    inside: Inside | None

    @property
    def said(self) -> Mapping[str, Any]:
        """What `/health` says, by whichever way it answers."""
        for answer in (self.health, self.service):
            if answer is not None and isinstance(answer.body.get("mode"), str):
                return answer.body
        return {}

    @property
    def checks(self) -> Mapping[str, str]:
        """The parts that `/health` tells of, by name."""
        found = self.said.get("checks")
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
