"""`authz capture` where no kernel is asked: what it prints, and what it says when it cannot.

`tests/e2e/test_capture.py` has the kernel's side.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from authz.capture_rules import TABLES, Capture, chain_rules, removal_text, restore_text
from authz.cli import app, capture


def authz(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "authz", "capture", *arguments],
        capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], **env},
    )  # fmt: skip


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_the_rules_are_printed_for_both_families() -> None:
    options = ("--dns", "10.96.0.10", "--dns", "fd00::a", "--exclude-cidr", "10.1.0.0/16")
    done = authz("rules", *options, "--exclude-port", "5432", "--json", CAPTURE_PORT="15001")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["ipv4"].splitlines() == [
        "*filter",
        ":AUTHZ_OUTPUT - [0:0]",
        "-I OUTPUT 1 -j AUTHZ_OUTPUT",
        "-A AUTHZ_OUTPUT -m owner --uid-owner 10001 -j RETURN",
        "-A AUTHZ_OUTPUT -o lo -j RETURN",
        "-A AUTHZ_OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        "-A AUTHZ_OUTPUT -d 127.0.0.1/32 -p tcp -m tcp --dport 15001 -j RETURN",
        "-A AUTHZ_OUTPUT -d 10.96.0.10/32 -p udp -m udp --dport 53 -j RETURN",
        "-A AUTHZ_OUTPUT -d 10.96.0.10/32 -p tcp -m tcp --dport 53 -j RETURN",
        "-A AUTHZ_OUTPUT -d 10.1.0.0/16 -j RETURN",
        "-A AUTHZ_OUTPUT -p tcp -m tcp --dport 5432 -j RETURN",
        "-A AUTHZ_OUTPUT -p tcp -j REJECT --reject-with tcp-reset",
        "-A AUTHZ_OUTPUT -j REJECT --reject-with icmp-port-unreachable",
        "COMMIT",
        "*nat",
        ":AUTHZ_OUTPUT - [0:0]",
        "-I OUTPUT 1 -j AUTHZ_OUTPUT",
        "-A AUTHZ_OUTPUT -m owner --uid-owner 10001 -j RETURN",
        "-A AUTHZ_OUTPUT -o lo -j RETURN",
        "-A AUTHZ_OUTPUT -d 10.96.0.10/32 -p udp -m udp --dport 53 -j RETURN",
        "-A AUTHZ_OUTPUT -d 10.96.0.10/32 -p tcp -m tcp --dport 53 -j RETURN",
        "-A AUTHZ_OUTPUT -d 10.1.0.0/16 -j RETURN",
        "-A AUTHZ_OUTPUT -p tcp -m tcp --dport 5432 -j RETURN",
        "-A AUTHZ_OUTPUT -p tcp -j REDIRECT --to-ports 15001",
        "COMMIT",
    ]
    assert "10.96" not in said["ipv6"]
    assert "-d fd00::a/128 -p udp -m udp --dport 53" in said["ipv6"]
    assert "-d ::1/128 -p tcp -m tcp --dport 15001" in said["ipv6"]
    plain = authz("rules", "--no-dns", "--port", "1")
    assert "--dport 53" not in plain.stdout
    assert plain.stdout.startswith("# ipv4\n*filter\n")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("table", TABLES)
def test_what_is_not_let_through_ends_in_the_sidecar_or_nowhere(family: int, table: str) -> None:
    """The last rule is for everything; no rule lets TCP through by what the agent may choose."""
    rules = chain_rules(Capture(1, 2), table, family)  # type: ignore[arg-type]
    assert rules[-1].rpartition(" -j ")[2].startswith("REDIRECT" if table == "nat" else "REJECT")
    assert all("-p udp" not in rule and "--dport 53" not in rule for rule in rules)


def test_rules_that_are_there_are_not_put_there_twice() -> None:
    capture = Capture(1, 2)
    assert "-I OUTPUT" not in restore_text(capture, 4, has_jump=TABLES)
    text = restore_text(capture, 4, has_jump=["filter"], unwanted=["nat", "nat"])
    assert text.count("-D OUTPUT -j AUTHZ_OUTPUT") == 2
    assert text.index("-D OUTPUT") < text.index("-I OUTPUT 1")
    assert removal_text({}) == ""
    assert removal_text({"nat": 1}).splitlines() == [
        "*nat", "-D OUTPUT -j AUTHZ_OUTPUT", "-F AUTHZ_OUTPUT", "-X AUTHZ_OUTPUT", "COMMIT",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ((), {}, "CAPTURE_PORT: not set"),
        ((), {"CAPTURE_PORT": "x"}, "CAPTURE_PORT: not a whole number"),
        (("--port", "1", "--dns", "resolver"), {}, "--dns: not an IP address"),
        (("--port", "1", "--dns", "1.1.1.1", "--no-dns"), {}, "--no-dns: --dns is given as well"),
        (("--port", "1", "--exclude-cidr", "10.0.0.1/8"), {}, "--exclude-cidr: not a network"),
        (("--port", "1", "--exclude-cidr", "0.0.0.0/0"), {}, "--exclude-cidr: every address"),
        (("--port", "1", "--exclude-cidr", "::/0"), {}, "--exclude-cidr: every address"),
    ],
)
@pytest.mark.parametrize("command", ["rules", "install"])
def test_bad_arguments_are_one_sentence(
    command: str, arguments: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    done = authz(command, *arguments, **env)
    assert done.returncode == 2
    assert done.stderr.startswith(f"authz: {said}")
    assert len(done.stderr.splitlines()) == 1


def test_a_backend_that_there_is_not() -> None:
    done = authz("install", "--port", "1", "--backend", "ebpf")
    assert (done.returncode, done.stderr) == (2, "authz: --backend: must be nft, legacy or auto\n")


def test_without_iptables_it_says_what_to_install(tmp_path: Path) -> None:
    done = authz("install", "--port", "1", "--backend", "nft", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "authz: iptables-nft: not installed; install the package iptables\n"


def test_without_the_capability_it_says_which(tmp_path: Path) -> None:
    for name in ("iptables-nft", "iptables-nft-restore"):
        program(tmp_path, name, "echo 'Could not fetch rule set generation id: Permission denied"
                " (you must be root)' >&2; exit 4")  # fmt: skip
    done = authz("install", "--port", "1", "--backend", "nft", PATH=f"{tmp_path}:/bin")
    assert done.returncode == 1
    assert done.stderr == (
        "authz: iptables-nft: not allowed; run it as root with the capability NET_ADMIN\n"
    )


def test_rules_that_the_kernel_has_otherwise_are_no_success(tmp_path: Path) -> None:
    """Whatever the program says: what counts is what is there afterwards."""
    for family in ("", "6"):
        program(tmp_path, f"ip{family}tables-nft", "echo '-P OUTPUT ACCEPT'")
        program(tmp_path, f"ip{family}tables-nft-restore", "exit 0")
    done = authz("install", "--port", "1", "--backend", "nft", PATH=f"{tmp_path}:/bin")
    assert done.returncode == 1
    assert "the kernel has other rules in filter than were put there" in done.stderr


@pytest.mark.parametrize(
    ("interfaces", "refused"),
    [("lo", False), ("", False), ("lo eth0", True)],
)
def test_ipv6_without_its_tables_is_refused_where_there_is_ipv6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interfaces: str, refused: bool
) -> None:
    table = tmp_path / "if_inet6"
    table.write_text("".join(f"fd77{'0' * 28} 02 40 00 80 {one}\n" for one in interfaces.split()))
    monkeypatch.setattr(capture, "_INTERFACES", table)
    for name in ("iptables-nft", "iptables-nft-restore"):
        program(tmp_path, name, "exit 0")
    # Nothing of ours is there to be taken away.
    done = CliRunner().invoke(
        app, ["capture", "remove", "--backend", "nft"], env={"PATH": str(tmp_path)}
    )
    assert done.exit_code == (1 if refused else 0), done.stderr
    said = "there are IPv6 addresses here, by which the agent would get out"
    assert (said in done.stderr) is refused
