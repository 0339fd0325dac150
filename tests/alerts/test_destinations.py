"""Receivers as they are: slow, redirecting, endless, gone; and a real mail server."""

import contextlib
import email
import email.policy
import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Iterator, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from authz.core.alert import Alert, payload
from authz.core.alert_texts import slack_message
from authz.edges.alerts import outgoing
from authz.edges.alerts.destinations import Email, Slack, Webhook
from authz.edges.alerts.outgoing import Refused
from authz.settings import DENIED_NETWORKS
from tests.alerts.receiver import Receiver, receiving, speaking
from tests.e2e.certificates import Authority
from tests.e2e.sidecar import free_port

SECRET: Final = "a webhook secret of the tests"
#: Seconds; what hangs is given up after them.
SHORT_S: Final = 0.4

ALERT: Final = Alert(
    id="alert_1",
    at=1_700_000_000.0,
    severity="warning",
    trigger="deny",
    title="Denied: write:<delete> by a&b",
    message="policy p denies it\r\nBcc: x@example.com",
    entry={"agentId": "a&b", "action": "write:<delete>", "policyName": "p", "traceId": "t"},
    times=3,
    instance="sidecar-1",
    environment="tests",
)
BODY: Final = payload(ALERT)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as taking:
        yield taking


def webhook(url: str, **changes: Any) -> Webhook:
    given: dict[str, Any] = {
        "context": ssl.create_default_context,
        "denied": DENIED_NETWORKS,
        "secret": SECRET,
        "total_s": SHORT_S,
    }
    return Webhook(url, **{**given, **changes})


def refused(destination: Webhook | Email) -> Refused:
    with pytest.raises(Refused) as caught:
        destination.deliver(BODY)
    return caught.value


def test_the_signature_is_of_the_bytes_that_are_sent(receiver: Receiver) -> None:
    receiver.answer(204)
    assert webhook(receiver.url, total_s=10).deliver(BODY) == "answered 204"
    taken = receiver.taken[-1]
    assert taken.body == BODY
    expected = hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest()
    assert taken.headers["X-MeshGuard-Signature"] == f"sha256={expected}"
    webhook(receiver.url, secret="", total_s=10).deliver(BODY)
    assert "X-MeshGuard-Signature" not in receiver.taken[-1].headers


@pytest.mark.parametrize(
    ("status", "headers", "said", "is_final", "after_s"),
    [
        (500, {}, "it answered 500", False, 0),
        (404, {}, "it answered 404", False, 0),
        (400, {}, "it answered 400", True, 0),
        (410, {}, "it answered 410", True, 0),
        (429, {"Retry_After": "120"}, "it answered 429", False, 120),
        (503, {"Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "it answered 503", False, 0),
        (
            307,
            {"Location": "http://169.254.169.254/latest/meta-data"},
            "it redirects (307) to 169.254.169.254, and redirects are not followed; set the"
            " address that it has in the end",
            False,
            0,
        ),
    ],
)
def test_what_is_no_success_is_none(
    receiver: Receiver,
    status: int,
    headers: dict[str, str],
    said: str,
    is_final: bool,
    after_s: float,
) -> None:
    receiver.answer(status, body=b"<html>no</html>", **headers)
    before = len(receiver.taken)
    error = refused(webhook(receiver.url, total_s=10))
    assert str(error) == f"ALERT_WEBHOOK_URL: {said}"
    assert (error.is_final, error.after_s) == (is_final, after_s)
    assert len(receiver.taken) == before + 1


HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((), "127.0.0.1 did not answer within 0.4 s"),
        ([b"H"] * 1000, "127.0.0.1 did not answer within 0.4 s"),
        ((b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 5000,), "127.0.0.1 did not answer: "),
        ((b"SSH-2.0-OpenSSH_9.6\r\n\r\n",), "127.0.0.1 did not answer: "),
    ],
    ids=["silent", "a-byte-now-and-then", "endless-head", "another-protocol"],
)
def test_one_that_does_not_answer_is_given_up(pieces: Sequence[bytes], said: str) -> None:
    began = time.monotonic()
    with speaking(*pieces, pause_s=0.01) as port:
        error = refused(webhook(f"http://127.0.0.1:{port}/"))
    assert str(error).startswith(f"ALERT_WEBHOOK_URL: {said}")
    assert not error.is_final
    # However slow the machine is, a thousand bytes at this pace would take longer.
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("body", [b"x" * 1_000_000, b""], ids=["huge", "never-coming"])
def test_of_a_body_only_the_beginning_is_waited_for(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "BODY_S", 0.1)
    with speaking(HEAD, body) as port:
        assert webhook(f"http://127.0.0.1:{port}/").deliver(BODY).startswith("answered 200")


def test_nobody_there_is_said() -> None:
    error = refused(webhook(f"http://127.0.0.1:{free_port()}/?key=secret"))
    assert "cannot be reached: Connection refused" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "127.0.0.1", "::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
     "0.0.0.0", "fd00:ec2::254"],
)  # fmt: skip
def test_a_name_does_not_lead_to_where_nobody_is_to_be_reached(address: str) -> None:
    error = refused(webhook("http://hooks.example/x", resolve=lambda *_: [address]))
    assert str(error).startswith(
        f"ALERT_WEBHOOK_URL: hooks.example resolves to {address}, where nobody"
    )


def test_the_address_that_was_looked_at_is_connected_to(receiver: Receiver) -> None:
    """DNS rebinding: a name's second answer is not asked for."""
    receiver.answer(204)
    answers = iter([["127.0.0.1"]])
    sent = webhook(
        f"http://hooks.example:{receiver.port}/", denied=(), resolve=lambda *_: next(answers),
        total_s=10,
    )  # fmt: skip
    assert sent.deliver(BODY) == "answered 204"
    assert receiver.taken[-1].headers["Host"] == f"hooks.example:{receiver.port}"


def test_a_proxy_of_the_environment_is_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    receiver.answer(204)
    assert webhook(receiver.url, total_s=10).deliver(BODY) == "answered 204"


def test_a_secret_is_in_no_repr() -> None:
    assert repr(webhook("http://h/secret")) == "Webhook(*)"


def test_slack_gets_blocks_in_which_nothing_is_markup(receiver: Receiver) -> None:
    receiver.answer(200, body=b"ok")
    slack = Slack(receiver.url, context=ssl.create_default_context, denied=())
    assert slack.deliver(BODY) == "answered 200: ok"
    taken = receiver.taken[-1]
    assert "X-MeshGuard-Signature" not in taken.headers
    said = taken.json
    assert said["text"] == "[warning] Denied: write:&lt;delete&gt; by a&amp;b (3 times)"
    assert [block["type"] for block in said["blocks"]] == [
        "header", "section", "section", "context",
    ]  # fmt: skip
    text = json.dumps(said["blocks"][1:])
    assert "<" not in text
    assert "write:&lt;delete&gt;" in text


def test_slack_makes_no_link_or_mention_of_a_plain_text() -> None:
    """`@channel` and an address, as an agent may call its action, are for nobody to click."""
    blocks = json.loads(slack_message(ALERT))["blocks"]
    texts = [
        text
        for block in blocks
        for text in (block.get("text"), *block.get("fields", ()), *block.get("elements", ()))
        if text and text["type"] == "mrkdwn"
    ]
    assert len(texts) > 3
    assert all(text.get("verbatim") is True for text in texts)


@pytest.mark.parametrize("text", ["<" * 5000, "\u202e" * 5000, "é" * 5000])
def test_slacks_limits_are_kept(text: str) -> None:
    entry = dict.fromkeys(("agentId", "action", "path", "policyName", "traceId"), text)
    said = json.loads(slack_message(ALERT._replace(title=text, message=text, entry=entry)))
    for block in said["blocks"]:
        if block["type"] == "header":
            assert len(block["text"]["text"]) <= 150
        for field in block.get("fields", []):
            assert len(field["text"]) <= 2000
        if "text" in block:
            assert len(block["text"]["text"]) <= 3000


class Mailbox:
    """What the mail server has taken."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.recipients: list[list[str]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        self.recipients.append(envelope.rcpt_tos)
        return "250 taken"

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address.startswith("nobody"):
            return "550 there is none"
        envelope.rcpt_tos.append(address)
        return "250 fine"


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    box = Mailbox()
    controller = Controller(
        box, hostname="127.0.0.1", port=free_port(), auth_require_tls=False,
        authenticator=lambda *given: AuthResult(
            success=given[-1].password == b"right", handled=False
        ),
    )  # fmt: skip
    controller.start()
    try:
        yield box, controller.port
    finally:
        controller.stop()


def mailer(port: int, **changes: Any) -> Email:
    given: dict[str, Any] = {
        "tls": "off",
        "sender": "sidecar@example.com",
        "recipients": ("ops@example.com", "sec@example.com"),
        "context": ssl.create_default_context,
        "denied": DENIED_NETWORKS,
    }
    return Email("127.0.0.1", port, **{**given, **changes})


def test_a_mail_is_taken(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    assert mailer(port).deliver(BODY) == "taken"
    [mail] = box.mails
    assert mail["Subject"] == "[warning tests] Denied: write:<delete> by a&b"
    assert mail["Message-ID"] == "<alert_1@example.com>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Bcc"] is None
    text = mail.get_content()
    assert "Agent: a&b" in text
    assert "Times: 3" in text
    assert box.recipients == [["ops@example.com", "sec@example.com"]]


def test_a_title_cannot_become_a_header(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    mailer(port).deliver(payload(ALERT._replace(title="a\r\nBcc: x@example.com\n\nbody")))
    [mail] = box.mails
    assert mail["Bcc"] is None
    assert box.recipients == [["ops@example.com", "sec@example.com"]]


def test_of_several_recipients_those_that_are_refused_are_named(
    mailbox: tuple[Mailbox, int],
) -> None:
    box, port = mailbox
    sent = mailer(port, recipients=("ops@example.com", "nobody@example.com"))
    assert sent.deliver(BODY) == "taken, but not for nobody@example.com"
    assert len(box.mails) == 1
    error = refused(mailer(port, recipients=("nobody@example.com",)))
    assert str(error) == "ALERT_EMAIL_TO: the mail server takes none of them (550)"
    assert error.is_final


def test_without_starttls_nothing_is_sent(mailbox: tuple[Mailbox, int]) -> None:
    box, port = mailbox
    error = refused(mailer(port, tls="starttls", user="u", password="right"))
    assert str(error).startswith("ALERT_SMTP_TLS: the mail server does not offer STARTTLS")
    assert not box.mails


def test_a_wrong_password_is_said(mailbox: tuple[Mailbox, int]) -> None:
    _, port = mailbox
    assert mailer(port, user="u", password="right").deliver(BODY) == "taken"
    error = refused(mailer(port, user="u", password="wrong"))
    assert str(error) == "ALERT_SMTP_USER: the mail server does not let it in (535)"


@pytest.mark.parametrize("pieces", [(), [b"2"] * 1000], ids=["silent", "a-byte-now-and-then"])
def test_a_mail_server_that_hangs_is_given_up(pieces: Sequence[bytes]) -> None:
    with speaking(*pieces, pause_s=0.01) as port:
        error = refused(mailer(port, total_s=SHORT_S))
    assert str(error) == "ALERT_SMTP_HOST: 127.0.0.1 did not answer within 0.4 s"


def test_a_mail_server_that_does_not_stop_talking_fills_no_memory() -> None:
    line = b"250-" + b"x" * 8000 + b"\r\n"
    with speaking(b"220 hello\r\n", *[line * 100] * 100) as port:
        error = refused(mailer(port))
    assert str(error).startswith("ALERT_SMTP_HOST: 127.0.0.1 did not take it: ")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, int]]:
    """Whom to trust, and the ports of two mail servers: STARTTLS, and TLS from the start."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority("mail")
    (folder / "ca.pem").write_bytes(authority.pem)
    issued = authority.issue(folder / "server", "localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    with contextlib.ExitStack() as stack:
        ports = []
        for name in ("tls_context", "ssl_context"):
            given: dict[str, Any] = {name: context}
            controller = Controller(
                Mailbox(), hostname="127.0.0.1", port=free_port(), ready_timeout=30, **given
            )
            controller.start()
            stack.callback(controller.stop)
            ports.append(controller.port)
        yield folder / "ca.pem", ports[0], ports[1]


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_a_mail_goes_encrypted_and_only_to_whom_it_is_meant_for(
    encrypted: tuple[Path, int, int], tls: str
) -> None:
    authorities, *ports = encrypted
    port = ports[tls == "tls"]

    def trusting() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=authorities)

    assert mailer(port, tls=tls, context=trusting).deliver(BODY) == "taken"
    error = refused(mailer(port, tls=tls))
    assert "the certificate of 127.0.0.1 is not valid" in str(error)
    assert not error.is_final


def test_a_receiver_that_speaks_no_tls_is_said_in_whole_words(receiver: Receiver) -> None:
    said = str(refused(webhook(receiver.url.replace("http://", "https://"), total_s=10)))
    assert re.search(r"no TLS with 127\.0\.0\.1: [a-z ]+$", said), said
