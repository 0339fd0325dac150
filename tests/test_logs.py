"""Log lines: one event a line, members beside the sentence, and nobody else's chatter."""

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from authz import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging is the process's: give back what this changes."""
    root, ours = logging.getLogger(), logging.getLogger("authz")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(False)


def lines(monkeypatch: pytest.MonkeyPatch, level: str, layout: str) -> io.StringIO:
    """Where a process so configured writes."""
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    logs.configure(level, layout, "authz")
    return stderr


def test_a_line_of_json_has_what_belongs_to_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = lines(monkeypatch, "info", "json")
    log = logging.getLogger("authz.gate")
    log.warning("%s is\nopen", "it", extra={"trace_id": "t-1", "event": "not this"})
    event = json.loads(stderr.getvalue())
    assert (event["event"], event["trace_id"]) == ("it is\nopen", "t-1")
    assert (event["level"], event["component"], event["logger"]) == (
        "warning", "authz", "authz.gate",
    )  # fmt: skip
    assert event["timestamp"].endswith("Z")
    assert stderr.getvalue().count("\n") == 1


def test_a_line_of_text_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = lines(monkeypatch, "info", "text")
    logging.getLogger("authz.gate").error("a\nb", extra={"trace_id": "x\x1b[2J"})
    [line] = stderr.getvalue().splitlines()
    assert line.endswith("[error  ] [authz] a\\nb trace_id=x\\x1b[2J")


def test_a_traceback_is_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = lines(monkeypatch, "info", "json")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("authz.gate").exception("it failed")
    event = json.loads(stderr.getvalue())
    assert event["exception"].endswith("ValueError: why")


@pytest.mark.parametrize(
    "name", ["httpx", "httpcore.http11", "hpack.hpack", "peewee", "uvicorn.access", "asyncio",
             "opentelemetry.sdk", "urllib3.connectionpool", "watchdog.observers"],
)  # fmt: skip
def test_others_say_warnings_alone_at_any_level(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    stderr = lines(monkeypatch, "debug", "text")
    other = logging.getLogger(name)
    monkeypatch.setattr(other, "propagate", True)
    other.debug("authorization: Bearer secret")
    other.info("GET https://user:secret@example.com")
    assert stderr.getvalue() == ""
    other.warning("it does not answer")
    assert "it does not answer" in stderr.getvalue()
    # And where only errors are wanted, not even these.
    logs.set_level("error")
    other.warning("again")
    assert "again" not in stderr.getvalue()


@pytest.mark.parametrize("level", logs.LEVELS)
def test_the_level_can_be_changed(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    stderr = lines(monkeypatch, "info", "text")
    logs.set_level(level)
    assert logs.level() == level
    for said in logs.LEVELS:
        logging.getLogger("authz.gate").log(getattr(logging, said.upper()), "at %s", said)
    heard = [line.rpartition(" ")[2] for line in stderr.getvalue().splitlines()]
    assert heard == list(logs.LEVELS[logs.LEVELS.index(level) :])


def test_warnings_of_python_are_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = lines(monkeypatch, "info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
    assert json.loads(stderr.getvalue())["logger"] == "py.warnings"
