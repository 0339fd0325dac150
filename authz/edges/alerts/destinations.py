"""Where alerts go: a webhook, Slack, mail. Each sends one and says what was answered, or refuses.

- What is sent comes from the outbox's bytes, so each attempt is the same, signature included.
- A sentence starts with the variable that is to be looked at, and has neither path nor secret.
"""

import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from email.message import EmailMessage
from typing import BinaryIO, Final, Protocol

from authz.core.alert import read_payload, signature
from authz.core.alert_texts import mail, slack_message
from authz.core.text import visible, word
from authz.edges.alerts import outgoing
from authz.edges.alerts.outgoing import Answer, Network, Refused, Resolve

#: The receiver has understood, and will not take this one: the same bytes are no better later.
#: Everything else may be mended there, or by whoever mends the settings.
_FINAL: Final = (400, 410, 413, 415, 422)
#: Characters of an answer that `authz alerts test` shows.
_SHOWN: Final = 200
#: Bytes that a mail server may say before TLS, and as many after; the client keeps all of a reply.
_MAX_SAID: Final = 64 * 1024
#: Replies of SMTP that mean "never" (RFC 5321 §4.2.1).
_SMTP_NEVER: Final = range(500, 600)

Context = Callable[[], ssl.SSLContext]


class Destination(Protocol):
    """Somewhere to send alerts."""

    #: What documents and people call it.
    name: str

    def deliver(self, body: bytes) -> str:
        """Send the alert that this payload is, in this thread.

        Returns:
            What was answered, for people.

        Raises:
            Refused: it was not taken.
        """
        ...


class Webhook:
    """ALERT_WEBHOOK_URL: the payload as it is, signed (CONTRACT §11)."""

    name = "webhook"
    variable = "ALERT_WEBHOOK_URL"

    def __init__(
        self,
        url: str,
        *,
        context: Context,
        denied: Sequence[Network],
        secret: str = "",
        resolve: Resolve = outgoing.resolved,
        total_s: float = outgoing.TOTAL_S,
    ) -> None:
        """
        Args:
            secret: of the signature; not signed where it is empty.
            denied: networks that a name may not lead to.
        """
        self._url = url
        self._secret = secret
        self._context = context
        self._denied = denied
        self._resolve = resolve
        self._total_s = total_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}(*)"

    def deliver(self, body: bytes) -> str:
        """Post it."""
        sent = self._written(body)
        answer = outgoing.post(
            self._url,
            sent,
            self._headers(body),
            what=self.variable,
            context=self._context,
            denied=self._denied,
            resolve=self._resolve,
            total_s=self._total_s,
        )
        return _taken(self.variable, answer)

    def _written(self, body: bytes) -> bytes:
        return body

    def _headers(self, body: bytes) -> Mapping[str, str]:
        headers = {
            "Content-Type": "application/json",
            "X-MeshGuard-Event": "alert",
            "X-MeshGuard-Trigger": read_payload(body).trigger,
        }
        if self._secret:
            headers["X-MeshGuard-Signature"] = signature(self._secret, body)
        return headers


class Slack(Webhook):
    """ALERT_SLACK_WEBHOOK: a message of blocks. Nothing of ours in headers: Slack has no use."""

    name = "slack"
    variable = "ALERT_SLACK_WEBHOOK"

    def _written(self, body: bytes) -> bytes:
        return slack_message(read_payload(body))

    def _headers(self, body: bytes) -> Mapping[str, str]:
        del body
        return {"Content-Type": "application/json; charset=utf-8"}


def _taken(variable: str, answer: Answer) -> str:
    status = answer.status
    if 200 <= status < 300:
        said = visible(answer.body.decode("utf-8", "replace").strip())[:_SHOWN]
        return f"answered {status}" + (f": {said}" if said else "")
    if 300 <= status < 400:
        where = f" to {word(answer.redirect)}" if answer.redirect else ""
        raise Refused(
            f"{variable}: it redirects ({status}){where}, and redirects are not followed; set the"
            " address that it has in the end"
        )
    raise Refused(
        f"{variable}: it answered {status}",
        is_final=status in _FINAL,
        after_s=answer.after_s,
    )


class Email:
    """ALERT_EMAIL_*: a mail over SMTP, by the standard library's client."""

    name = "email"
    variable = "ALERT_SMTP_HOST"

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: str,
        sender: str,
        recipients: Sequence[str],
        context: Context,
        denied: Sequence[Network],
        user: str = "",
        password: str = "",
        total_s: float = outgoing.TOTAL_S,
    ) -> None:
        """
        Args:
            tls: `starttls`, `tls` or `off`.
        """
        self._host, self._port, self._tls = host, port, tls
        self._sender, self._recipients = sender, recipients
        self._user, self._password = user, password
        self._context = context
        self._denied = denied
        self._total_s = total_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}(*)"

    def deliver(self, body: bytes) -> str:
        """Send it; of several recipients each that is refused is named."""
        deadline = time.monotonic() + self._total_s
        message = mail(read_payload(body), self._sender, self._recipients)
        try:
            with outgoing.connection(
                self._host,
                self._port,
                denied=self._denied,
                deadline=deadline,
                what=self.variable,
            ) as sock:
                client = _Client(self._opened(sock), self._host)
                try:
                    refused = self._conversation(client, message)
                finally:
                    # It is taken or not; how the peer says goodbye changes nothing.
                    client.close()
        except smtplib.SMTPRecipientsRefused as error:
            code, _ = next(iter(error.recipients.values()))
            raise Refused(
                f"ALERT_EMAIL_TO: the mail server takes none of them ({code})",
                is_final=code in _SMTP_NEVER,
            ) from None
        except smtplib.SMTPNotSupportedError:
            raise Refused(
                "ALERT_SMTP_TLS: the mail server does not offer STARTTLS, or no way to log in"
            ) from None
        except smtplib.SMTPAuthenticationError as error:
            raise Refused(
                f"ALERT_SMTP_USER: the mail server does not let it in ({error.smtp_code})"
            ) from None
        except smtplib.SMTPResponseException as error:
            if outgoing.left(deadline) <= 0:
                raise Refused(self._late()) from None  # a part of a reply looks like one
            raise Refused(
                f"{self.variable}: the mail server answered {error.smtp_code}",
                is_final=error.smtp_code in _SMTP_NEVER,
            ) from None
        except ssl.SSLCertVerificationError as error:
            raise Refused(
                f"{self.variable}: the certificate of {self._host} is not valid:"
                f" {error.verify_message}"
            ) from None
        except (smtplib.SMTPException, OSError) as error:
            if outgoing.left(deadline) <= 0:
                raise Refused(self._late()) from None
            said = word(str(error) or type(error).__name__)
            raise Refused(f"{self.variable}: {self._host} did not take it: {said}") from None
        if refused:
            return f"taken, but not for {', '.join(sorted(refused))}"
        return "taken"

    def _late(self) -> str:
        return f"{self.variable}: {self._host} did not answer within {self._total_s:g} s"

    def _opened(self, sock: socket.socket) -> socket.socket:
        if self._tls != "tls":
            return sock
        return outgoing.encrypted(sock, self._context(), self._host, self.variable)

    def _conversation(self, client: "_Client", message: EmailMessage) -> Mapping[str, object]:
        client.greeted()
        client.ehlo_or_helo_if_needed()
        if self._tls == "starttls":
            client.starttls(context=self._context())
            client.ehlo()
        if self._user:
            client.login(self._user, self._password)
        return client.send_message(message, self._sender, self._recipients)


class _Client(smtplib.SMTP):
    """The standard library's, over a connection that was looked at, and that has its deadline."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        # A name of its own it would look up, and tell; servers do not need it.
        super().__init__(local_hostname="localhost")
        self._host = host  # what STARTTLS verifies
        self.sock = sock

    def getreply(self) -> tuple[int, bytes]:
        """As it is there, of what is bounded; STARTTLS begins another stream."""
        if self.file is None and self.sock is not None:
            self.file = _Replies(self.sock.makefile("rb"))
        return super().getreply()

    def greeted(self) -> None:
        """Wait for the server's greeting."""
        code, said = self.getreply()
        if code != 220:
            raise smtplib.SMTPConnectError(code, said)


class _Replies:
    """What a mail server says, as the client reads it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = _MAX_SAID

    def readline(self, limit: int) -> bytes:
        line = self._stream.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise OSError("it says too much")
        return line

    def close(self) -> None:
        self._stream.close()
