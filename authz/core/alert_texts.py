"""An alert as people read it: a Slack message and a mail.

- Nothing that an agent chose is markup: Slack's three characters are escaped, and a mail is plain
  text whose headers are made of one line.
- Slack's limits are kept, or it would refuse the message: 3,000 characters of a section, 150 of a
  header, ten fields (https://api.slack.com/reference/block-kit/blocks).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from authz.core.alert import Alert
from authz.core.text import visible
from authz.core.timestamps import rfc3339

#: Slack's, with room for what escaping adds: `&` becomes five characters.
_HEADER: Final = 150
_SECTION: Final = 2900
_FIELD: Final = 1900
#: RFC 5322 §2.1.1 wants lines of 78 characters, and nobody reads longer subjects.
_SUBJECT: Final = 150
_SIGNS: Final[Mapping[str, str]] = {
    "critical": ":rotating_light:",
    "warning": ":warning:",
    "info": ":information_source:",
}
#: What people see of the entry, and what it is called.
_SHOWN: Final[Mapping[str, str]] = {
    "agentId": "Agent",
    "trustTier": "Tier",
    "action": "Action",
    "decision": "Decision",
    "policyName": "Policy",
    "method": "Method",
    "path": "Path",
    "traceId": "Trace",
}


def escaped(text: str, most: int) -> str:
    """A text that Slack shows as it is, of so many characters at most."""
    out: list[str] = []
    size = 0
    for character in visible(text):
        piece = _ESCAPES.get(character, character)
        size += len(piece)
        if size >= most:
            out.append("…")
            break
        out.append(piece)
    return "".join(out)


_ESCAPES: Final[Mapping[str, str]] = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def slack_message(alert: Alert) -> bytes:
    """The body for an incoming webhook: Block Kit, and the text that notifications show."""
    title = f"{alert.title}" + (f" ({alert.times} times)" if alert.times > 1 else "")
    fields = [_marked(f"*{label}*\n{escaped(value, _FIELD)}") for label, value in _facts(alert)]
    blocks: list[dict[str, object]] = [
        # A header is plain text: there is no markup in it, so nothing to escape.
        {
            "type": "header",
            "text": {"type": "plain_text", "text": visible(title)[:_HEADER], "emoji": False},
        },
        {
            "type": "section",
            "text": _marked(
                f"{_SIGNS.get(alert.severity, '')} *{alert.severity}* · "
                f"{escaped(alert.message, _SECTION)}"
            ),
        },
    ]
    if fields:
        blocks.append({"type": "section", "fields": fields[:10]})
    blocks.append({"type": "context", "elements": [_marked(escaped(_foot(alert), _FIELD))]})
    said = {"text": escaped(f"[{alert.severity}] {title}", _SECTION), "blocks": blocks}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _marked(text: str) -> dict[str, object]:
    """A text with markup; Slack makes no link or mention of what has none."""
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _facts(alert: Alert) -> Sequence[tuple[str, str]]:
    return [(label, alert.entry[key]) for key, label in _SHOWN.items() if alert.entry.get(key)]


def _foot(alert: Alert) -> str:
    where = " · ".join(part for part in (alert.instance, alert.environment) if part)
    return f"{alert.trigger} · {rfc3339(alert.at, 'milliseconds')} · {alert.id}" + (
        f" · {where}" if where else ""
    )


def mail(alert: Alert, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """The mail. Its `Message-ID` is the alert's, so that one that comes twice is seen to be one.

    Args:
        sender: an address of ASCII (`settings`), and so are the recipients.
    """
    message = EmailMessage()
    where = f" {alert.environment}" if alert.environment else ""
    subject = f"[{alert.severity}{where}] {alert.title}"
    # The class refuses line breaks; what else is no visible character is shown escaped.
    message["Subject"] = visible(subject)[:_SUBJECT]
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Date"] = format_datetime(datetime.fromtimestamp(alert.at, UTC))
    message["Message-ID"] = f"<{alert.id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
    message["X-MeshGuard-Trigger"] = alert.trigger
    lines = [alert.title, "", alert.message, ""]
    lines += [f"{label}: {value}" for label, value in _facts(alert)]
    lines += [f"Times: {alert.times}"] if alert.times > 1 else []
    lines += ["", f"Severity: {alert.severity}", _foot(alert), ""]
    message.set_content("\n".join(map(visible, lines)))
    return message
