"""Writing policy files: one document at a time, wholly or not at all.

- A document that a file has is replaced in that file, byte for byte between its neighbours; a new
  one gets a file of its own, whose name is made of the document's and never is it.
- What is written is read as the loader reads it, and compared, before anything is touched.
- A file is written beside the old one under a name that nobody reads, synced, and renamed over it.
- Nothing outside POLICIES_DIR is ever opened for writing: its directories are walked one by one,
  and none of them, nor the file, may be a link. A ConfigMap mount is made of links.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Final, NamedTuple

from authz.core.policy_file import MAX_FILE, Parsed
from authz.core.policy_set import Policies
from authz.core.policy_text import Key, digests, edited, text_of
from authz.core.timestamps import rfc3339
from authz.stores.parsing import Item

#: Characters of a document's name in its file's.
MAX_SLUG: Final = 64
#: Files whose names would be the same.
MAX_ALIKE: Final = 100
#: A file's mode where there was none; less what the umask takes.
NEW_MODE: Final = 0o644
#: Where the kubelet keeps a ConfigMap's files.
_CONFIG_MAP: Final = "..data"
#: Without O_NONBLOCK, opening a FIFO would wait for its writer.
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
#: What stands in the way of writing for good, and not just now.
_FOR_GOOD: Final = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)


class NotWritable(Exception):
    """The directory or file is not one that can be written here; one sentence."""


class WriteFailed(Exception):
    """It could not be written now, and is as it was; one sentence."""


class Changed(Exception):
    """The file is not what it was a moment ago; one sentence."""


class Found(NamedTuple):
    """A document as a file has it now."""

    #: Below POLICIES_DIR.
    file: PurePosixPath
    #: The whole file, and what it holds.
    data: bytes
    parsed: Parsed
    #: The document's own text.
    text: bytes
    #: The file's permissions.
    mode: int

    @property
    def digest(self) -> str:
        """Names the text, in hexadecimal."""
        return hashlib.sha256(self.text).hexdigest()


class Edit(NamedTuple):
    """What is to become of a file, ready to be done."""

    file: PurePosixPath
    #: What it holds, and what it is to hold; None: there is no such file.
    before: bytes | None
    after: bytes | None
    mode: int
    #: The new content, beside the file; empty where the file goes.
    waiting: str


class PolicyFiles:
    """The files of one directory. One edit at a time."""

    def __init__(self, root: Path, parse: Callable[[Sequence[Item]], Iterator[Parsed]]) -> None:
        """`parse`: as `PolicyDirectory`'s."""
        self._root = root
        self._parse = parse

    def relative(self, file: str) -> PurePosixPath:
        """A file as it is told of: below POLICIES_DIR."""
        return PurePosixPath(Path(file).relative_to(self._root))

    def absolute(self, file: PurePosixPath) -> str:
        """The same as problems and sources name it."""
        return str(self._root / file)

    def told(self, file: str) -> dict[str, str]:
        """Where a document is, and since when, as entries show it; nothing of files elsewhere."""
        if not Path(file).is_relative_to(self._root):
            return {}
        shown = {"file": str(self.relative(file))}
        # Not where it is gone by now, or of no year that can be written.
        with contextlib.suppress(OSError, ValueError, OverflowError):
            shown["updatedAt"] = rfc3339(Path(file).stat().st_mtime)
        return shown

    def find(self, policies: Policies, key: Key, *, to_edit: bool = True) -> Found | None:
        """The document as its file has it now; None where no file is known to have it.

        Args:
            to_edit: it is to be written, so that links are not followed.

        Raises:
            Changed: the file does not have it any more, or is not valid any more.
            NotWritable: there is a link on the way to it, and `to_edit`; or it is no file.
            WriteFailed: it cannot be read.
        """
        source = policies.source(*key)
        if source is None:
            return None
        file = self.relative(source[0].file)
        if source[0].stale:
            raise Changed(
                f"{file} has errors, and its last good version is in force; mend or remove it first"
            )
        try:
            if to_edit:
                with self._directory(file) as directory:
                    data, mode = _read(directory, file)
            else:
                data, mode = _content_of(self._root / file, os.open(self._root / file, _READ))
        except FileNotFoundError:
            raise Changed(f"{file} is gone; ask again") from None
        except OSError as error:
            raise WriteFailed(f"POLICIES_DIR: {file} cannot be read: {error.strerror}") from None
        [parsed] = self._parse([(data, str(file))])
        if key not in digests(parsed):
            raise Changed(f"{file} has changed just now; ask again")
        return Found(file, data, parsed, text_of(data, parsed, key), mode)

    def prepare(self, key: Key, text: bytes, digest: str, found: Found | None) -> Edit:
        """Get ready to put a document in place, or to remove it.

        Args:
            text: the document; empty: it is to go.
            digest: of what it says.
            found: where it is now.

        Raises:
            NotWritable, WriteFailed: nothing was changed.
        """
        if found is None:
            return self._new(key, text)
        said = digests(found.parsed)
        if not text:
            del said[key]
            if len(found.parsed.policies) + len(found.parsed.chain) == 1:
                self._require_writable(found.file)
                return Edit(found.file, found.data, None, found.mode, "")
        else:
            said[key] = digest
        data = edited(found.data, found.parsed, key, text)
        if len(data) > MAX_FILE:
            raise NotWritable(f"{found.file} would be larger than {MAX_FILE} bytes; split it first")
        [parsed] = self._parse([(data, str(found.file))])
        if digests(parsed) != said:
            raise NotWritable(
                f"{found.file} has other documents, and this one cannot be changed alone; edit the"
                " file itself"
            )
        waiting = self._write_beside(found.file, data, found.mode)
        return Edit(found.file, found.data, data, found.mode, waiting)

    def commit(self, edit: Edit) -> None:
        """Do it.

        Raises:
            Changed: somebody else has changed the file meanwhile; it is left as they have it.
            NotWritable, WriteFailed: as `prepare`.
        """
        with self._failing(edit.file), self._directory(edit.file) as directory:
            name = edit.file.name
            if edit.before is not None and _content(directory, edit.file) != edit.before:
                raise Changed(f"{edit.file} has changed just now; ask again")
            if edit.after is None:
                os.unlink(name, dir_fd=directory)
            elif edit.before is None:
                _rename_new(directory, edit.waiting, edit.file)
            else:
                os.replace(edit.waiting, name, src_dir_fd=directory, dst_dir_fd=directory)
            # It is there whatever this says; only a loss of power could take it back now.
            with contextlib.suppress(OSError):
                os.fsync(directory)

    def discard(self, edit: Edit) -> None:
        """Do not do it: nothing of it stays."""
        if not edit.waiting:
            return
        with contextlib.suppress(OSError, NotWritable), self._directory(edit.file) as directory:
            os.unlink(edit.waiting, dir_fd=directory)

    def undo(self, edit: Edit) -> None:
        """Put back what was there before, unless somebody has changed it since.

        Raises:
            Changed, NotWritable, WriteFailed: as `commit`.
        """
        back = edit._replace(before=edit.after, after=edit.before, waiting="")
        if back.after is not None:
            waiting = self._write_beside(edit.file, back.after, edit.mode)
            back = back._replace(waiting=waiting)
        try:
            self.commit(back)
        except BaseException:
            self.discard(back)
            raise

    def _new(self, key: Key, text: bytes) -> Edit:
        slug = re.sub(r"[^a-z0-9]+", "-", key[1].lower())[:MAX_SLUG].strip("-") or "policy"
        with self._failing(PurePosixPath()), self._directory(PurePosixPath(slug)) as directory:
            there = set(os.listdir(directory))  # noqa: PTH208 - of an open directory
        if _CONFIG_MAP in there:
            raise NotWritable(
                "POLICIES_DIR is a mounted ConfigMap; change the policies where it comes from"
            )
        names = [f"{slug}.yaml", *(f"{slug}-{n}.yaml" for n in range(2, MAX_ALIKE))]
        name = next((name for name in names if name not in there), None)
        if name is None:
            raise NotWritable(f"POLICIES_DIR: there is no free name like {slug}.yaml")
        file = PurePosixPath(name)
        if not text.endswith(b"\n"):
            text += b"\n"
        return Edit(file, None, text, NEW_MODE, self._write_beside(file, text, None))

    def _write_beside(self, file: PurePosixPath, data: bytes, mode: int | None) -> str:
        """Write what a file is to hold under a name that no reader of policies looks at."""
        name = f".{file.name[:MAX_SLUG]}.{secrets.token_hex(8)}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._failing(file), self._directory(file) as directory:
            handle = os.open(name, flags, NEW_MODE, dir_fd=directory)
            try:
                with open(handle, "wb") as stream:  # noqa: PTH123 - it is open already
                    if mode is not None:
                        os.fchmod(handle, mode)
                    stream.write(data)
                    stream.flush()
                    os.fsync(handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=directory)
                raise
        return name

    def _require_writable(self, file: PurePosixPath) -> None:
        with self._failing(file), self._directory(file) as directory:
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=directory):
                raise NotWritable(_not_writable(file, "it may not be written"))

    @contextlib.contextmanager
    def _directory(self, file: PurePosixPath) -> Iterator[int]:
        """The directory that a file is in, open.

        Raises:
            NotWritable: a directory on the way is a link.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        handle = os.open(self._root, flags)
        try:
            for part in file.parent.parts:
                try:
                    inner = os.open(part, flags | os.O_NOFOLLOW, dir_fd=handle)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise NotWritable(_is_link(file)) from None
                    raise
                os.close(handle)
                handle = inner
            yield handle
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _failing(self, file: PurePosixPath) -> Iterator[None]:
        """Around writing: what the system says as one of our sentences."""
        try:
            yield
        except OSError as error:
            said = error.strerror or type(error).__name__
            if error.errno in _FOR_GOOD:
                raise NotWritable(_not_writable(file, said)) from None
            where = f"{file}: " if file.name else ""
            raise WriteFailed(f"POLICIES_DIR: {where}not written: {said}") from None


def _read(directory: int, file: PurePosixPath) -> tuple[bytes, int]:
    """A file's content and permissions.

    Raises:
        NotWritable: it is a link, or no file.
        OSError: it cannot be read.
    """
    try:
        handle = os.open(file.name, _READ | os.O_NOFOLLOW, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotWritable(_is_link(file)) from None
        raise
    return _content_of(file, handle)


def _content_of(file: PurePath, handle: int) -> tuple[bytes, int]:
    with open(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise NotWritable(f"{file} is no regular file")
        return stream.read(MAX_FILE + 1), stat.S_IMODE(status.st_mode)


def _content(directory: int, file: PurePosixPath) -> bytes | None:
    try:
        return _read(directory, file)[0]
    except FileNotFoundError:
        return None


def _rename_new(directory: int, waiting: str, file: PurePosixPath) -> None:
    """Give a new file its name, unless there is one of that name by now."""
    try:
        # A rename would replace whatever has come there.
        os.link(waiting, file.name, src_dir_fd=directory, dst_dir_fd=directory)
    except FileExistsError:
        raise Changed(f"{file} is there now; ask again") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without hard links.
        if _content(directory, file) is not None:
            raise Changed(f"{file} is there now; ask again") from None
        os.replace(waiting, file.name, src_dir_fd=directory, dst_dir_fd=directory)
        return
    os.unlink(waiting, dir_fd=directory)


def _is_link(file: PurePosixPath) -> str:
    return (
        f"{file} is reached by a link, as in a mounted ConfigMap; change it where the link leads to"
    )


def _not_writable(file: PurePosixPath, said: str) -> str:
    where = f", for {file}" if file.name else ""
    return (
        f"POLICIES_DIR cannot be written{where}: {said}; change the policies where they come from"
    )
