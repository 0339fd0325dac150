"""Alerts (CONTRACT §11, §14): what raises them, and where they go. Off until one is configured.

- An address may hold a secret (Slack's does), so it is one: starred, and readable from a file.
- What would not be delivered is a mistake now, not when something has happened.
"""

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr

from authz.core.alert_words import DEFAULT_ON, GROUPS, TRIGGERS, expanded
from authz.settings import checks
from authz.settings.group import Group

if TYPE_CHECKING:
    from authz.settings.model import Settings

#: Variables that may also be read from the file that `NAME_FILE` names.
SECRETS: Final = (
    "ALERT_WEBHOOK_URL", "ALERT_WEBHOOK_SECRET", "ALERT_SLACK_WEBHOOK", "ALERT_SMTP_PASSWORD",
)  # fmt: skip
#: Characters of a webhook's address; its query may hold a long token.
MAX_URL: Final = 2048
MAX_RECIPIENTS: Final = 20
#: RFC 5321 §4.5.3.1.3: a path is at most 256 octets, its brackets included.
MAX_ADDRESS: Final = 254
#: An HMAC's key shorter than this is guessed from one signed alert.
MIN_SECRET: Final = 16

_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")


def triggers(value: object) -> object:
    """Triggers with commas between them, or `all`."""
    if not isinstance(value, str):
        return value
    words = [word.strip().lower() for word in value.split(",") if word.strip()]
    unknown = [word for word in words if word not in (*TRIGGERS, *GROUPS)]
    if unknown or not words:
        raise ValueError(f"must be some of {', '.join((*TRIGGERS, *GROUPS))}")
    return tuple(sorted(expanded(words), key=TRIGGERS.index))


def webhook(value: object) -> object:
    """An http or https URL."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value).strip()
    if len(text) > MAX_URL:
        raise ValueError(f"longer than {MAX_URL} characters")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("may only contain printable ASCII characters and no blanks")
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise ValueError("not a URL; write https://host/path") from None
    if url.scheme not in ("https", "http") or not url.hostname:
        raise ValueError("not a URL; write https://host/path")
    if "@" in url.netloc:
        raise ValueError("may not have a user and password in front of the host")
    if url.fragment:
        raise ValueError("may not have a fragment (#...), which is never sent")
    return text


def mail_address(value: object) -> object:
    """One mail address without a name."""
    text = str(value).strip()
    if text and (len(text) > MAX_ADDRESS or not _ADDRESS.fullmatch(text)):
        raise ValueError("not a mail address; write ops@example.com, without a name")
    return text


def mail_addresses(value: object) -> object:
    """Mail addresses with commas between them."""
    if not isinstance(value, str):
        return value
    found = tuple(dict.fromkeys(one.strip() for one in value.split(",") if one.strip()))
    if len(found) > MAX_RECIPIENTS:
        raise ValueError(f"may name at most {MAX_RECIPIENTS} addresses")
    return tuple(str(mail_address(one)) for one in found)


class Alerts(Group):
    """Alerts."""

    alert_on: Annotated[tuple[str, ...], BeforeValidator(triggers)] = Field(
        DEFAULT_ON,
        alias="ALERT_ON",
        description="what raises an alert, with commas between them, or all; `authz alerts"
        " triggers` lists them, and AlertRoute documents may name more",
    )
    alert_webhook_url: Annotated[SecretStr | None, BeforeValidator(webhook)] = Field(
        None,
        alias="ALERT_WEBHOOK_URL",
        description="where each alert is posted as JSON; http is not encrypted and is warned of",
    )
    alert_webhook_url_file: Path | None = Field(
        None,
        alias="ALERT_WEBHOOK_URL_FILE",
        description="file that ALERT_WEBHOOK_URL is read from at start",
    )
    alert_webhook_secret: Annotated[
        SecretStr | None, checks.secret(MIN_SECRET, "openssl rand -hex 32")
    ] = Field(
        None,
        alias="ALERT_WEBHOOK_SECRET",
        description="key of the HMAC in `X-MeshGuard-Signature`; not signed when unset",
    )
    alert_webhook_secret_file: Path | None = Field(
        None,
        alias="ALERT_WEBHOOK_SECRET_FILE",
        description="file that ALERT_WEBHOOK_SECRET is read from at start",
    )
    alert_slack_webhook: Annotated[SecretStr | None, BeforeValidator(webhook)] = Field(
        None,
        alias="ALERT_SLACK_WEBHOOK",
        description="URL of a Slack incoming webhook, which is a secret",
    )
    alert_slack_webhook_file: Path | None = Field(
        None,
        alias="ALERT_SLACK_WEBHOOK_FILE",
        description="file that ALERT_SLACK_WEBHOOK is read from at start",
    )
    alert_email_enabled: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
        False, alias="ALERT_EMAIL_ENABLED", description="send each alert by mail"
    )
    alert_email_from: Annotated[str, BeforeValidator(mail_address)] = Field(
        "", alias="ALERT_EMAIL_FROM", description="address that mails come from"
    )
    alert_email_to: Annotated[tuple[str, ...], BeforeValidator(mail_addresses)] = Field(
        (), alias="ALERT_EMAIL_TO", description="addresses that they go to, with commas between"
    )
    alert_smtp_host: Annotated[str, BeforeValidator(checks.printable)] = Field(
        "", alias="ALERT_SMTP_HOST", max_length=253, description="host that takes mails (SMTP)"
    )
    alert_smtp_port: Annotated[int, checks.whole_number(1, 65_535)] = Field(
        587, alias="ALERT_SMTP_PORT", description="its port"
    )
    alert_smtp_tls: Annotated[
        Literal["starttls", "tls", "off"], checks.choice("starttls", "tls", "off")
    ] = Field(
        "starttls",
        alias="ALERT_SMTP_TLS",
        description="starttls (without it nothing is sent), tls from the start (port 465), or off",
    )
    alert_smtp_user: Annotated[str, BeforeValidator(checks.printable)] = Field(
        "", alias="ALERT_SMTP_USER", max_length=256, description="who logs in there"
    )
    alert_smtp_password: Annotated[
        SecretStr | None, checks.secret(1, "what the mail server gave you", is_made=False)
    ] = Field(None, alias="ALERT_SMTP_PASSWORD", description="and with what")
    alert_smtp_password_file: Path | None = Field(
        None,
        alias="ALERT_SMTP_PASSWORD_FILE",
        description="file that ALERT_SMTP_PASSWORD is read from at start",
    )
    alert_sendgrid_api_key: Annotated[str, BeforeValidator(lambda _: "given")] = Field(
        "",
        alias="ALERT_SENDGRID_API_KEY",
        description="not supported: SendGrid takes mail by SMTP, at smtp.sendgrid.net as user"
        " `apikey`",
    )
    alert_rate_limit: Annotated[int, checks.whole_number(1, 600)] = Field(
        10,
        alias="ALERT_RATE_LIMIT",
        description="alerts a minute, 1 to 600, and as many of the sidecar itself; what is beyond"
        " them is dropped and counted, a critical one told later",
    )
    alert_instance: Annotated[str, BeforeValidator(checks.printable)] = Field(
        "",
        alias="ALERT_INSTANCE_NAME",
        max_length=256,
        description="what alerts call this sidecar; the host's name when unset",
    )
    alert_environment: Annotated[str, BeforeValidator(checks.printable)] = Field(
        "",
        alias="ALERT_ENVIRONMENT",
        max_length=256,
        description="what alerts say of where it runs, such as production",
    )

    @property
    def alerts_enabled(self) -> bool:
        """There is somewhere to send them."""
        return bool(self.alert_webhook_url or self.alert_slack_webhook or self.alert_email_enabled)


def alert_problems(settings: "Settings") -> list[str]:
    """What is wrong with these variables together."""
    problems = []
    if settings.alert_sendgrid_api_key:
        problems.append(
            "ALERT_SENDGRID_API_KEY: is not supported; set ALERT_SMTP_HOST=smtp.sendgrid.net,"
            " ALERT_SMTP_USER=apikey and the key as ALERT_SMTP_PASSWORD"
        )
    if settings.alert_webhook_secret and not settings.alert_webhook_url:
        problems.append("ALERT_WEBHOOK_SECRET: has no effect without ALERT_WEBHOOK_URL")
    if not settings.alert_email_enabled:
        return problems
    needed = {
        "ALERT_EMAIL_FROM": settings.alert_email_from,
        "ALERT_EMAIL_TO": settings.alert_email_to,
        "ALERT_SMTP_HOST": settings.alert_smtp_host,
    }
    problems += [f"{name}: is needed for mail" for name, value in needed.items() if not value]
    if bool(settings.alert_smtp_user) is not bool(settings.alert_smtp_password):
        problems.append("ALERT_SMTP_USER: it and ALERT_SMTP_PASSWORD go together")
    user, host = settings.alert_smtp_user, settings.alert_smtp_host
    if user and settings.alert_smtp_tls == "off" and not is_here(host):
        problems.append(
            "ALERT_SMTP_TLS: off, and the password would go over the network as it is; use"
            " starttls or tls"
        )
    return problems


def is_here(host: str) -> bool:
    """A host is this one, by its very name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
