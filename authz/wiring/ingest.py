"""Taking other sidecars' trails in, put together."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter

from authz.edges.http import ingest
from authz.edges.http.credentials import AdminToken
from authz.edges.ingest.taker import KEEP_EVERY_S, Taker
from authz.edges.threads import in_thread
from authz.settings import Settings
from authz.stores.audit_key import default_key_file
from authz.stores.ingest.keeping import Kept
from authz.wiring.extras import Parts

_DAY_S = 86_400.0


def taker(settings: Settings) -> Taker:
    """Who takes them in."""
    return Taker(
        settings.audit_ingest_path,
        keys=settings.audit_ingest_keys,
        kept=Kept(
            settings.audit_key_file or default_key_file(settings.audit_db_path),
            settings.audit_retention_days * _DAY_S,
            time.time,
        ),
    )


def routes(parts: Parts, token: AdminToken, made: Taker) -> APIRouter:
    """Where they are sent to."""
    limit = parts.settings.audit_ingest_max_bytes
    return ingest.router(token, made, limit, parts.versions, parts.incidents)


@contextlib.asynccontextmanager
async def running(made: Taker) -> AsyncIterator[None]:
    """What is looked after while the service runs."""
    await in_thread(made.sweep)
    task = asyncio.create_task(_keep(made))
    try:
        yield
    finally:
        made.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep(made: Taker) -> None:
    while True:
        await asyncio.sleep(KEEP_EVERY_S)
        await made.look_after()
