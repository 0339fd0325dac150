"""`authz sync`: policies from a control plane, audit rows to it, once or again and again.

- The same turns as the sidecar's own (`authz/sync`), with the sidecar's settings: SYNC_URL and what
  belongs to it. A lock keeps a command and a sidecar from doing the same turn at once; who finds
  it taken says so and ends with 0, as what was to be done is being done.
- Exit codes are CONTRACT §14's: 1 refused or not written here, 2 settings, 3 the token is not
  taken, 5 nobody there, or nobody who is a control plane.
"""

import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from authz.cli.options import AsJson, LocalCommand
from authz.cli.shared import BAD_ARGUMENTS, FAILED, REFUSED, UNREACHABLE, fail, note, print_entry

if TYPE_CHECKING:
    from authz.settings import Settings
    from authz.sync.errors import SyncFailed
    from authz.sync.plan import Plan

app = typer.Typer(
    help="Policies from a control plane, audit rows to it (SYNC_URL).", no_args_is_help=True
)

#: Of the environment, what a turn depends on; JWT_SECRET is not among it.
VARIABLES: Final = (
    "SYNC_URL", "SYNC_INTERVAL", "SYNC_TOKEN", "SYNC_TOKEN_FILE", "ADMIN_TOKEN", "SYNC_CA_FILE",
    "SYNC_PULL", "SYNC_PUSH", "SYNC_STATE_DIR", "SYNC_ALLOW_HTTP", "SSL_CERT_FILE", "POLICIES_DIR",
    "POLICY_BUNDLE", "POLICY_BUNDLE_SIGNATURE", "POLICY_BUNDLE_SIG", "POLICY_BUNDLE_KEYS",
    "POLICY_BUNDLE_KEY", "POLICY_BUNDLE_FLOOR_FILE", "REQUIRE_SIGNED_POLICIES", "AUDIT_DB_PATH",
    "DB_PATH", "AUDIT_RETENTION_DAYS", "LOG_FORMAT", "LOG_LEVEL",
)  # fmt: skip

Url = Annotated[
    str, typer.Option("--url", metavar="URL", help="The control plane; SYNC_URL when left out.")
]
Again = Annotated[
    bool, typer.Option("--again", help="As if it were the first time: everything, whole.")
]


@app.callback()
def group() -> None:
    """Policies from a control plane, audit rows to it, as SYNC_URL and its like say."""


@app.command(cls=LocalCommand)
def pull(url: Url = "", again: Again = False, as_json: AsJson = False) -> None:
    """Fetch the policies once, verify them, and put them in place.

    Into POLICY_BUNDLE where that is set, else into POLICIES_DIR. A sidecar that
    runs follows them; what it has stays in force until then, and where this fails.
    """
    from authz.sync.errors import SyncFailed
    from authz.sync.pull import pull as run

    plan = _plan(url)
    try:
        done = run(plan, again=again)
    except SyncFailed as failure:
        _fail(failure, as_json=as_json)
    for sentence in done.warnings:
        note(sentence)
    entry = done.to_json()
    if not as_json:
        entry |= {"written": len(done.written), "removed": len(done.removed)}
        entry.pop("warnings")
    print_entry(entry, as_json=as_json)


@app.command(cls=LocalCommand)
def push(url: Url = "", again: Again = False, as_json: AsJson = False) -> None:
    """Send the audit rows that the control plane has not acknowledged.

    It counts those that it has already, so nothing is doubled by sending twice.
    """
    from authz.cli.audit.shared import progress_bar
    from authz.sync.errors import SyncFailed
    from authz.sync.push import push as run

    plan = _plan(url)
    try:
        with progress_bar("sending") as progress:
            done = run(plan, again=again, progress=progress, turn_s=float("inf"))
    except SyncFailed as failure:
        _fail(failure, as_json=as_json)
    for sentence in done.warnings:
        note(sentence)
    entry = done.to_json()
    entry.pop("more")
    if not as_json:
        entry.pop("warnings")
    print_entry(entry, as_json=as_json)


@app.command(cls=LocalCommand)
def run(url: Url = "") -> None:
    """Pull and push every SYNC_INTERVAL, one after the other, until Ctrl-C or SIGTERM.

    For a container of its own; a sidecar with SYNC_URL does both itself, at once.
    """
    from authz import logs

    settings, plan = _settings(url)
    logs.configure(settings.log_level, settings.log_format, "sync")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _loop(settings, plan)
    except KeyboardInterrupt:
        note("stopped")


@app.command(cls=LocalCommand)
def status(url: Url = "", as_json: AsJson = False) -> None:
    """Say when each direction went well last, and how many rows wait. Asks nobody."""
    from authz.sync.errors import SyncFailed
    from authz.sync.pull import last
    from authz.sync.push import waiting

    settings, plan = _settings(url)
    pulled = last(Path(plan.state_dir))
    entry: dict[str, Any] = {"url": plan.url, "lastPull": pulled.get("at")}
    entry |= {name: pulled[name] for name in ("version", "revision", "digest") if pulled.get(name)}
    try:
        pushed = waiting(plan)
    except SyncFailed as failure:
        note(failure.sentence)
        pushed = {}
    entry |= {"lastPush": pushed.pop("at", None), **pushed}
    if not as_json:
        for name, is_on in (("lastPull", settings.sync_pull), ("lastPush", settings.sync_push)):
            entry[name] = entry[name] or ("never" if is_on else None)
    print_entry({k: v for k, v in entry.items() if v is not None}, as_json=as_json)


def _loop(settings: "Settings", plan: "Plan") -> None:
    import logging

    from authz.sync.errors import Cause, SyncFailed
    from authz.sync.schedule import Schedule
    from authz.sync.turn import left
    from authz.sync.turn import run as turn

    log = logging.getLogger("authz.sync")
    wanted = [("pull", settings.sync_pull), ("push", settings.sync_push)]
    schedules = {
        name: Schedule(float(settings.sync_interval_s), random.random)
        for name, is_on in wanted
        if is_on
    }
    if not schedules:
        fail(["SYNC_PULL and SYNC_PUSH are both false: there is nothing to do"], BAD_ARGUMENTS)
    due = {name: time.monotonic() + schedule.first() for name, schedule in schedules.items()}
    log.info(
        "SYNC_URL: %s with %s, every %g s, until Ctrl-C or SIGTERM",
        " and ".join(schedules), plan.url, settings.sync_interval_s,
    )  # fmt: skip
    told: dict[str, str] = {}
    while True:
        direction = min(due, key=lambda name: due[name])
        time.sleep(max(due[direction] - time.monotonic(), 0.0))
        schedule = schedules[direction]
        try:
            done = turn(direction, plan)
        except SyncFailed as failure:
            # As long as it is the same, once.
            if told.get(direction) != failure.sentence:
                log.error("%s: %s", direction, failure.sentence)
            told[direction] = failure.sentence
            done = left(plan) if direction == "push" else {}
            is_theirs = failure.cause is Cause.LOCKED
            wait_s = schedule.succeeded() if is_theirs else schedule.failed(failure.retry_after_s)
        else:
            if told.pop(direction, ""):
                log.info("%s works again", direction)
            for sentence in done["warnings"]:
                log.warning("%s", sentence)
            wait_s = 0.0 if done.get("more") else schedule.succeeded()
            if done.get("changed"):
                log.info("pulled %d policy files, sha256 %s", done["files"], done["digest"][:16])
        retention = done.get("retention", told.get("retention", ""))
        if retention and told.get("retention") != retention:
            log.warning("%s", retention)
        told["retention"] = retention
        due[direction] = time.monotonic() + wait_s


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _plan(url: str) -> "Plan":
    return _settings(url)[1]


def _settings(url: str) -> "tuple[Settings, Plan]":
    from authz.settings import SettingsError, settings_of
    from authz.sync.plan import Plan

    env = dict(os.environ)
    if url:
        env["SYNC_URL"] = url
    if not env.get("SYNC_URL", "").strip():
        fail(["SYNC_URL: not set; set it to the control plane, or give --url"], BAD_ARGUMENTS)
    try:
        settings = settings_of(env, *VARIABLES)
        return settings, Plan.of(settings)
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)


def _fail(failure: "SyncFailed", *, as_json: bool) -> NoReturn:
    from authz.sync.errors import Cause

    if failure.cause is Cause.LOCKED:
        note(failure.sentence)
        if as_json:
            print_entry({"skipped": failure.sentence}, as_json=True)
        raise typer.Exit(0)
    codes = {
        Cause.UNAUTHORISED: REFUSED,
        **dict.fromkeys(
            (
                Cause.UNREACHABLE, Cause.SLOW, Cause.TLS, Cause.REDIRECTED, Cause.NOT_A_GATEWAY,
                Cause.MISSING, Cause.BUSY, Cause.BROKEN_OFF, Cause.SERVER,
            ),
            UNREACHABLE,
        ),
    }  # fmt: skip
    if as_json:
        print_entry({"failed": str(failure.cause), "message": failure.sentence}, as_json=True)
    fail([failure.sentence], codes.get(failure.cause, FAILED))
