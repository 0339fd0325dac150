"""Files that variables point to: what they hold, or one sentence that starts with the variable."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.core.mode import Mode

if TYPE_CHECKING:
    from authz.core.jwks import KeySet

#: Bytes of a MODE_FILE that are read; a mode has seven letters.
MAX_MODE_FILE: Final = 64


def with_file(given: dict[str, str], name: str, problems: list[str]) -> dict[str, str]:
    """The environment with `name` read from the file that `name`_FILE points to."""
    file = given.get(f"{name}_FILE")
    if file is None:
        return given
    if name in given:
        problems.append(f"{name}: also set by {name}_FILE; give one of them")
        return given
    try:
        return {**given, name: Path(file).read_text(encoding="ascii").strip()}
    except OSError as error:
        problems.append(f"{name}_FILE: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        problems.append(f"{name}_FILE: may only contain printable ASCII characters")
    return given


def read_mode_file(path: Path) -> Mode:
    """The mode that a MODE_FILE holds.

    Raises:
        ValueError: it cannot be read, or holds none; one sentence that starts with the variable.
    """
    text = content("MODE_FILE", path, MAX_MODE_FILE)
    word = text.decode("ascii", "replace").strip().lower()
    if len(text) > MAX_MODE_FILE or word not in set(Mode):
        raise ValueError(f"MODE_FILE: {path} must hold enforce, audit or bypass")
    return Mode(word)


def read_jwks_file(path: Path, variable: str = "JWKS_FILE") -> "KeySet":
    """The public keys that a JWKS_FILE holds.

    Raises:
        ValueError: it cannot be read, or is no set of public keys; one sentence that starts with
            the variable.
    """
    # Only here: importing PyJWT takes 0.1 s, which whoever has no such file need not wait for.
    from authz.core import jwks  # noqa: PLC0415

    text = content(variable, path, jwks.MAX_JWKS)
    try:
        return jwks.parse(text)
    except ValueError as error:
        raise ValueError(f"{variable}: {path}: {error}") from None


def content(variable: str, path: Path, limit: int) -> bytes:
    """What a regular file holds, at most one byte more than the limit.

    Raises:
        ValueError: it cannot be read; one sentence that starts with the variable.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ValueError(f"{variable}: {path} is not a regular file")
            return stream.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{variable}: {path} cannot be read: {error.strerror}") from None


def with_mode_file(given: dict[str, str], problems: list[str]) -> dict[str, str]:
    """The environment with MODE as the file says that MODE_FILE points to."""
    file = given.get("MODE_FILE")
    if file is None:
        return given
    try:
        return {**given, "MODE": str(read_mode_file(Path(file)))}
    except ValueError as error:
        problems.append(str(error))
        return given
