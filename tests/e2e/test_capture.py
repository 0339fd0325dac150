"""Captured connections, in network namespaces: what an agent tries, and how far it gets."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e import namespaces
from tests.e2e.namespaces import EVIL, EVIL6, GOOD, GOOD6, METADATA, Pod
from tests.e2e.sidecar import JWT_SECRET, children, wait_until

PORT: Final = 15_001
POLICY: Final = """
name: outward
version: "1.0"
appliesTo: {agentIds: [pod-agent], trustTiers: [verified], tags: [researcher]}
rules:
  - effect: allow
    actions:
      - connect:good.test:443
      - connect:good.test:9001
      - connect:good.test:80
      - read:good.test/*
      - connect:10.77.0.2:9000
      - connect:10.77.0.2:443
      - connect:[fd77::2]:9000
      - connect:metadata.test:443
      - connect:169.254.169.254:443
      - connect:home.test:*
      - connect:two.test:8081
      - read:two.test:8081/*
defaultEffect: deny
"""


@dataclass
class Captured:
    """A pod with a sidecar, whose agent is captured."""

    pod: Pod
    process: subprocess.Popen[str]

    def tries(self, *arguments: str) -> dict[str, Any]:
        return self.pod.agent(*arguments)

    def rows(self) -> list[dict[str, Any]]:
        database = self.pod.directory / "audit.db"
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            rows = [dict(row) for row in db.execute("SELECT * FROM audit ORDER BY seq")]
        return [row for row in rows if row["source"] != "control"]

    @contextlib.contextmanager
    def one_row(self, action: str, decision: str) -> Iterator[None]:
        """The block is one decision on record, and this one."""
        before = len(self.rows())
        yield
        wait_until(lambda: len(self.rows()) > before, "the row")
        [row] = self.rows()[before:]
        assert (row["source"], row["action"], row["decision"]) == ("capture", action, decision), row
        assert row["agent_id"] == "pod-agent"

    @contextlib.contextmanager
    def arrives(self, *where: tuple[str, str]) -> Iterator[None]:
        """By the block this arrives in the world, as kind and address, and nothing else."""
        before = len(self.pod.arrived())
        yield
        assert [(a["kind"], a["address"]) for a in self.pod.arrived()[before:]] == list(where)


@contextlib.contextmanager
def _capturing(**env: str) -> Iterator[Captured]:
    with namespaces.pod() as pod:
        (pod.directory / "policies").mkdir()
        (pod.directory / "policies/outward.yaml").write_text(POLICY)
        full = {
            "PATH": os.environ["PATH"], "HOME": str(pod.directory), "HOST": "127.0.0.1",
            "PORT": "3100", "PROXY_TARGET": "http://127.0.0.1:9", "JWT_SECRET": JWT_SECRET,
            "POLICIES_DIR": str(pod.directory / "policies"),
            "AUDIT_DB_PATH": str(pod.directory / "audit.db"),
            "AUTHZ_RUN_DIR": str(pod.directory / "run"), "DECISION_TIMEOUT_MS": "10000",
            "CAPTURE_PORT": str(PORT), "SIDECAR_AGENT_ID": "pod-agent",
            "SIDECAR_AGENT_TIER": "verified", "SIDECAR_AGENT_TAGS": "researcher", **env,
        }  # fmt: skip
        installed = pod.run(
            sys.executable, "-m", "authz", "capture", "install", "--uid", "0",
            CAPTURE_PORT=str(PORT), PYTHONPATH=str(Path(__file__).parents[2]),
        )  # fmt: skip
        assert installed.returncode == 0, installed.stderr
        with namespaces.sidecar(pod, full) as process:
            try:
                yield Captured(pod, process)
            except BaseException:
                sys.stderr.write((pod.directory / "stderr").read_text()[-6000:])
                raise


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    """Nothing here can be tried without; where REQUIRE_TOOLS is set (CI), that is a failure."""
    problem = namespaces.usable()
    if problem and os.environ.get("REQUIRE_TOOLS"):
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)


@pytest.fixture(scope="module")
def captured() -> Iterator[Captured]:
    with _capturing() as found:
        yield found


def test_tls_goes_where_the_name_in_it_may(captured: Captured) -> None:
    with captured.one_row("connect:good.test:443", "allow"), captured.arrives(("tls", GOOD)):
        got = captured.tries("tls", GOOD, "443", "good.test")
    assert got == {"got": f"{GOOD} says hello, it is me, good.test"}


def test_tls_to_another_name_is_closed_and_on_record(captured: Captured) -> None:
    with captured.one_row("connect:evil.test:443", "deny"), captured.arrives():
        assert "error" in captured.tries("tls", EVIL, "443", "evil.test")


def test_an_allowed_name_gets_nobody_to_another_address(captured: Captured) -> None:
    """It names one host and dials another: it gets to the one that it names."""
    with captured.one_row("connect:good.test:443", "allow"), captured.arrives(("tls", GOOD)):
        got = captured.tries("tls", EVIL, "443", "good.test")
    assert got["got"].startswith(f"{GOOD} says hello")


def test_the_port_that_was_dialled_is_judged(captured: Captured) -> None:
    with captured.one_row("connect:good.test:9000", "deny"), captured.arrives():
        assert "error" in captured.tries("tls", GOOD, "9000", "good.test")


def test_tls_that_names_nobody_is_judged_by_its_address(captured: Captured) -> None:
    with captured.one_row(f"connect:{GOOD}:443", "allow"), captured.arrives(("tls", GOOD)):
        assert captured.tries("tls", GOOD, "443")["got"].startswith(f"{GOOD} says hello")
    with captured.one_row(f"connect:{EVIL}:443", "deny"), captured.arrives():
        assert "error" in captured.tries("tls", EVIL, "443")


@pytest.mark.parametrize(
    "name",
    [
        "good.test:443@evil.test", "good.test:443", "good.test\\r\\nX: y", "good test",
        "good.test/",
        "10.77.0.3", "2130706433", "0x7f.1", "a" * 255, "[fd77::3]", "good.test\\tevil.test", "%",
        "g%6fod.test",
    ],
)  # fmt: skip
def test_a_name_that_is_none_opens_nothing(captured: Captured, name: str) -> None:
    before = len(captured.rows())
    with captured.arrives():
        captured.tries("hello", EVIL, "443", name)
    rows = captured.rows()[before:]
    assert [row["decision"] for row in rows] in ([], ["deny"]), rows


def test_plain_http_is_judged_by_its_host_and_method(captured: Captured) -> None:
    with captured.one_row("read:good.test/a", "allow"), captured.arrives(("http", GOOD)):
        assert (
            f"{GOOD} says hello"
            in captured.tries("http", GOOD, "80", "good.test", "GET", "/a")["got"]
        )
    with captured.one_row("delete:good.test/a", "deny"), captured.arrives():
        got = captured.tries("http", GOOD, "80", "good.test", "DELETE", "/a")["got"]
        assert got.startswith("HTTP/1.1 403")
        assert "default_denied" in got
    with captured.one_row("read:evil.test/", "deny"), captured.arrives():
        captured.tries("http", GOOD, "80", "evil.test")


def test_a_host_header_gets_nobody_to_another_address(captured: Captured) -> None:
    with captured.one_row("read:good.test/", "allow"), captured.arrives(("http", GOOD)):
        assert f"{GOOD} says" in captured.tries("http", EVIL, "80", "good.test")["got"]


def test_what_says_nothing_first_is_judged_by_its_address(captured: Captured) -> None:
    """Such as SMTP and MySQL, where the server speaks first."""
    with captured.one_row(f"connect:{GOOD}:9000", "allow"), captured.arrives(("tcp", GOOD)):
        assert captured.tries("tcp", GOOD, "9000") == {"got": f"{GOOD} says hello first"}
    with captured.one_row(f"connect:{EVIL}:9000", "deny"), captured.arrives():
        assert captured.tries("tcp", EVIL, "9000").get("got", "") == ""


def test_ipv6_is_captured_too(captured: Captured) -> None:
    with captured.one_row(f"connect:[{GOOD6}]:9000", "allow"), captured.arrives(("tcp", GOOD6)):
        assert captured.tries("tcp", GOOD6, "9000") == {"got": f"{GOOD6} says hello first"}
    with captured.one_row(f"connect:[{EVIL6}]:9000", "deny"), captured.arrives():
        assert captured.tries("tcp", EVIL6, "9000").get("got", "") == ""
    with captured.one_row("connect:evil.test:443", "deny"), captured.arrives():
        assert "error" in captured.tries("tls", EVIL6, "443", "evil.test")


def test_a_proxy_elsewhere_is_no_way_round(captured: Captured) -> None:
    """CONNECT to a proxy that the agent knows of: judged by what it asks that one for."""
    with captured.one_row("connect:evil.test:443", "deny"), captured.arrives():
        text = "CONNECT evil.test:443 HTTP/1.1\\r\\nHost: evil.test:443\\r\\n\\r\\n"
        assert captured.tries("say", EVIL, "80", text)["got"].startswith("HTTP/1.1 403")


@pytest.mark.parametrize("address", [GOOD, EVIL, GOOD6, EVIL6])
def test_what_is_not_tcp_does_not_get_out(captured: Captured, address: str) -> None:
    with captured.arrives():
        assert "error" in captured.tries("udp", address, "9000")


def test_names_can_be_resolved_and_nobody_else_asked(captured: Captured) -> None:
    assert GOOD in captured.tries("resolve", "good.test")["got"]
    assert "error" in captured.tries("udp", EVIL, "53")


@pytest.mark.parametrize(
    ("what", "action"),
    [
        (("tls", EVIL, "443", "metadata.test"), "connect:metadata.test:443"),
        (("tls", METADATA, "443"), f"connect:{METADATA}:443"),
        (("http", GOOD, "8081", "two.test:8081"), "read:two.test:8081/"),
        (("tls", GOOD, "8081", "two.test"), "connect:two.test:8081"),
        (("tls", GOOD, "3100", "home.test"), "connect:home.test:3100"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_nobody_gets_to_the_link_or_to_the_sidecars_own_loopback(
    captured: Captured, what: tuple[str, ...], action: str
) -> None:
    """Allowed by policy, and refused by FORWARD_DENY_CIDRS; `two.test` has an address of each."""
    with captured.one_row(action, "allow"), captured.arrives():
        got = captured.tries(*what).get("got", "HTTP/1.1 403")
    assert "says hello" not in got


def test_the_sidecars_own_connections_are_not_captured(captured: Captured) -> None:
    before = len(captured.rows())
    script = str(captured.pod.directory / "agent_tries.py")
    done = captured.pod.run(sys.executable, script, "tcp", EVIL, "9000")
    assert f"{EVIL} says hello first" in done.stdout
    assert len(captured.rows()) == before


def test_installing_again_changes_nothing_and_removing_takes_all_away(captured: Captured) -> None:
    def rules() -> list[str]:
        return [
            captured.pod.run(f"{program}-nft", "-t", table, "-S").stdout
            for program in ("iptables", "ip6tables")
            for table in ("filter", "nat")
        ]

    def capture(*arguments: str) -> int:
        done = captured.pod.run(
            sys.executable, "-m", "authz", "capture", *arguments,
            CAPTURE_PORT=str(PORT), PYTHONPATH=str(Path(__file__).parents[2]),
        )  # fmt: skip
        return done.returncode

    before = rules()
    assert all("AUTHZ_OUTPUT" in text for text in before)
    # Another's rule before ours would let it out: ours is put first again.
    captured.pod.run("iptables-nft", "-t", "nat", "-I", "OUTPUT", "1", "-p", "tcp", "-j", "ACCEPT")
    assert capture("install", "--uid", "0") == 0
    captured.pod.run("iptables-nft", "-t", "nat", "-D", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    assert rules() == before
    assert capture("remove") == 0
    assert not any("AUTHZ_OUTPUT" in text for text in rules())
    assert capture("remove") == 0
    assert capture("install", "--uid", "0") == 0
    assert rules() == before


def test_tunnels_that_nobody_reads_hold_little_memory(captured: Captured) -> None:
    """An allowed host that sends without end, and an agent that reads nothing."""
    tunnels, most_kib = 10, 64 * 1024
    envoy = next(pid for pid, argv in children(captured.process.pid) if "--config-path" in argv)

    def peak_kib() -> int:
        [line] = [line for line in _status(envoy) if line.startswith("VmHWM:")]
        return int(line.split()[1])

    def stalled() -> int:
        return sum(one["kind"] == "flood" for one in captured.pod.arrived())

    before = peak_kib()
    with captured.pod.agent_at("unread", GOOD, "9001", "good.test", str(tunnels)):
        wait_until(lambda: stalled() == tunnels, "all of them to be full")
    assert peak_kib() - before < most_kib


def _status(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()


def test_the_agent_cannot_take_the_rules_away(captured: Captured) -> None:
    done = captured.pod.run("iptables-nft", "-t", "nat", "-F", as_agent=True)
    assert done.returncode != 0
    assert "error" in captured.tries("udp", EVIL, "9000")


@pytest.mark.parametrize("mode", ["enforce", "audit", "bypass"])
def test_without_the_service_only_enforce_holds_on(mode: str) -> None:
    with _capturing(MODE=mode) as captured:
        if mode == "audit":
            with captured.one_row("connect:evil.test:443", "deny"):
                got = captured.tries("tls", EVIL, "443", "evil.test")["got"]
            assert got.startswith(f"{EVIL} says hello")
        # It stays away: the supervisor cannot start it again.
        os.kill(captured.process.pid, signal.SIGSTOP)
        try:
            service = next(pid for pid, argv in children(captured.process.pid) if "serve" in argv)
            os.kill(service, signal.SIGKILL)
            with captured.arrives(*([] if mode == "enforce" else [("tls", EVIL)])):
                got = captured.tries("tls", EVIL, "443", "evil.test")
            assert ("got" in got) == (mode != "enforce")
        finally:
            os.kill(captured.process.pid, signal.SIGCONT)
