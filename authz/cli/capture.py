"""`authz capture`: the kernel's rules that send the agent's connections to CAPTURE_PORT.

- All or nothing a table, looked at when they are there, and closed where anything is in doubt: an
  init container that fails keeps its pod from starting.
"""

import ipaddress
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from authz.cli.options import AsJson, LocalCommand
from authz.cli.shared import BAD_ARGUMENTS, FAILED, fail, note

if TYPE_CHECKING:
    from authz.capture_rules import Capture, Family

app = typer.Typer(
    help="The kernel's rules that send the agent's connections to CAPTURE_PORT.",
    no_args_is_help=True,
)

#: The user of the image.
SIDECAR_UID: Final = 10_001
#: Seconds that a table may be somebody else's, and that one command may take.
_LOCK_S: Final = 5
_PATIENCE_S: Final = 30
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_INTERFACES: Final = Path("/proc/net/if_inet6")

Port = Annotated[
    int | None, typer.Option(min=1, max=65_535, help="Where to; CAPTURE_PORT when left out.")
]
Uid = Annotated[
    int, typer.Option(min=0, max=2**32 - 2, help="The sidecar's user, who is not captured.")
]
Dns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDRESS", help="A resolver that may be asked; /etc/resolv.conf's when left out."
    ),
]
NoDns = Annotated[bool, typer.Option("--no-dns", help="Nobody but the sidecar resolves names.")]
ExcludeCidr = Annotated[
    list[str] | None,
    typer.Option(metavar="CIDR", help="A network that the agent reaches ungoverned."),
]
ExcludePort = Annotated[
    list[int] | None,
    typer.Option(min=1, max=65_535, help="A TCP port that the agent reaches ungoverned."),
]
Backend = Annotated[
    str, typer.Option(metavar="nft|legacy|auto", help="Which iptables; auto takes one that works.")
]


@app.callback()
def group() -> None:
    """The kernel's rules that send the agent's connections to CAPTURE_PORT."""


@app.command(cls=LocalCommand)
def rules(
    port: Port = None,
    uid: Uid = SIDECAR_UID,
    dns: Dns = None,
    no_dns: NoDns = False,
    exclude_cidr: ExcludeCidr = None,
    exclude_port: ExcludePort = None,
    as_json: AsJson = False,
) -> None:
    """Print them, for iptables-restore --noflush and ip6tables-restore --noflush."""
    import json

    from authz.capture_rules import restore_text

    capture = _capture(port, uid, dns, no_dns, exclude_cidr, exclude_port)
    texts = {"ipv4": restore_text(capture, 4), "ipv6": restore_text(capture, 6)}
    if as_json:
        typer.echo(json.dumps(texts, indent=2))
        return
    for name, text in texts.items():
        typer.echo(f"# {name}\n{text}", nl=False)


@app.command(cls=LocalCommand)
def install(
    port: Port = None,
    uid: Uid = SIDECAR_UID,
    dns: Dns = None,
    no_dns: NoDns = False,
    exclude_cidr: ExcludeCidr = None,
    exclude_port: ExcludePort = None,
    backend: Backend = "auto",
) -> None:
    """Put them in place in this network namespace, and see that they are; again changes nothing.

    Needs root and NET_ADMIN (with --backend legacy NET_RAW, too), and is to be done before the
    agent starts: what it has connected before goes on.
    """
    from authz.capture_rules import restore_text

    capture = _capture(port, uid, dns, no_dns, exclude_cidr, exclude_port)
    done = []
    for tables in _families(backend):
        tables.restore(restore_text(capture, tables.family, *tables.jumps()))
        tables.verify(capture)
        done.append(f"IPv{tables.family} ({tables.backend})")
    note(f"captured: all but user {capture.uid} goes to port {capture.port}, {' and '.join(done)}")


@app.command(cls=LocalCommand)
def remove(backend: Backend = "auto") -> None:
    """Take them away; what else is there stays."""
    from authz.capture_rules import removal_text

    for tables in _families(backend):
        text = removal_text(tables.chains())
        if text:
            tables.restore(text)
        if tables.chains():
            fail([f"iptables: the rules of IPv{tables.family} are still there"], FAILED)


def _capture(
    port: int | None,
    uid: int,
    dns: list[str] | None,
    no_dns: bool,
    exclude_cidr: list[str] | None,
    exclude_port: list[int] | None,
) -> "Capture":
    from authz.capture_rules import Capture
    from authz.settings import SettingsError, settings_of

    problems = []
    if port is None:
        # Only the number is of interest; whose connections they are is the sidecar's to know.
        try:
            port = settings_of({**os.environ, "SIDECAR_AGENT_ID": "-"}, "CAPTURE_PORT",
                               "SIDECAR_AGENT_ID").capture_port  # fmt: skip
        except SettingsError as error:
            problems += error.problems
        else:
            if port is None:
                problems.append("CAPTURE_PORT: not set; set it as for the sidecar, or give --port")
    if no_dns and dns:
        problems.append("--no-dns: --dns is given as well; leave one of them out")
    try:
        resolvers = () if no_dns else tuple(map(ipaddress.ip_address, dns or _resolvers()))
    except ValueError:
        resolvers = ()
        problems.append("--dns: not an IP address; write 10.96.0.10")
    try:
        networks = tuple(map(ipaddress.ip_network, exclude_cidr or ()))
    except ValueError:
        networks = ()
        problems.append("--exclude-cidr: not a network; write 10.1.0.0/16, without host bits")
    if any(network.prefixlen == 0 for network in networks):
        problems.append("--exclude-cidr: every address there is would be reached ungoverned")
    if problems:
        fail(problems, BAD_ARGUMENTS)
    assert port is not None
    return Capture(port, uid, resolvers, networks, tuple(exclude_port or ()))


def _resolvers() -> list[str]:
    """Who is asked for names here. An address with a zone is on a link, and left out."""
    try:
        text = _RESOLV_CONF.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.findall(r"^\s*nameserver\s+([0-9A-Fa-f.:]+)\s*$", text, re.MULTILINE)
    # Over the loopback interface nothing is captured anyway.
    return [one for one in dict.fromkeys(found) if not _is_loopback(one)]


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True


class _Tables:
    """The tables of one family, by one of the programs that there are for it."""

    def __init__(self, family: "Family", backend: str) -> None:
        self.family: Family = family
        self.backend = backend
        self._program = f"ip{'6' if family == 6 else ''}tables-{backend}"

    def problem(self) -> str:
        """Why they cannot be used, a sentence; empty where they can."""
        if shutil.which(self._program) is None or shutil.which(f"{self._program}-restore") is None:
            return f"{self._program}: not installed; install the package iptables"
        for table in ("filter", "nat"):
            done = self._run(self._program, "-w", str(_LOCK_S), "-t", table, "-S", "OUTPUT")
            if done.returncode:
                return self._sentence(done.stderr)
        return ""

    def jumps(self) -> tuple[list[str], list[str]]:
        """Tables whose OUTPUT begins with our jump, and where else one stands."""
        from authz.capture_rules import JUMP, TABLES

        first, others = [], []
        for table in TABLES:
            found = [line for line in self._said(table, "OUTPUT") if line.startswith("-A ")]
            places = [place for place, line in enumerate(found) if line == JUMP]
            if places == [0]:
                first.append(table)
            else:
                others += [table] * len(places)
        return first, others

    def chains(self) -> dict[str, int]:
        """Tables that have our chain, and how often OUTPUT jumps there."""
        from authz.capture_rules import CHAIN, JUMP, TABLES

        found = {}
        for table in TABLES:
            said = self._said(table)
            if f"-N {CHAIN}" in said:
                found[table] = said.count(JUMP)
        return found

    def restore(self, text: str) -> None:
        """Put rules in place, each table as a whole; exits where that cannot be."""
        program = f"{self._program}-restore"
        done = self._run(program, "-w", str(_LOCK_S), "--noflush", given=text)
        if done.returncode:
            fail([self._sentence(done.stderr)], FAILED)

    def verify(self, capture: "Capture") -> None:
        """Exit unless the kernel says that it has these rules, in this order, and ours first."""
        from authz.capture_rules import CHAIN, JUMP, TABLES, chain_rules

        for table in TABLES:
            output = [line for line in self._said(table, "OUTPUT") if line.startswith("-A ")]
            there = [line for line in self._said(table, CHAIN) if line.startswith("-A ")]
            if output[:1] != [JUMP] or there != chain_rules(capture, table, self.family):
                said = f"the kernel has other rules in {table} than were put there; nothing is sure"
                fail([f"{self._program}: {said}"], FAILED)

    def _said(self, table: str, *chain: str) -> list[str]:
        done = self._run(self._program, "-w", str(_LOCK_S), "-t", table, "-S", *chain)
        if done.returncode:
            fail([self._sentence(done.stderr)], FAILED)
        return done.stdout.splitlines()

    def _run(self, *command: str, given: str = "") -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                command, input=given, capture_output=True, text=True, timeout=_PATIENCE_S,
                check=False,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", **_lock_file()},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return subprocess.CompletedProcess(command, 1, "", str(error))

    def _sentence(self, said: str) -> str:
        lowered = said.lower()
        if "permission denied" in lowered or "operation not permitted" in lowered:
            needs = "NET_ADMIN and NET_RAW" if self.backend == "legacy" else "NET_ADMIN"
            return f"{self._program}: not allowed; run it as root with the capability {needs}"
        last = " ".join(said.split())[-300:] or "it failed and does not say why"
        return f"{self._program}: {last}"


def _lock_file() -> dict[str, str]:
    """Where iptables-legacy keeps its lock: a container's /run may be read-only."""
    if "XTABLES_LOCKFILE" in os.environ:
        return {"XTABLES_LOCKFILE": os.environ["XTABLES_LOCKFILE"]}
    if os.access("/run", os.W_OK) or not os.access("/dev/shm", os.W_OK):  # noqa: S108
        return {}
    return {"XTABLES_LOCKFILE": "/dev/shm/xtables.lock"}  # noqa: S108


def _families(backend: str) -> list[_Tables]:
    """IPv4's tables, and IPv6's where there is any IPv6; exits where one cannot be used."""
    if backend not in ("auto", "nft", "legacy"):
        fail(["--backend: must be nft, legacy or auto"], BAD_ARGUMENTS)
    found = []
    families: tuple[Any, ...] = (4, 6)
    for family in families:
        usable, problems = None, []
        for name in ("nft", "legacy") if backend == "auto" else (backend,):
            tables = _Tables(family, name)
            problem = tables.problem()
            if not problem:
                usable = tables
                break
            problems.append(problem)
        if usable is not None:
            found.append(usable)
        elif family == 4 or _has_ipv6():
            if family == 6:
                problems[-1] += "; there are IPv6 addresses here, by which the agent would get out"
            fail(problems[:1] if len(set(problems)) == 1 else problems, FAILED)
    return found


def _has_ipv6() -> bool:
    """Whether an interface besides loopback has an IPv6 address."""
    try:
        lines = _INTERFACES.read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[-1] != "lo" for line in lines if line.strip())
