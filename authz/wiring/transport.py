"""The transport that answers Envoy, as the settings choose it."""

import contextlib
import ipaddress
import logging
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Final, Protocol

from authz import tls_files
from authz.core import text
from authz.edges.cpu_quota import Thrift
from authz.edges.h2c.server import BATCH, H2cServer
from authz.exits import Exit
from authz.gate import Gate
from authz.run_dir import StartError
from authz.settings import Settings

#: Calls that are judged together at most where each batch waits for the disk (AUDIT_SYNC=full).
BATCH_PER_FSYNC: Final = 64

log = logging.getLogger(__name__)


class Transport(Protocol):
    """What answers Envoy."""

    async def start(self) -> None:
        """Listen and serve; OSError where that cannot be."""

    async def stop(self, grace_s: float) -> None:
        """Stop accepting; calls in flight get `grace_s` seconds."""

    def figures(self) -> dict[str, object]:
        """What an operator may want to know of it."""


def transport(settings: Settings, gate: Gate) -> Transport:
    """The transport that the settings choose.

    Raises:
        StartError: its certificate or key cannot be used.
    """
    address = settings.ext_authz_address or settings.ext_authz_socket
    if settings.ext_authz_transport == "h2c":
        batch = BATCH if settings.audit_sync == "normal" else BATCH_PER_FSYNC
        return H2cServer(gate.check_all, gate.turn_away, address, batch, Thrift())
    # Only here: importing grpcio takes 0.1 s and 10 MB.
    from authz.edges.ext_authz import ExtAuthzServer, Tls  # noqa: PLC0415

    try:
        own = tls_files.own(settings)
    except ValueError as error:
        raise StartError(str(error), Exit.KEY_FILE) from None
    # Other hosts are reached by this transport alone.
    warn_of_peers(settings)
    return ExtAuthzServer(gate.check, address, Tls(*own) if own else None)


@contextlib.asynccontextmanager
async def answering(envoy: Transport, settings: Settings, drain_s: float) -> AsyncIterator[None]:
    """Answer Envoy; at the end, calls in flight get `drain_s` seconds.

    Raises:
        StartError: it cannot be answered where the settings say.
    """
    try:
        await envoy.start()
    except OSError as error:
        raise _not_listening(settings, error) from None
    try:
        yield
    finally:
        await envoy.stop(drain_s)


def _not_listening(settings: Settings, error: OSError) -> StartError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    if settings.ext_authz_address is None:
        return StartError(
            f"AUTHZ_RUN_DIR: {settings.ext_authz_socket} cannot be listened on ({reason})",
            Exit.RUN_DIRECTORY,
        )
    return taken("EXT_AUTHZ_ADDRESS", settings.ext_authz_address, reason)


def taken(variable: str, address: tuple[str, int], reason: str) -> StartError:
    """Why an address cannot be listened on."""
    return StartError(
        f"{variable}: {text.address(*address)} cannot be listened on ({reason}); stop what uses it"
        " or choose another",
        Exit.ADDRESS,
    )


def warn_of_peers(settings: Settings) -> None:
    """What is good to know of who may ask, where that is not this host alone."""
    for sentence in tls_files.warnings(settings, "EXT_AUTHZ_TLS", datetime.now(UTC)):
        log.warning("%s", sentence)
    if settings.ext_authz_client_ca_file is not None:
        return
    for variable, address in (
        ("EXT_AUTHZ_ADDRESS", settings.ext_authz_address),
        ("HTTP_ADDRESS", settings.http_address),
    ):
        if address is not None and not ipaddress.ip_address(address[0]).is_loopback:
            log.warning(
                "%s: whoever reaches %s may ask for decisions and fill the audit trail; with"
                " EXT_AUTHZ_TLS_CLIENT_CA_FILE only who has a certificate may",
                variable,
                text.address(*address),
            )
