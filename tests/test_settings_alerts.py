"""ALERT_*: what is refused, with a sentence and without the value, and what is a secret."""

from pathlib import Path
from typing import Final

import pytest

from authz.settings import Settings, SettingsError

BASE: Final = {"JWT_SECRET": "0123456789abcdef0123456789abcdef", "AUTHZ_RUN_DIR": "/"}
MAIL: Final = {
    "ALERT_EMAIL_ENABLED": "true",
    "ALERT_EMAIL_FROM": "sidecar@example.com",
    "ALERT_EMAIL_TO": "ops@example.com, sec@example.com",
    "ALERT_SMTP_HOST": "mail.example.com",
}


def read(**given: str) -> Settings:
    return Settings.from_env({**BASE, **given})


def problems(**given: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(**given)
    return caught.value.problems


def test_alerts_are_off_until_there_is_somewhere_to_send_them() -> None:
    assert not read(ALERT_ON="all").alerts_enabled
    assert read(ALERT_WEBHOOK_URL="https://h/x").alerts_enabled
    assert read(ALERT_SLACK_WEBHOOK="https://h/x").alerts_enabled
    assert read(**MAIL).alert_email_to == ("ops@example.com", "sec@example.com")
    assert read().alert_on == ("deny", "error", "rate_limit")


def test_groups_of_triggers_are_all_of_them() -> None:
    assert read(ALERT_ON="incident,Deny").alert_on[0] == "deny"
    assert "bundle_refused" in read(ALERT_ON="incident").alert_on


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ALERT_ON", "deny,denny", "must be some of deny, error, rate_limit, "),
        ("ALERT_WEBHOOK_URL", "ftp://h/x", "not a URL; write https://host/path"),
        ("ALERT_WEBHOOK_URL", "https://", "not a URL; write https://host/path"),
        ("ALERT_WEBHOOK_URL", "https://h:99999/", "not a URL; write https://host/path"),
        ("ALERT_WEBHOOK_URL", "https://u:pw@h/x", "may not have a user and password"),
        ("ALERT_SLACK_WEBHOOK", "https://h/x#f", "may not have a fragment"),
        ("ALERT_WEBHOOK_URL", "https://h/\u00e9", "may only contain printable ASCII"),
        ("ALERT_WEBHOOK_URL", "https://h/" + "x" * 2048, "longer than 2048 characters"),
        ("ALERT_EMAIL_TO", "ops", "not a mail address"),
        ("ALERT_EMAIL_TO", "a@b.c\nBcc: x@y.z", "not a mail address"),
        ("ALERT_EMAIL_FROM", "Ops <ops@example.com>", "not a mail address"),
        ("ALERT_RATE_LIMIT", "0", "must be from 1 to 600"),
        ("ALERT_SMTP_TLS", "ssl", "must be starttls or tls or off"),
        ("ALERT_SENDGRID_API_KEY", "SG.key", "is not supported; set ALERT_SMTP_HOST"),
        ("ALERT_WEBHOOK_SECRET", "a secret of some length", "has no effect without"),
        ("ALERT_EMAIL_ENABLED", "true", "is needed for mail"),
    ],
)
def test_what_is_not_usable_is_said_without_the_value(name: str, value: str, sentence: str) -> None:
    found = problems(**{name: value})
    assert sentence in "; ".join(found)
    for secret in ("pw", "SG.key", "a secret of some"):
        assert secret not in "; ".join(found).replace("password", "")


def test_a_password_does_not_go_over_the_network_as_it_is() -> None:
    login = {"ALERT_SMTP_USER": "u", "ALERT_SMTP_PASSWORD": "right", "ALERT_SMTP_TLS": "off"}
    assert problems(**MAIL, **login)[0].startswith("ALERT_SMTP_TLS: off, and the password")
    assert read(**{**MAIL, **login, "ALERT_SMTP_HOST": "127.0.0.1"}).alert_smtp_user == "u"
    assert problems(**MAIL, ALERT_SMTP_USER="u") == [
        "ALERT_SMTP_USER: it and ALERT_SMTP_PASSWORD go together"
    ]


def test_secrets_come_from_files_and_are_starred(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("https://h/a-secret\n")
    settings = read(ALERT_WEBHOOK_URL_FILE=str(file), ALERT_WEBHOOK_SECRET="another secret of it")
    assert settings.alert_webhook_url is not None
    assert settings.alert_webhook_url.get_secret_value() == "https://h/a-secret"
    assert "secret of it" not in repr(settings)
    assert "a-secret" not in repr(settings)
