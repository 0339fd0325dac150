"""The supervisor: small, and truthful about what became of its children."""

import asyncio
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from authz import cgroups, supervisor
from authz.exits import Exit
from authz.supervisor import Plan

PLAN: Final = Plan(
    host="127.0.0.1",
    port=3100,
    target="https://api.example/v1",
    upstream=("api.example", 443),
    envoy="/bin/envoy",
    config="/run/authz/envoy.yaml",
    admin_socket="/run/authz/envoy-admin.sock",
    log_level="info",
    log_format="json",
    lock=3,
)


#: With everything in it that need not be there.
FULL: Final = replace(
    PLAN,
    workers=2,
    listeners="/run/authz/listeners.yaml",
    echo=7,
    outward=(("FORWARD_PROXY_PORT", "127.0.0.1", 3128), ("CAPTURE_PORT", "::1", 15_001)),
)


@pytest.mark.parametrize("plan", [PLAN, FULL, replace(PLAN, upstream=None)])
def test_a_plan_is_the_same_on_the_other_side(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


def test_it_is_small() -> None:
    """It lives in the memory limit of its children, which is 128 MiB where the seed's is."""
    program = "import authz.supervisor, json, sys; print(json.dumps([*sys.modules]))"
    said = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    modules = set(json.loads(said))
    ours = {name for name in modules if name.split(".")[0] == "authz"}
    assert ours == {
        "authz", "authz.cgroups", "authz.core", "authz.core.text", "authz.core.timestamps",
        "authz.exits", "authz.logs", "authz.ownership", "authz.run_dir", "authz.supervisor",
        "authz.tcp_table", "authz.unix_http",
    }  # fmt: skip
    large = {"pydantic", "typer", "rich", "yaml", "fastapi", "httpx", "cryptography", "envoy"}
    assert not modules & large


def started(script: str) -> supervisor._Child:
    """A child that has ended before it was ready."""
    child = supervisor._Child(
        supervisor._SERVICE, lambda _: ["/bin/sh", "-c", script], env={"PATH": "/bin:/usr/bin"}
    )
    asyncio.run(child.start())
    assert not child.was_ready
    return child


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 12", Exit.KEY_FILE),
        ("exit 2", Exit.SETTINGS),
        ("exit 1", Exit.FAILED),
        ("exit 0", Exit.CHILD),
        ("exit 77", Exit.CHILD),
        ("kill -9 $$", Exit.CHILD),
    ],
)
def test_the_services_own_codes_are_passed_on_and_no_others(script: str, code: Exit) -> None:
    assert supervisor._failed_to_start(started(script)) == code


def test_who_was_not_yet_seen_to_be_ready_is_drained_all_the_same() -> None:
    """It may have answered for a moment before anybody here looked."""
    drained = []

    async def drain() -> None:
        drained.append(True)

    async def is_ready() -> bool:
        return False

    async def stopped_while_starting() -> None:
        child = supervisor._Child(
            "envoy", lambda _: ["/bin/sleep", "60"], env={}, is_ready=is_ready, drain=drain
        )
        starting = asyncio.create_task(child.start())
        while child.process is None:
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await child.drain(until=asyncio.Event())
        await child.end(30.0)
        # Whoever is gone has nothing in flight.
        await child.drain(until=asyncio.Event())

    asyncio.run(stopped_while_starting())
    assert drained == [True]


def test_a_child_that_ran_out_of_memory_is_told_apart_from_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    membership = tmp_path / "membership"
    membership.write_text("0::/\n")
    (tmp_path / "memory.max").write_text(f"{96 << 20}\n")
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 4\n")
    real = cgroups.memory
    monkeypatch.setattr(cgroups, "memory", lambda: real(tmp_path, membership))
    with caplog.at_level(logging.ERROR):
        assert supervisor._failed_to_start(started("kill -9 $$")) == Exit.CHILD
    assert "memory" not in caplog.text
    killed = started(f"echo 'oom_kill 5' > {events}; kill -9 $$")
    assert supervisor._failed_to_start(killed) == Exit.MEMORY
    assert "service was killed by the kernel because the memory limit of 96 MiB is too small" in (
        caplog.text
    )
