"""The kernel's rules that send an agent's connections to CAPTURE_PORT, for iptables-restore.

- Whoever is not the sidecar has no way out of this network namespace but through it: TCP is
  redirected, and the rest is rejected, except DNS to the resolvers. What stays in the namespace
  (the loopback interface) is left alone.
- Replies to connections that others made to the agent pass; they begin nothing.
- IPv6 needs ICMP to find its neighbours; the kernel sends that itself, and an agent without raw
  sockets cannot.
- In chains of our own, which are filled anew each time, so that a second install is as the first.
  Ours is the first rule of OUTPUT, or another one's could let something through before it.
- `filter` comes before `nat`: until both are there, nothing gets out, rather than everything.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Family = Literal[4, 6]

#: The chain, in each table.
CHAIN: Final = "AUTHZ_OUTPUT"
#: In the order in which they are put in place.
TABLES: Final = ("filter", "nat")
#: In both tables, first of all.
JUMP: Final = f"-A OUTPUT -j {CHAIN}"
#: Where REDIRECT sends a connection that was made on this host (iptables-extensions(8)).
_LOOPBACK: Final[dict[Family, str]] = {4: "127.0.0.1/32", 6: "::1/128"}
_DNS_PORT: Final = 53
#: Router solicitation, neighbour solicitation and advertisement (RFC 4861), and which groups this
#: host listens to (RFC 3810), without which switches do not pass those on.
_NEIGHBOURS: Final = (133, 135, 136, 143)


@dataclass(frozen=True, slots=True)
class Capture:
    """What is captured."""

    port: int
    #: Whose connections are not: the sidecar's, which would come back to itself for ever.
    uid: int
    #: Who may be asked for names.
    resolvers: tuple[Address, ...] = ()
    #: Where the agent may go ungoverned.
    excluded_networks: tuple[Network, ...] = ()
    excluded_ports: tuple[int, ...] = ()


def chain_rules(capture: Capture, table: str, family: Family) -> list[str]:
    """The rules of our chain in a table, as `iptables -S` would say them."""
    return [f"-A {CHAIN} {rule}" for rule in _rules(capture, table, family)]


def restore_text(
    capture: Capture, family: Family, has_jump: Sequence[str] = (), unwanted: Sequence[str] = ()
) -> str:
    """What iptables-restore --noflush (ip6tables-restore) makes the rules of.

    Args:
        has_jump: tables whose OUTPUT begins with the jump to our chain already.
        unwanted: tables where it stands elsewhere, once for each place.
    """
    lines = []
    for table in TABLES:
        # Declared, a chain is made or emptied; each table is put in place as a whole.
        lines += [f"*{table}", f":{CHAIN} - [0:0]"]
        lines += [f"-D OUTPUT -j {CHAIN}" for other in unwanted if other == table]
        if table not in has_jump:
            lines.append(f"-I OUTPUT 1 -j {CHAIN}")
        lines += [*chain_rules(capture, table, family), "COMMIT"]
    return "\n".join(lines) + "\n"


def removal_text(jumps: dict[str, int]) -> str:
    """What iptables-restore --noflush takes them away with.

    Args:
        jumps: tables that have our chain, and how often OUTPUT jumps there.
    """
    lines = []
    # The other way round: while one of them is there, nothing gets out.
    for table in reversed(TABLES):
        if table in jumps:
            gone = [f"-D OUTPUT -j {CHAIN}"] * jumps[table]
            lines += [f"*{table}", *gone, f"-F {CHAIN}", f"-X {CHAIN}", "COMMIT"]
    return "\n".join(lines) + "\n" if lines else ""


def _rules(capture: Capture, table: str, family: Family) -> Iterator[str]:
    yield f"-m owner --uid-owner {capture.uid} -j RETURN"
    yield "-o lo -j RETURN"
    if table == "filter":
        yield "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
        # Redirected already. The rule before sees the interface that it was on its way to.
        yield f"-d {_LOOPBACK[family]} -p tcp -m tcp --dport {capture.port} -j RETURN"
        if family == 6:
            for kind in _NEIGHBOURS:
                yield f"-p ipv6-icmp -m icmp6 --icmpv6-type {kind} -j RETURN"
    for resolver in capture.resolvers:
        if resolver.version == family:
            to = f"-d {ipaddress.ip_network(resolver)}"
            yield f"{to} -p udp -m udp --dport {_DNS_PORT} -j RETURN"
            yield f"{to} -p tcp -m tcp --dport {_DNS_PORT} -j RETURN"
    for network in capture.excluded_networks:
        if network.version == family:
            yield f"-d {network} -j RETURN"
    for port in capture.excluded_ports:
        yield f"-p tcp -m tcp --dport {port} -j RETURN"
    if table == "nat":
        yield f"-p tcp -j REDIRECT --to-ports {capture.port}"
    else:
        yield "-p tcp -j REJECT --reject-with tcp-reset"
        unreachable = "icmp-port-unreachable" if family == 4 else "icmp6-port-unreachable"
        yield f"-j REJECT --reject-with {unreachable}"
