"""`~/.meshguard/config`: where a person's commands go, and with what (CONTRACT §14).

- Lines are `KEY="value"`, as shells and dotenv files have them; nothing in a value is filled in.
- It has secrets and says where they are sent: one that others can write is not used, and whoever
  lets others read it is told.
- What is not ours in it, comments and other keys, stays as it is.
"""

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from dotenv.parser import Binding

#: Bytes of the file that are read; it has a handful of lines.
MAX_BYTES: Final = 65_536
#: Longest value, characters.
MAX_VALUE: Final = 4096
#: Who else may not: write into it or its directory; read it.
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ: Final = stat.S_IRGRP | stat.S_IROTH

#: What the commands call a key, and what the file does.
KEYS: Final[Mapping[str, str]] = {
    "gateway-url": "MESHGUARD_URL",
    "api-key": "MESHGUARD_API_KEY",
    "admin-token": "MESHGUARD_ADMIN_TOKEN",
    "output-format": "OUTPUT_FORMAT",
}
SECRETS: Final = ("api-key", "admin-token")


class Unusable(Exception):
    """The file cannot be used, or written; one sentence."""


class Config(NamedTuple):
    """What the file says, by our names, and what is to be said of it."""

    values: Mapping[str, str]
    caution: str = ""

    def get(self, key: str) -> str:
        """A value; empty where there is none."""
        return self.values.get(key, "")


def path() -> Path:
    """Where it is, whether or not it is there.

    Raises:
        Unusable: nobody knows this user's home directory.
    """
    try:
        return Path.home() / ".meshguard" / "config"
    except RuntimeError:
        raise Unusable("there is no home directory, and so no ~/.meshguard/config") from None


def read() -> Config:
    """What it says; nothing where it is not there.

    Raises:
        Unusable: it cannot be read, is not such a file, or others can change it.
    """
    try:
        file = path()
    except Unusable:
        return Config({})
    text = _text(file)
    if text is None:
        return Config({})
    names = {name: key for key, name in KEYS.items()}
    values = {}
    for line, name, value in _bindings(file, text):
        if name in names and value:
            key = names[name]
            try:
                values[key] = checked(key, value)
            except ValueError as error:
                raise Unusable(f"{file}:{line}: {name} {error}") from None
    caution = ""
    if any(values.get(key) for key in SECRETS) and file.stat().st_mode & _OTHERS_READ:
        caution = f"{file}: others can read the secrets in it; chmod 600 it"
    return Config(values, caution)


def write(key: str, value: str) -> Path:
    """Set a key, or take it away where the value is empty; the file is for its owner alone.

    Raises:
        Unusable: as `read`; or it cannot be written.
    """
    # A link to where somebody keeps such files stays one.
    file = path().resolve()
    text, name = _text(file) or "", KEYS[key]
    lines = [
        binding.original.string for binding in _parsed(text) if binding.key != name or binding.error
    ]
    if lines and not lines[-1].endswith("\n"):
        lines.append("\n")
    if value:
        # What `checked` lets through needs no escapes.
        lines.append(f'{name}="{value}"\n')
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(file, "".join(lines))
    except OSError as error:
        raise Unusable(f"{file}: cannot be written: {error.strerror}") from None
    return file


def checked(key: str, value: str) -> str:
    """The value as it is used.

    Raises:
        ValueError: it is none of this key; what a sentence says of it, without the value.
    """
    value = value.strip()
    if len(value) > MAX_VALUE or not value.isascii() or not value.isprintable():
        raise ValueError(f"must be printable ASCII of at most {MAX_VALUE} characters")
    if set(value) & set("\"'\\"):
        raise ValueError("must not have quotes or backslashes in it")
    if key == "output-format" and value not in ("table", "json"):
        raise ValueError("must be table or json")
    return value


def _text(file: Path) -> str | None:
    """The file's text; None where it is not there."""
    try:
        with file.open("rb") as stream:
            _require_own(file, os.fstat(stream.fileno()))
            _require_own(file.parent, file.resolve().parent.stat())
            read = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unusable(f"{file}: cannot be read: {error.strerror}") from None
    if len(read) > MAX_BYTES:
        raise Unusable(f"{file}: larger than {MAX_BYTES} bytes")
    try:
        return read.decode()
    except UnicodeDecodeError:
        raise Unusable(f"{file}: not UTF-8") from None


def _require_own(path: Path, found: os.stat_result) -> None:
    """Whoever can write it says where our admin token is sent."""
    if found.st_uid not in (os.geteuid(), 0):
        raise Unusable(f"{path}: belongs to somebody else, so it is not used")
    if found.st_mode & _OTHERS_WRITE:
        raise Unusable(f"{path}: others can change it, so it is not used; chmod go-w it")


def _parsed(text: str) -> Iterator["Binding"]:
    from dotenv.parser import parse_stream

    return parse_stream(io.StringIO(text))


def _bindings(file: Path, text: str) -> list[tuple[int, str, str]]:
    """Line, name and value of each."""
    found = []
    for binding in _parsed(text):
        if binding.error:
            raise Unusable(f'{file}:{binding.original.line}: not a line like KEY="value"')
        if binding.key is not None:
            found.append((binding.original.line, binding.key, binding.value or ""))
    return found


def _replace(file: Path, text: str) -> None:
    # Made for its owner alone (mkstemp), so there is no moment at which others can read it.
    descriptor, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(draft).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(draft).unlink()
        raise
