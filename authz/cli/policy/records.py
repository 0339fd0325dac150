"""Calls out of an audit database, with progress while they are read."""

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import peewee

from authz.cli.shared import fail
from authz.core import call as calls
from authz.core.asked import Asked
from authz.core.identity import Identity
from authz.core.sources import OUTWARD, Source
from authz.core.tiers import UNVERIFIED, rank
from authz.stores.audit_log import AuditReader, Recorded

if TYPE_CHECKING:
    from collections.abc import Iterable


def recorded(database: Path) -> Iterator[Recorded]:
    """Every distinct call of a trail; exits with a sentence when there is none to read."""
    from rich.progress import track

    try:
        found: Iterable[Recorded] = AuditReader(database).asked()
        if sys.stderr.isatty():
            from rich.console import Console

            found = track(found, "reading the trail", console=Console(stderr=True), transient=True)
        yield from found
    except FileNotFoundError:
        fail([f"{database}: there is no such audit database"], 2)
    except (peewee.PeeweeException, sqlite3.Error, ValueError) as error:
        fail([f"{database}: not an audit database: {error}"], 2)


def asked_of(row: Recorded) -> Asked:
    """The call of a row as the gate read it. Tags and context are those that were recorded."""
    metadata = row.metadata
    tags = metadata.get("tags", [])
    tier_rank = rank(row.trust_tier) or UNVERIFIED
    identity = Identity(
        row.agent_id,
        row.agent_name,
        row.trust_tier,
        tier_rank,
        frozenset(tag for tag in tags if isinstance(tag, str)),
        row.org_id,
        effective_rank=tier_rank,
    )
    meta = metadata.get("meta")
    unclear = "?" if metadata.get("unclearMeta") else ""
    headers = {
        "x-meshguard-action": row.action,
        "x-meshguard-resource": row.resource,
        "x-meshguard-meta": calls.meta_of(meta) if isinstance(meta, dict) else unclear,
    }
    host = str(metadata.get("host", ""))
    outward = next((source for source in OUTWARD if source == row.source), None)
    if outward is not None:
        call = calls.from_outward(
            outward, row.method, row.path, host, "http", lambda _, default: default, headers
        )
    else:
        source: Source = "proxy" if row.source == "proxy" else "check"
        call = calls.from_http(source, row.method, row.path, host, headers.get)
    # A derived action may hold what a declared one may not.
    return Asked(identity, call._replace(action=row.action, resource=row.resource, defect=""))
