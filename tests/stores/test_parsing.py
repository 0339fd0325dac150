"""Parsing beside the service gives what parsing in it gives, whatever becomes of the process."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace

import pytest

from authz.core.policy_file import Parsed
from authz.stores import parsing
from authz.stores.pace import UNPACED, Pace
from authz.stores.parsing import FEW, Item, ParserProcess, parse_here
from tests.e2e.sidecar import children

GOOD = """\
name: policy-{}
appliesTo: {{agentIds: ["*"]}}
rules: [{{effect: allow, actions: ["read:{}/*"], conditions: {{context.a: {{gte: 1}}}}}}]
"""
BAD = "name: policy-{}\nrules: [{{effect: allwo, actions: [x]}}]\n"

ITEMS: list[Item] = [
    ((BAD if n % 7 == 0 else GOOD).format(n, n).encode(), f"{n}.yaml") for n in range(FEW * 3)
]


def _said(parsed: Iterator[Parsed]) -> list[tuple[list[str], list[str]]]:
    """What is told of each file, and the policies in it with all that they say."""
    return [
        ([str(problem) for problem in one.problems], [p.policy.digest for p in one.policies])
        for one in parsed
    ]


def _processes() -> set[int]:
    """Our child processes that parse."""
    return {pid for pid, argv in children(os.getpid()) if any("spawn_main" in arg for arg in argv)}


def test_another_process_finds_what_this_one_finds() -> None:
    before = _processes()
    found = ParserProcess().parse(ITEMS)
    first = next(found)
    assert len(_processes() - before) == 1
    assert _said(iter([first, *found])) == _said(parse_here(ITEMS))
    assert _processes() == before


def test_few_files_are_not_worth_a_process() -> None:
    before = _processes()
    found = ParserProcess().parse(ITEMS[:FEW])
    first = next(found)
    assert _processes() == before
    assert _said(iter([first, *found])) == _said(parse_here(ITEMS[:FEW]))


def test_a_process_that_is_killed_leaves_nothing_unparsed(caplog: pytest.LogCaptureFixture) -> None:
    before = _processes()
    found = ParserProcess().parse(ITEMS)
    first = next(found)
    [process] = _processes() - before
    os.kill(process, signal.SIGKILL)
    assert _said(iter([first, *found])) == _said(parse_here(ITEMS))
    assert _processes() == before
    for message in caplog.messages:  # none, where it was done all the same
        assert message.startswith("policies are parsed in the service: no process for it: ")


def test_where_there_can_be_no_process_it_is_done_here(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __init__(self, *_: object) -> None:
            pass

        def map(self, *_: object, **__: object) -> Iterator[Parsed]:
            raise BrokenProcessPool("no memory")

        def shutdown(self, **_: object) -> None:
            pass

    monkeypatch.setattr(parsing, "ProcessPoolExecutor", Broken)
    assert _said(ParserProcess().parse(ITEMS)) == _said(parse_here(ITEMS))
    assert caplog.messages == ["policies are parsed in the service: no process for it: no memory"]


def test_whoever_stops_it_is_not_kept_waiting() -> None:
    before = _processes()
    parser = ParserProcess()
    found = parser.parse(ITEMS)
    next(found)
    parser.stop(wait=True)
    assert _processes() == before


# The pace.


class Clock:
    """Stands in for the time that a thread has worked, and for sleeping."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.worked = 100.0
        self.rests: list[float] = []
        stand_in = SimpleNamespace(thread_time=lambda: self.worked, sleep=self.rests.append)
        monkeypatch.setattr("authz.stores.pace.time", stand_in)


def test_work_is_interrupted_by_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    done = []
    for item in Pace(work_s=1.0, rest_s=2.0).over(range(10)):
        done.append((item, len(clock.rests)))
        clock.worked += 0.4
    assert clock.rests == [2.0, 2.0, 2.0]
    assert done == [(n, n // 3) for n in range(10)]


def test_waiting_is_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert list(Pace(work_s=1.0, rest_s=2.0).over(range(1000))) == list(range(1000))
    assert clock.rests == []


def test_where_nobody_waits_there_is_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for _ in UNPACED.over(range(10)):
        clock.worked += 1e9
    assert clock.rests == []
