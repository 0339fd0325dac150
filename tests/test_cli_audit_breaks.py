"""`authz audit` where a trail is replaced, or a gateway breaks off or sends what none would."""

import contextlib
import itertools
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from authz.cli.audit import local
from authz.cli.audit.local import LocalTrail
from authz.cli.event_stream import MAX_EVENT
from authz.cli.whole_file import whole_file
from tests.serving import PATIENCE_S, child, wait_until
from tests.stores import trail
from tests.test_cli_audit_questions import Done, authz, command, environment

TOKEN: Final = "an admin token of the tests"
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers as the test says, one request after the other."""

    protocol_version = "HTTP/1.1"
    answers: Iterator[Answer]
    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        next(self.answers)(self)
        self.close_connection = True

    def begin(self, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", "close")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Fake:
    """A gateway that is none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.waits: list[float] = []
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("MESHGUARD_ADMIN_TOKEN", TOKEN)
        monkeypatch.setattr("authz.cli.audit.remote.sleep", self.waits.append)

    @contextlib.contextmanager
    def answering(self, answers: list[Answer]) -> Iterator[str]:
        """Its URL; the last answer goes on for ever."""
        given = itertools.chain(answers, itertools.repeat(answers[-1]))
        handler = type("Scripted", (Handler,), {"answers": given, "asked": self.asked})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_address[1]}"
            finally:
                server.shutdown()
                thread.join()

    def run(self, answers: list[Answer], *asking: object) -> Done:
        """Run a command against these answers."""
        with self.answering(answers) as url:
            return authz(*asking, "--gateway", url)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    return Fake(monkeypatch, tmp_path)


def event(number: int, name: str = "decision", **more: object) -> bytes:
    entry = {"seq": number, "action": f"a:{number}", "decision": "allow", **more}
    return f"event: {name}\nid: {number}\ndata: {json.dumps(entry)}\n\n".encode()


def sends(*chunks: bytes, kind: str = "text/event-stream", ends: bool = False) -> Answer:
    """An answer that breaks off, or with `ends` is whole."""

    def answer(handler: Handler) -> None:
        handler.begin(kind)
        for chunk in chunks:
            handler.chunk(chunk)
        if ends:
            handler.chunk(b"")

    return answer


def refuses(status: int, **body: object) -> Answer:
    def answer(handler: Handler) -> None:
        handler.begin("application/json", status)
        handler.chunk(json.dumps(body).encode())
        handler.chunk(b"")

    return answer


def test_a_tail_goes_on_after_the_last_row_that_came(fake: Fake) -> None:
    half = event(3)
    done = fake.run(
        [
            sends(b"retry: 2000\n\n", event(1), event(2), half[:20]),
            sends(b": alive\n\n"),
            sends(half[:9], half[9:], event(4, "control"), event(9, "weather"), ends=True),
            refuses(503, error="unavailable", message="too many tails; ask again"),
        ],
        "tail", "-f", "-n", "2", "--json", "--agent", "ann",
    )  # fmt: skip
    assert [entry["seq"] for entry in done.entries] == [1, 2, 3, 4]
    assert done.code == 1
    assert done.err.endswith("authz: too many tails; ask again\n")
    assert [path for path, _ in fake.asked] == [
        "/admin/audit/tail?agentId=ann&n=2",
        *["/admin/audit/tail?agentId=ann&n=0"] * 3,
    ]
    assert [headers.get("last-event-id") for _, headers in fake.asked] == [None, "2", "2", "9"]
    # A connection that brought something is one that works.
    assert fake.waits == [0.5, 0.5, 0.5]


def test_a_tail_that_brings_nothing_is_given_up(fake: Fake) -> None:
    done = fake.run([sends()], "tail", "-f")
    assert done.code == 5
    assert done.err.count("; asking again\n") == 5
    assert "cannot be reached any more: " in done.err
    assert fake.waits == [0.5, 1, 2, 4, 8]
    assert all("n=20" in path for path, _ in fake.asked)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (sends(b"{}", kind="application/json"), 5, "no sidecar: it sends no events"),
        (sends(b"data: " + b"x" * MAX_EVENT + b"\n\n"), 5, "longer than any row"),
        (sends(b"event: decision\ndata: [1]\n\n"), 5, "an event of it is no entry"),
        (sends(b"event: decision\ndata: {" + b"[" * 9999 + b"\n\n"), 5, "is no entry"),
        (
            sends(b'event: error\ndata: {"message": "it \\u001b[2J ends"}\n\n'),
            1,
            "it \\x1b[2J ends",
        ),
        (sends(b"event: error\ndata: 7\n\n"), 1, "the sidecar has ended the tail"),
        (refuses(400, error="bad", message="n: must be less"), 2, "authz: -n: must be less"),
        (refuses(302, error="elsewhere"), 5, "no sidecar"),
    ],
)
def test_what_no_sidecar_sends_ends_it(fake: Fake, answer: Answer, code: int, said: str) -> None:
    done = fake.run([answer], "tail", "-f", "--json")
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "\x1b" not in done.err
    assert TOKEN not in done.err


def test_hostile_entries_do_not_reach_the_terminal(fake: Fake) -> None:
    bad = {"action": "\x1b[2J", "agentId": ["x\n"], "decision": 7, "timestamp": {"a": "\r"}}
    done = fake.run(
        [refuses(200, entries=[bad, {}, {"source": "control", "action": "\b"}])], "query"
    )
    assert done.code == 0
    assert not set(done.out) & {"\x1b", "\r", "\b"}
    assert len(done.out.splitlines()) == 4


@pytest.mark.parametrize(
    "pages",
    [
        [refuses(200, entries=[{}], next="7")],
        [refuses(200, entries=[], next="7"), refuses(200, entries=[], next="7")],
        [refuses(200, entries={"a": 1})],
        [refuses(200, entries=[1])],
        [refuses(200, entries=[], next=["x"])],
    ],
)
def test_a_list_that_is_none_or_has_no_end_is_no_sidecar_s(fake: Fake, pages: list[Answer]) -> None:
    done = fake.run(pages, "query", "--json")
    assert done.code == 5
    assert "what answers there is no sidecar: " in done.err


def test_a_page_that_found_nothing_in_time_is_gone_on_from(fake: Fake) -> None:
    done = fake.run(
        [
            refuses(200, entries=[], next="90", incomplete=True),
            refuses(200, entries=[{"seq": 5}], next="5", incomplete=True),
            refuses(200, entries=[{"seq": 4}]),
        ],
        "query", "--json", "--limit", "7",
    )  # fmt: skip
    assert done.err == ""
    assert [entry["seq"] for entry in done.entries] == [5, 4]
    assert [path for path, _ in fake.asked] == [
        "/admin/audit?order=desc&limit=7",
        "/admin/audit?order=desc&limit=7&after=90",
        "/admin/audit?order=desc&limit=6&after=5",
    ]


@pytest.mark.parametrize("there", ["nothing", "something"])
def test_an_export_that_breaks_off_leaves_what_was_there(
    fake: Fake, tmp_path: Path, there: str
) -> None:
    file = tmp_path / "trail.csv"
    if there == "something":
        file.write_text("mine")
    done = fake.run(
        [sends(b"seq,id\n", b"1,a\n", kind="text/csv")], "export", "-o", file, "--force"
    )
    assert (done.code, done.out) == (1, "")
    assert ": the export broke off after 11 bytes: " in done.err
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [
        ("trail.csv", "mine") for _ in [there] if there == "something"
    ]
    done = fake.run(
        [sends(b"seq,id\n", kind="text/csv", ends=True)], "export", "-o", file, "--force"
    )
    assert (done.code, file.read_text()) == (0, "seq,id\n")
    assert done.err == f"authz: {file}: 7 bytes\n"


def test_an_export_that_is_interrupted_leaves_nothing(fake: Fake, tmp_path: Path) -> None:
    def begins(handler: Handler) -> None:
        handler.begin("text/csv")
        handler.chunk(b"seq,id\n" * 100_000)
        handler.rfile.read(1)  # until whoever asked is gone

    directory = tmp_path / "exports"
    directory.mkdir()
    with (
        fake.answering([begins]) as url,
        child(
            command("export", "-o", str(directory / "trail.csv"), "--gateway", url),
            env=environment(), stderr=subprocess.PIPE,
        ) as exporting,
    ):  # fmt: skip
        wait_until(lambda: sum(f.stat().st_size for f in directory.iterdir()) > 100_000, "bytes")
        exporting.send_signal(signal.SIGINT)
        assert exporting.wait(PATIENCE_S) == 130
    assert not list(directory.iterdir())


def test_a_file_that_comes_meanwhile_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "trail.csv"

    def write() -> None:
        with whole_file("-o", file, replace=False) as stream:
            stream.write(b"ours")
            file.write_text("theirs")

    with pytest.raises(typer.Exit):
        write()
    assert [f.read_text() for f in tmp_path.iterdir()] == ["theirs"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    file, link = tmp_path / "there" / "trail.csv", tmp_path / "link.csv"
    file.write_text("before")
    link.symlink_to(file)
    with whole_file("-o", link, replace=True) as stream:
        stream.write(b"after")
    assert (link.is_symlink(), file.read_text()) == (True, "after")
    assert list((tmp_path / "there").iterdir()) == [file]


# Of a database.


class Following:
    """A tail of a file, looked at step by step."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.meanwhile: list[Callable[[], object]] = []
        monkeypatch.setattr(local, "sleep", self._wait)
        self._lists: Any = LocalTrail(path).follow({}, 2)

    def _wait(self, _: float) -> None:
        # It would wait for ever where nothing is going to happen.
        assert self.meanwhile, "nothing came"
        self.meanwhile.pop(0)()

    def next(self, *meanwhile: Callable[[], object]) -> list[str]:
        """The ids of the next entries; while it waits these are done, one after the other."""
        self.meanwhile += meanwhile
        return [entry["id"] for entry in next(self._lists)]

    def close(self) -> None:
        self._lists.close()


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Following, Any]]:
    with trail.world(tmp_path / "audit.db") as world:
        world.write(5)
        following = Following(world.path, monkeypatch)
        with contextlib.closing(following):
            yield following, world


def test_rows_that_come_are_shown(following: tuple[Following, trail.World]) -> None:
    tail, world = following
    assert tail.next() == ["d-4", "d-5"]
    assert tail.next(lambda: None, lambda: world.write(3)) == ["d-6", "d-7", "d-8"]


def test_another_file_is_shown_from_its_beginning(
    following: tuple[Following, trail.World], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tail, world = following
    tail.next()
    other = tmp_path / "other.db"
    with trail.world(other) as made:
        made.write(2)
        made.end()
    world.end()

    def begin() -> None:
        world.path.write_bytes(b"")

    def replace() -> None:
        other.replace(world.path)

    assert tail.next(world.path.unlink, lambda: None, begin, replace) == ["d-1", "d-2"]
    assert capsys.readouterr().err == (
        f"authz: {world.path}: is another file than before; what follows is from there\n"
    )


def test_rows_that_were_cut_off_are_not_shown_twice(
    following: tuple[Following, trail.World], capsys: pytest.CaptureFixture[str]
) -> None:
    tail, world = following
    tail.next()

    def cut() -> None:
        world.execute("DELETE FROM audit WHERE seq > 3")

    def add() -> None:
        world.execute("INSERT INTO audit SELECT 4, 'new', " + _REST + " FROM audit WHERE seq = 3")

    assert tail.next(cut, add) == ["new"]
    assert "its newest rows are gone" in capsys.readouterr().err


_REST: Final = ", ".join(trail.row()._fields[1:]) + ", prev_hash, hash"


def test_another_file_that_stays_none_is_a_sentence(
    following: tuple[Following, trail.World], capsys: pytest.CaptureFixture[str]
) -> None:
    tail, world = following
    tail.next()
    world.end()

    def replace() -> None:
        world.path.unlink()
        world.path.write_bytes(b"")

    tail.meanwhile += [lambda: None] * 100
    with pytest.raises(Exception, match="1"):
        tail.next(replace, *[lambda: None] * 100)
    assert capsys.readouterr().err.endswith("it is not an audit database\n")
