"""Which sidecar a command asks, and with which token: option, else environment, else config file.

- A gateway that nobody has named on the command line is named on stderr: the database here and a
  sidecar elsewhere are not to be taken for each other.
- The config file's token goes to the config file's gateway, and to no other one.
- A token is never part of a sentence.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from authz.cli import config_file
from authz.cli.config_file import Config, Unusable
from authz.cli.options import said
from authz.cli.shared import BAD_ARGUMENTS, REFUSED, fail, note

#: Where clients are told the gateway, ours and others' (CONTRACT §14).
GATEWAY_VARIABLES: Final = ("MESHGUARD_GATEWAY_URL", "MESHGUARD_URL")
#: With a prefix, unlike in our own file: others have a variable of the shorter name.
FORMAT_VARIABLE: Final = "MESHGUARD_OUTPUT_FORMAT"
UNIX: Final = "unix:"
#: What ADMIN_TOKEN has at least (`settings`), and what is read of a file with a token, bytes.
MIN_TOKEN: Final = 16
MAX_TOKEN: Final = 4096


@dataclass(frozen=True, slots=True)
class Destination:
    """A sidecar, and what it knows us by."""

    #: As it was written; of a socket its path.
    name: str
    #: What paths are put behind; of a socket any host will do.
    base_url: str
    socket: Path | None
    #: Empty where none is needed.
    token: str = field(repr=False)


def gateway(*, here: str = "", needs_token: bool = True) -> Destination | None:
    """The sidecar to ask; None: the database here.

    Args:
        here: the option of this command line that is about what is here.
        needs_token: it is asked what only an administrator may ask.
    """
    options = said()
    if options.local:
        if options.gateway:
            fail(["give --gateway or --local, not both"], BAD_ARGUMENTS)
        return None
    if here:
        if options.gateway:
            fail([f"give --gateway or {here}, not both"], BAD_ARGUMENTS)
        return None
    url, origin = options.gateway, "--gateway"
    if not url:
        url, origin = _ambient()
    if not url:
        if options.admin_token:
            fail(["--admin-token: is for a sidecar; name it with --gateway"], BAD_ARGUMENTS)
        return None
    if origin != "--gateway":
        note(f"asking the sidecar at {url}, which {origin} names; --local uses what is here")
    return _destination(url, origin, needs_token=needs_token)


def sidecar(*, needs_token: bool = True) -> Destination:
    """The sidecar to ask; the one whose socket is in AUTHZ_RUN_DIR where none is named."""
    named = gateway(needs_token=needs_token)
    if named is not None:
        return named
    from authz.settings import SettingsError, settings_of

    try:
        socket = settings_of(os.environ, "AUTHZ_RUN_DIR").http_socket
    except SettingsError as error:
        fail(error.problems, BAD_ARGUMENTS)
    return _destination(f"{UNIX}{socket}", "AUTHZ_RUN_DIR", needs_token=needs_token)


def output_format() -> str:
    """How to print where nothing is said: `table` or `json`."""
    value = os.environ.get(FORMAT_VARIABLE, "").strip()
    if not value:
        return config().get("output-format") or "table"
    try:
        return config_file.checked("output-format", value)
    except ValueError as error:
        fail([f"{FORMAT_VARIABLE}: {error}"], BAD_ARGUMENTS)


def config() -> Config:
    """What the config file says; exits with a sentence where it cannot be used."""
    try:
        return config_file.read()
    except Unusable as error:
        fail([str(error)], BAD_ARGUMENTS)


def _ambient() -> tuple[str, str]:
    """The gateway that nobody has named on the command line, and what names it."""
    for name in GATEWAY_VARIABLES:
        value = os.environ.get(name, "").strip()
        if value:
            return value, name
    url = config().get("gateway-url")
    return url, str(config_file.path()) if url else ""


def _destination(url: str, origin: str, *, needs_token: bool) -> Destination:
    where = "--gateway" if origin == "--gateway" else origin
    base_url, socket = _parsed(url, where)
    token = _token(url, origin) if needs_token else ""
    if token and base_url.startswith("http:") and socket is None and not _is_near(base_url):
        note(f"{url} is not encrypted: whoever is on the way can read the admin token")
    return Destination(str(socket or url), base_url, socket, token)


def _parsed(url: str, where: str) -> tuple[str, Path | None]:
    if url.startswith(UNIX):
        path = url.removeprefix(UNIX)
        # `unix:///run/http.sock` is as usual as `unix:/run/http.sock`.
        return "http://sidecar", Path(path.removeprefix("//") if path.startswith("///") else path)
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        fail([f"{where}: not a URL; write http://host:port or https://host"], BAD_ARGUMENTS)
    if parts.username is not None or parts.password is not None:
        fail([f"{where}: must not have a user or password in it"], BAD_ARGUMENTS)
    if "?" in url or "#" in url:
        fail([f"{where}: must not have a query or fragment"], BAD_ARGUMENTS)
    return url.rstrip("/"), None


def _is_near(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _token(url: str, origin: str) -> str:
    """The token for this gateway; exits where there is none that could be one."""
    value, source = "", ""
    if said().admin_token:
        value, source = _given(said().admin_token), "--admin-token"
    elif os.environ.get("MESHGUARD_ADMIN_TOKEN", "").strip():
        value, source = os.environ["MESHGUARD_ADMIN_TOKEN"], "MESHGUARD_ADMIN_TOKEN"
    elif origin != "AUTHZ_RUN_DIR" and (theirs := _of_file(url)):
        value, source = theirs, str(config_file.path())
    elif os.environ.get("ADMIN_TOKEN", "").strip():
        value, source = os.environ["ADMIN_TOKEN"], "ADMIN_TOKEN"
    value = value.strip()
    if not source:
        said_so = "give --admin-token, or set MESHGUARD_ADMIN_TOKEN or ADMIN_TOKEN"
        fail([f"no admin token: {said_so}{_made_up(url, origin)}"], REFUSED)
    if len(value) < MIN_TOKEN:
        fail([f"{source}: shorter than {MIN_TOKEN} characters, which no admin token is"],
             BAD_ARGUMENTS)  # fmt: skip
    if not (value.isascii() and value.isprintable()):
        fail([f"{source}: has characters that no HTTP header can have"], BAD_ARGUMENTS)
    return value


def _made_up(url: str, origin: str) -> str:
    """Where the token of a sidecar here is that was started without one: of a demo, or compose."""
    from authz import dev_secrets
    from authz.settings import SettingsError, settings_of

    if origin != "AUTHZ_RUN_DIR" and not _is_near(url):
        return ""
    try:
        path = settings_of(os.environ, "AUTHZ_RUN_DIR").run_dir / dev_secrets.FILE
    except SettingsError:
        return ""
    return f"; the one that was made up for the sidecar here is in {path}" if path.is_file() else ""


def _of_file(url: str) -> str:
    found = config()
    if found.get("gateway-url") != url:
        return ""
    token = found.get("admin-token") or found.get("api-key")
    if token and found.caution:
        note(found.caution)
    return token


def _given(value: str) -> str:
    """A token that an option gives: itself, or where it is."""
    if value == "-":
        return sys.stdin.readline(MAX_TOKEN)
    if not value.startswith("@"):
        return value
    file = Path(value[1:])
    try:
        with file.open("rb") as stream:
            read = stream.read(MAX_TOKEN)
    except OSError as error:
        fail([f"--admin-token: {file} cannot be read: {error.strerror}"], BAD_ARGUMENTS)
    return read.decode("ascii", "replace")
