"""Alerts of these settings: the destinations, and everything together."""

import logging
import secrets
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from authz.edges.alerts.destinations import Destination, Email, Slack, Webhook
from authz.edges.alerts.service import Alerts
from authz.settings import DENIED_NETWORKS, Settings, SettingsError, trusted_ca_file
from authz.settings.alerts import is_here

log = logging.getLogger(__name__)


def alerts(settings: Settings) -> Alerts | None:
    """All of it; None where no destination is configured."""
    if not settings.alerts_enabled:
        return None
    for name, url in (
        ("ALERT_WEBHOOK_URL", settings.alert_webhook_url),
        ("ALERT_SLACK_WEBHOOK", settings.alert_slack_webhook),
    ):
        parts = urlsplit(url.get_secret_value()) if url else None
        if parts is not None and parts.scheme == "http" and not is_here(parts.hostname or ""):
            log.warning("%s: is http, so whoever is on the way can read and change alerts", name)
    told = list(destinations(settings))
    log.info(
        "ALERT_ON: %s go to %s", ", ".join(settings.alert_on), ", ".join(one.name for one in told)
    )
    return Alerts(
        settings.audit_db_path,
        told,
        asked=settings.alert_on,
        rate=settings.alert_rate_limit,
        new_id=lambda: secrets.token_hex(16),
        instance=instance(settings),
        environment=settings.alert_environment,
    )


def _authorities(settings: Settings) -> Path | None:
    """The certificates that receivers' own must come from; None: the system's, if there are any."""
    try:
        return trusted_ca_file(settings)
    except SettingsError:
        return None  # without them https fails, with a sentence; http needs none


def instance(settings: Settings) -> str:
    """What alerts call this sidecar."""
    return settings.alert_instance or socket.gethostname()


def destinations(settings: Settings) -> Iterator[Destination]:
    """Those that are configured."""

    def context() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=authorities)

    authorities = _authorities(settings)

    if settings.alert_webhook_url:
        secret = settings.alert_webhook_secret
        yield Webhook(
            settings.alert_webhook_url.get_secret_value(),
            context=context,
            denied=DENIED_NETWORKS,
            secret=secret.get_secret_value() if secret else "",
        )
    if settings.alert_slack_webhook:
        yield Slack(
            settings.alert_slack_webhook.get_secret_value(),
            context=context,
            denied=DENIED_NETWORKS,
        )
    if settings.alert_email_enabled:
        password = settings.alert_smtp_password
        yield Email(
            settings.alert_smtp_host,
            settings.alert_smtp_port,
            tls=settings.alert_smtp_tls,
            sender=settings.alert_email_from,
            recipients=settings.alert_email_to,
            context=context,
            denied=DENIED_NETWORKS,
            user=settings.alert_smtp_user,
            password=password.get_secret_value() if password else "",
        )
