"""`authz audit` asking a trail: tail, query, trace, stats and export, here and of a gateway.

Each is asked of the database and of the service that writes it, and answers alike.
"""

import contextlib
import csv
import importlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from typer.testing import CliRunner

from authz.cli import app
from authz.cli.audit.filters import OPTIONS
from authz.core.identity import mint
from authz.stores.audit_query import FILTERS
from tests.e2e.sidecar import free_port
from tests.serving import PATIENCE_S, ROOT, SECRET, TOKEN, Service, child, serving, wait_until

POLICY: Final = """\
name: everyone
version: "1"
appliesTo: {agentIds: ["*"]}
rules:
  - {id: never, effect: deny, actions: ["delete:*"], reason: nothing is deleted here}
  - {id: reading, effect: allow, actions: ["read:*"]}
defaultEffect: deny
"""
#: It has no types.
PARQUET: Final[Any] = importlib.import_module("pyarrow.parquet")
#: Decisions that the trail has at first.
READS: Final = 1030


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(everyone=POLICY) as running:
        assert running.check("ann", "read:a", trace_id="trace-1") == 200
        assert running.check("bob", "delete:b", trace_id="trace-1") == 403
        assert running.check("bob", "write:\u0441".encode("unicode_escape").decode()) == 403
        batch(running, READS)
        yield running


def batch(service: Service, count: int) -> None:
    """Record decisions, many at a time."""
    token = mint(SECRET, agent_id="ann", now=time.time(), ttl_s=300)
    while count > 0:
        actions = [{"action": f"read:{number}"} for number in range(min(count, 100))]
        answer = service.ask(
            "POST", "/api/v1/governance/batch", json={"actions": actions},
            headers={"Authorization": f"Bearer {token}"},
        )  # fmt: skip
        assert answer.status_code == 200
        count -= 100


@pytest.fixture(params=["here", "gateway"])
def where(
    request: pytest.FixtureRequest, service: Service, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The options that name the trail."""
    return place(service, request.param, monkeypatch)


def place(service: Service, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("HOME", str(service.directory))
    monkeypatch.setenv("MESHGUARD_ADMIN_TOKEN", TOKEN)
    for variable in ("MESHGUARD_GATEWAY_URL", "MESHGUARD_URL", "MESHGUARD_OUTPUT_FORMAT"):
        monkeypatch.delenv(variable, raising=False)
    if name == "here":
        return ["--database", str(service.database)]
    return ["--gateway", service.url]


def authz(*arguments: object) -> Done:
    done = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "command",
    [
        ("tail",),
        ("tail", "-n", "3", "--json"),
        ("tail", "-n", "0"),
        ("tail", "--source", "control"),
        ("query", "--limit", "1020", "--json"),
        ("query", "--limit", "1020", "--json", "--order", "asc"),
        ("query", "--agent", "bob"),
        ("query", "--action", "DELETE:*", "--decision", "deny", "--json"),
        ("query", "--rule", "never", "--from", "1h", "--to", "2100-01-01"),
        ("query", "--reason", "Nothing is"),
        ("query", "--agent", "'; DROP TABLE audit; --"),
        ("query", "--agent", "nobody", "--json"),
        ("query", "--trust", "basic"),
        ("trace", "trace-1"),
        ("trace", "trace-1", "--json"),
        ("trace", "trace/../1"),
        ("stats", "--from", "2020-01-01", "--json"),
        ("stats", "--from", "2020-01-01", "--to", "2020-01-02"),
        ("stats", "--from", "2020-01-01", "--agent", "bob"),
        ("query", "--from", "yesterday"),
        ("query", "--from", "999999999d"),
        ("query", "--from", "2h", "--to", "3h"),
        ("query", "--decision", "perhaps"),
        ("query", "--trust", "saint"),
        ("query", "--agent", "x" * 3000),
        ("stats", "--period", "soon"),
        ("stats", "--period", "2d", "--from", "2020-01-01"),
        ("tail", "-n", "-1"),
        ("query", "--limit", "99999999999999999999"),
        ("query", "--order", "random"),
        ("export", "--format", "csv"),
        ("export", "--format", "json", "--agent", "bob"),
        ("export", "--format", "xml"),
        ("export", "--decision", "perhaps"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_both_answer_alike(
    command: tuple[str, ...], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = authz(*command, *place(service, "here", monkeypatch))
    assert authz(*command, *place(service, "gateway", monkeypatch)) == here
    assert here.code in (0, 1, 2)
    assert (here.code == 0) is not bool(here.err)
    assert "Traceback" not in here.err


def test_what_is_shown(where: list[str]) -> None:
    done = authz("query", "--agent", "bob", *where)
    assert done.code == 0
    heading, *rows = done.out.splitlines()
    assert heading.split() == ["TIME", "AGENT", "DECISION", "ACTION", "POLICY", "RULE"]
    assert [row.split()[1:] for row in rows] == [
        ["bob", "deny", "write:\\u0441", "everyone", "default-deny"],
        ["bob", "deny", "delete:b", "everyone", "never"],
    ]


def test_more_than_a_page_is_gone_on_with(where: list[str]) -> None:
    found = authz("query", "--limit", "1025", "--json", *where).entries
    assert len(found) == 1025
    numbers = [entry["seq"] for entry in found]
    assert numbers == list(range(numbers[0], numbers[0] - 1025, -1))


def test_the_tail_is_the_newest_oldest_first(where: list[str]) -> None:
    newest = authz("query", "--limit", "5", "--json", *where).entries
    assert authz("tail", "-n", "5", "--json", *where).entries == newest[::-1]


def test_a_trace_is_shown_from_its_beginning(where: list[str]) -> None:
    found = authz("trace", "trace-1", "--json", *where).entries
    assert [(entry["action"], entry["decision"]) for entry in found] == [
        ("read:a", "allow"), ("delete:b", "deny"),
    ]  # fmt: skip
    assert authz("trace", "trace-2", *where) == (
        1, "", "authz: the trail has nothing of the trace trace-2\n",
    )  # fmt: skip
    assert authz("trace", "", *where).code == 2


@pytest.mark.parametrize("period", [(), ("--period", "24"), ("--period", "7d")])
def test_the_counts(where: list[str], period: tuple[str, ...]) -> None:
    done = authz("stats", *period, "--json", *where)
    assert (done.code, done.err) == (0, "")
    counted = json.loads(done.out)
    assert counted["total"] == counted["allowed"] + counted["denied"] >= READS + 3
    assert (counted["denied"], counted["errors"], counted["wouldDeny"]) == (2, 0, 0)
    assert counted["period"] == (period[1] if period else "24h")
    assert counted["from"].endswith("Z")
    assert "denied                2\n" in authz("stats", *where).out


@pytest.mark.parametrize("name", ["trail.jsonl", "trail.json", "trail.csv", "trail.parquet"])
def test_an_export_is_a_whole_file(where: list[str], tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    done = authz("export", "-o", file, *where)
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith(f"authz: {file}: ")
    if file.suffix == ".csv":
        with file.open(newline="") as stream:
            found = list(csv.DictReader(stream))
    elif file.suffix == ".parquet":
        found = PARQUET.read_table(file).to_pylist()
    else:
        found = [json.loads(line) for line in file.read_text().splitlines()]
    told = authz("query", "--limit", "100000", "--order", "asc", "--json", *where).entries
    assert [entry["id"] for entry in found] == [entry["id"] for entry in told]
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mode & 0o077 == 0


def test_an_export_replaces_nothing_unless_it_is_told_to(where: list[str], tmp_path: Path) -> None:
    file = tmp_path / "trail.csv"
    file.write_text("mine")
    assert authz("export", "-o", file, *where) == (
        2, "", f"authz: --output: {file} is there; --force replaces it\n",
    )  # fmt: skip
    assert file.read_text() == "mine"
    assert authz("export", "-o", file, "--force", *where).code == 0
    assert file.read_text().startswith("seq,id,")
    for other, code in ((tmp_path, 2), (tmp_path / "none" / "x.csv", 1)):
        done = authz("export", "-o", other, "--force", *where)
        assert (done.code, done.out) == (code, "")
        assert done.err.startswith(f"authz: --output: {other} ")


def test_an_export_that_cannot_be_written_leaves_nothing(where: list[str], tmp_path: Path) -> None:
    file = tmp_path / "trail.jsonl"
    file.symlink_to("/dev/full")
    done = authz("export", "-o", file, "--force", *where)
    assert done.err == f"authz: --output: {file} is not a regular file\n"
    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(
            command("export", *where), env=environment(), stdout=full, stderr=subprocess.PIPE,
            check=False, text=True,
        )  # fmt: skip
    said = "authz: standard output cannot be written: No space left on device\n"
    assert (process.returncode, process.stderr) == (1, said)


def terminal(*arguments: str, **descriptors: Any) -> tuple[int, str]:
    """Run a command whose stderr, and what else is named, is a terminal; what that shows."""
    ours, theirs = pty.openpty()
    given = {"stderr": theirs, **dict.fromkeys(descriptors, theirs)}
    process = subprocess.Popen(
        [sys.executable, "-m", "authz", *arguments],
        **{"stdout": subprocess.DEVNULL, **given},  # type: ignore[call-overload]
        env={**environment(), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = b""
    # Linux ends a terminal with an error.
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as stream:  # noqa: PTH123
        while part := stream.read(4096):
            seen += part
    return process.wait(PATIENCE_S), seen.decode()


def test_an_export_shows_how_far_it_is(where: list[str], tmp_path: Path) -> None:
    code, seen = terminal("audit", "export", "-o", str(tmp_path / "a.csv"), *where)
    assert code == 0
    assert "exporting" in seen
    code, seen = terminal("--quiet", "audit", "export", "-o", str(tmp_path / "b.csv"), *where)
    assert (code, seen) == (0, "")
    code, seen = terminal("audit", "export", "--format", "parquet", *where, stdout=True)
    assert (code, seen) == (2, "authz: parquet is nothing for a terminal; give --output FILE\r\n")


def test_whoever_reads_an_export_may_have_had_enough(where: list[str]) -> None:
    with child(
        command("export", *where), env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as exporting:  # fmt: skip
        assert exporting.stdout is not None
        assert exporting.stderr is not None
        exporting.stdout.close()
        assert exporting.wait(PATIENCE_S) == 1
        assert exporting.stderr.read() == ""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "authz", "audit", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def test_following_shows_what_comes_until_it_is_stopped(where: list[str], service: Service) -> None:
    with child(
        command("tail", "-f", "-n", "1", "--json", "--action", "read:followed-*", *where),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as following:  # fmt: skip
        assert following.stdout is not None
        assert following.stderr is not None
        # It shows that it has begun by what it is asked for first.
        number = 0
        seen: list[str] = []

        def came() -> bool:
            nonlocal number
            number += 1
            assert service.check("ann", f"read:followed-{number}") == 200
            os.set_blocking(following.stdout.fileno(), False)  # type: ignore[union-attr]
            seen.extend(line for line in following.stdout.readlines())  # type: ignore[union-attr]
            return len(seen) > 2

        wait_until(came, "rows that are followed")
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE_S) == 130
        assert following.stderr.read() == ""
    actions = [json.loads(line)["action"] for line in seen]
    first = int(actions[0].rpartition("-")[2])
    assert actions == [f"read:followed-{first + n}" for n in range(len(actions))]


def test_every_filter_of_the_api_is_an_option() -> None:
    assert set(OPTIONS) == set(FILTERS)


ASKING: Final = (
    ("tail",), ("tail", "-f"), ("query",), ("trace", "x"), ("stats",), ("export",),
)  # fmt: skip


@pytest.mark.parametrize("asking", ASKING, ids=" ".join)
def test_a_token_that_is_another_one_is_refused(
    asking: tuple[str, ...], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(service, "gateway", monkeypatch)
    monkeypatch.setenv("MESHGUARD_ADMIN_TOKEN", "another token of the tests")
    done = authz(*asking, *where)
    assert (done.code, done.out) == (3, "")
    assert "another token" not in done.err


def test_a_gateway_that_is_not_there_is_5(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(service, "gateway", monkeypatch)
    nobody = f"http://127.0.0.1:{free_port()}"
    waits: list[float] = []
    monkeypatch.setattr("authz.cli.audit.remote.sleep", waits.append)
    for asking in (*ASKING, ("export", "-o", str(tmp_path / "trail.csv"))):
        done = authz(*asking, "--gateway", nobody)
        assert (done.code, done.out) == (5, "")
        assert TOKEN not in done.err
    assert not list(tmp_path.iterdir())
    assert waits == [0.5, 1, 2, 4, 8]
