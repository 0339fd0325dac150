"""Whose tokens and delegations count, as the settings say."""

import ipaddress
import logging

from authz.core import text
from authz.core.identity import Identity, TokenVerifier
from authz.core.state import State
from authz.core.tiers import rank
from authz.exits import Exit
from authz.memory import Delegations
from authz.run_dir import StartError
from authz.settings import Settings, read_jwks_file

log = logging.getLogger(__name__)


def tokens(settings: Settings, state: State) -> TokenVerifier:
    """What verifies agent tokens.

    Raises:
        StartError: its public keys cannot be used.
    """
    secret = settings.jwt_secret.get_secret_value()
    try:
        keys = read_jwks_file(settings.jwks_file) if settings.jwks_file else None
    except ValueError as error:
        raise StartError(str(error), Exit.KEY_FILE) from None
    warn_of_residents(settings)
    return TokenVerifier(secret, settings.agent_id, keys, state.agents, resident(settings))


def resident(settings: Settings) -> Identity | None:
    """Whom this sidecar is for, as the settings describe it; None where it is for no one alone."""
    if not settings.agent_id:
        return None
    tier_rank = rank(settings.agent_tier)
    assert tier_rank is not None
    return Identity(
        agent_id=settings.agent_id,
        name=settings.agent_id,
        tier=settings.agent_tier,
        rank=tier_rank,
        tags=frozenset(settings.agent_tags),
        org_id=settings.agent_org,
        effective_rank=tier_rank,
    )


def delegations(settings: Settings) -> Delegations:
    """Who signs delegations here, and whose are trusted.

    Raises:
        StartError: the keys cannot be used.
    """
    try:
        return Delegations(settings)
    except ValueError as error:
        raise StartError(str(error), Exit.KEY_FILE) from None


def warn_of_residents(settings: Settings) -> None:
    """The agent of this sidecar needs no token at the forward proxy; others may reach that, too."""
    host, port = settings.forward_proxy_host, settings.forward_proxy_port
    if settings.agent_id and port and not ipaddress.ip_address(host).is_loopback:
        log.warning(
            "FORWARD_PROXY_HOST: whoever reaches %s is agent %s, without a token; use 127.0.0.1,"
            " or keep all others away from that port",
            text.address(host, port),
            settings.agent_id,
        )
