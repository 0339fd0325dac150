"""No secret of a test is to be found in what a sidecar leaves behind: its logs, its files, answers.

- What is looked for: the values of every variable that the settings hold as a secret, and of the
  file that one is read from; secrets that were made up (`dev-secrets.json`); private keys; and
  anything that is a token by its shape, since no token belongs where it can be read later.
- In each form that a careless line would have: as it is, in a URL, in base64 wherever that begins,
  in hexadecimal, in JSON.
- Files that hold a secret by design are not looked through: keys, `dev-secrets.json`, an agent's
  `.jwt`, and those that a variable is read from.
"""

import base64
import contextlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import quote, quote_plus

import httpx
from pydantic import AliasChoices, SecretStr

from authz.core.delegation.receipt import TYPE
from authz.settings import Settings

#: A signed JWT. Receipts of delegations have the same shape, and are shown to whoever asks: they
#: name who may act for whom, and are worth nothing without the agent's own token.
TOKEN: Final = re.compile(rb"eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}")
_RECEIPT: Final = re.compile(rb'"typ":\s*"' + re.escape(TYPE.encode()))
#: A shorter value stands in too many texts by chance.
MIN_SECRET: Final = 8
#: What is answered to anybody.
OPEN: Final = ("/health", "/ready", "/", "/metrics")
_BY_DESIGN: Final = ("dev-secrets.json",)
#: Seconds that an open answer may take.
_PATIENCE_S: Final = 5.0


class Leak(AssertionError):
    """A secret was found; the sentence says which and where, not what it is."""


def secret_variables() -> set[str]:
    """Every variable whose value is a secret: those of the settings, as they are declared."""
    found = set()
    for field in Settings.model_fields.values():
        if SecretStr in (field.annotation, *get_args(field.annotation)):
            names = field.validation_alias
            found |= (
                set(map(str, names.choices))
                if isinstance(names, AliasChoices)
                else {str(field.alias)}
            )
    # What the standard of OpenTelemetry has credentials in.
    return found | {"OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"}


def secrets_of(env: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The secrets of a sidecar that was started so, by their names."""
    found: dict[str, str] = {}
    for name in secret_variables():
        said = env.get(name, "")
        if not said and f"{name}_FILE" in env:
            with contextlib.suppress(OSError):
                said = (directory / env[f"{name}_FILE"]).read_text(errors="replace").strip()
        if "AUTHORIZATION" in name or "HEADERS" in name:
            # `Bearer sk-...`, `api-key=...`: what stands before it is none.
            said = re.split(r"[ =,]", said)[-1]
        found[name] = said
    for file in directory.rglob("dev-secrets.json"):
        made_up = json.loads(file.read_text())
        found |= {f"{file.name}: {name}": value for name, value in made_up.items()}
    for file in directory.rglob("*.key"):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = file.read_text().splitlines()
            if lines and "PRIVATE KEY" in lines[0]:
                found[file.name] = max(lines[1:-1], key=len, default="")
    return {name: value for name, value in found.items() if len(value) >= MIN_SECRET}


def forms(secret: str) -> set[bytes]:
    """How a secret may be written."""
    raw = secret.encode()
    made = {
        raw,
        quote(secret).encode(),
        quote(secret, safe="").encode(),
        quote_plus(secret).encode(),
        raw.hex().encode(),
    }
    made.add(json.dumps(secret)[1:-1].encode())
    for before in range(3):
        # Whole groups of three bytes alone: the rest depends on what stands beside.
        whole = raw[-before % 3 :]
        whole = whole[: len(whole) // 3 * 3]
        if len(whole) >= MIN_SECRET:
            made |= {base64.b64encode(whole), base64.urlsafe_b64encode(whole)}
    return made


def look(texts: Iterable[tuple[str, bytes]], secrets: Mapping[str, str]) -> None:
    """Look through texts, each with the name of its place.

    Raises:
        Leak: one of them has a secret or a token in it.
    """
    sought = [(name, form) for name, secret in secrets.items() for form in forms(secret)]
    for place, text in texts:
        for name, form in sought:
            if form in text:
                raise Leak(f"{place} has the secret {name} in it{_around(text, text.index(form))}")
        for token in TOKEN.finditer(text):
            if not _is_receipt(token[0]):
                raise Leak(f"{place} has a token in it{_around(text, token.start())}")


def left_behind(directory: Path, env: Mapping[str, str], *, prints_token: bool = False) -> None:
    """Look through everything that a sidecar has left in its directory.

    Args:
        env: that it was started with.
        prints_token: a token is on its stdout by design (`run --demo`).
    """
    secrets = secrets_of(env, directory)
    named = (env.get(f"{name}_FILE") for name in secret_variables())
    sources = {Path(file).name for file in named if file}
    skipped = {*_BY_DESIGN, *sources} | ({"stdout"} if prints_token else set())
    look(_files(directory, skipped), secrets)


def answered(client: httpx.Client, env: Mapping[str, str], directory: Path) -> None:
    """Look through what a sidecar that runs answers to anybody."""
    found = []
    with contextlib.suppress(httpx.HTTPError, RuntimeError):
        for path in OPEN:
            answer = client.get(path, timeout=_PATIENCE_S)
            found.append((f"GET {path}", answer.content))
            if b"circuit_open" in answer.content:
                break  # a test has stopped the service, and Envoy waits for it each time
    look(found, secrets_of(env, directory))


class Listener(logging.Handler):
    """Hears what is logged in the process of the tests."""

    def __init__(self) -> None:
        super().__init__()
        #: Where a token was logged.
        self.leaks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record with a token in it."""
        said = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            said += str(record.exc_info[1])
        for token in TOKEN.finditer(said.encode(errors="replace")):
            if not _is_receipt(token[0]):
                self.leaks.append(f"{record.pathname}:{record.lineno} logs a token")


def _files(directory: Path, skipped: set[str]) -> Iterator[tuple[str, bytes]]:
    for file in sorted(directory.rglob("*")):
        if file.name in skipped or file.suffix in (".key", ".pem", ".jwt") or file.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if file.is_file():
                yield str(file.relative_to(directory)), file.read_bytes()


def _is_receipt(token: bytes) -> bool:
    with contextlib.suppress(ValueError):
        header = token.partition(b".")[0]
        return bool(_RECEIPT.search(base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))))
    return False


def _around(text: bytes, at: int) -> str:
    """What stands before it, so that it is found."""
    line = text[:at].count(b"\n") + 1
    before: Any = text[max(at - 60, 0) : at].decode("utf-8", "replace").splitlines()
    return f", on line {line}, behind {before[-1]!r}" if before else f", on line {line}"
