"""What the tests send, and what holds for whatever comes back."""

import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import httpx

from tests.e2e.sidecar import ADMIN_TOKEN, JWT_SECRET, PATIENCE_S, Sidecar, bearer, token

Json = dict[str, Any]

ADMIN: Final = {"X-Admin-Token": ADMIN_TOKEN}
PREFIXES: Final = ("/admin", "/api/v1/admin")
TAG: Final = "conform"

#: What no answer ever says: secrets, and where and in what it was written.
LEAKS: Final = (
    JWT_SECRET, ADMIN_TOKEN, "Traceback", "File \"", ".py", "sqlite", "SELECT ", "peewee",
    "pydantic", "starlette", "/tmp/", "site-packages", ".sock", "audit.db", "0x7f",
)  # fmt: skip

_numbers = itertools.count(1)


def fresh(stem: str) -> str:
    """A name that no other test uses."""
    return f"{stem}-{next(_numbers)}"


def agent(agent_id: str = "", **claims: Any) -> dict[str, str]:
    """The header of an agent that the suite's policies apply to; a new one without an id."""
    given = {"tags": (TAG,), **claims}
    return bearer(agent_id=agent_id or fresh("agent"), **given)


def agent_token(agent_id: str = "", **claims: Any) -> str:
    """The token alone."""
    return token(agent_id=agent_id or fresh("agent"), **{"tags": (TAG,), **claims})


def governed(**named: str) -> dict[str, str]:
    """X-MeshGuard headers: `pending_id` is X-MeshGuard-Pending-ID."""
    return {f"X-MeshGuard-{name.replace('_', '-')}": value for name, value in named.items()}


def check(
    sidecar: Sidecar, action: str, headers: Mapping[str, str] | None = None, **named: str
) -> httpx.Response:
    """`GET /proxy/check`, as an agent of the suite unless `headers` say who."""
    who = agent() if headers is None else headers
    return sidecar.get("/proxy/check", headers={**who, **governed(action=action, **named)})


def admin(
    sidecar: Sidecar, method: str, path: str, *, status: int | Iterable[int] = 200, **kwargs: Any
) -> Json:
    """A request of an administrator below /admin that has to end so; its body."""
    headers = {**ADMIN, **kwargs.pop("headers", {})}
    answer = sidecar.client.request(method, f"/admin{path}", headers=headers, **kwargs)
    expected = {status} if isinstance(status, int) else set(status)
    assert answer.status_code in expected, f"{answer.status_code} {answer.text[:500]}"
    return json_object(answer)


def json_object(answer: httpx.Response) -> Json:
    """The body, which is a JSON object and says that it is one."""
    assert answer.headers["content-type"].partition(";")[0] == "application/json", answer.text[:300]
    body = answer.json()
    assert isinstance(body, dict), answer.text[:300]
    return body


def refusal(answer: httpx.Response, status: int | Iterable[int]) -> Json:
    """An error as each of ours is: the status, one sentence for people, and nothing else leaked."""
    expected = {status} if isinstance(status, int) else set(status)
    assert answer.status_code in expected, f"{answer.status_code} {answer.text[:500]}"
    body = json_object(answer)
    assert isinstance(body["error"], str)
    assert body["error"]
    assert_sentence(body["message"])
    keeps_quiet(answer.text)
    return body


def assert_sentence(said: object) -> None:
    """Short, printable, of one line, and more than a word."""
    assert isinstance(said, str)
    assert said.isprintable(), repr(said)
    assert 5 < len(said) <= 600, said
    assert " " in said


def keeps_quiet(text: str) -> None:
    """Nothing of our inside is in it."""
    assert [leak for leak in LEAKS if leak in text] == [], text[:1000]


class Counted(NamedTuple):
    """What has happened since it was made."""

    sidecar: Sidecar
    hits: int
    rows: int

    def forwarded(self) -> int:
        """Requests that reached the upstream."""
        return self.sidecar.upstream.hits - self.hits

    def rows_since(self, *, control: bool = False) -> list[Json]:
        """Audit rows; with `control` also those of changes."""
        rows = self.sidecar.rows(control=True)[self.rows :]
        return [row for row in rows if control or row["source"] != "control"]


def counting(sidecar: Sidecar) -> Counted:
    """Begin to count."""
    return Counted(sidecar, sidecar.upstream.hits, len(sidecar.rows(control=True)))


class Raw(NamedTuple):
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Json:
        """The body as an object."""
        said = json.loads(self.body)
        assert isinstance(said, dict)
        return said


def request(path: bytes, headers: Iterable[bytes] = (), method: bytes = b"GET") -> bytes:
    """The bytes of a request without a body."""
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"host: sidecar", *headers, b"", b""])


@contextlib.contextmanager
def connection(sidecar: Sidecar) -> Iterator[socket.socket]:
    """A connection to its port."""
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=PATIENCE_S) as connected:
        yield connected


def raw(sidecar: Sidecar, *requests: bytes) -> list[Raw]:
    """Send requests as they are over one connection, one after the other; their answers."""
    answers = []
    with connection(sidecar) as connected:
        reader = connected.makefile("rb")
        for sent in requests:
            connected.sendall(sent)
            answers.append(read_answer(reader.readline, reader.read))
    return answers


def read_answer(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> Raw:
    """One answer with a length."""
    status = int(readline().split(b" ", 2)[1])
    headers: dict[str, str] = {}
    while line := readline().strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    return Raw(status, headers, read(int(headers.get("content-length", "0"))))
