"""Fetching a bundle: bounded, resumed where it broke off, and whole before anybody looks at it.

- What has come is kept in the state directory with its entity tag, also for the next turn and the
  next process. It is gone on with (Range and If-Range, RFC 9110 §13.1.5, §14.2) where the tag is a
  strong one and the other side can, and is begun anew otherwise.
- Nothing here is believed to be a bundle: that is for `authz.bundles.accept`. What is plainly none,
  an HTML page for instance, is told as what it is.
"""

import json
import re
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import httpx

from authz.bundles.archive import MAX_BUNDLE
from authz.stores.files import replace
from authz.sync.client import ControlPlane
from authz.sync.errors import Cause, SyncFailed
from authz.sync.state import writing

PATH: Final = "/admin/policies/bundle"
SIGNATURE_PATH: Final = "/admin/policies/bundle.sig"
#: The signature of these very bytes, in their own answer: base64, one line.
SIGNATURE_HEADER: Final = "x-meshguard-bundle-signature"
#: How often a turn goes on with what has broken off, as long as something more comes each time.
CONTINUATIONS: Final = 8
#: What every gzip'ed file begins with (RFC 1952 §2.3.1).
_GZIP: Final = b"\x1f\x8b"
#: Media types that a bundle may come as: what servers of files say of one, or nothing at all.
_TYPES: Final = (
    "", "application/gzip", "application/x-gzip", "application/octet-stream", "application/x-tar",
    "application/x-gtar", "application/x-compressed-tar", "binary/octet-stream",
    "application/vnd.oci.image.layer.v1.tar+gzip",
)  # fmt: skip
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,12})-([0-9]{1,12})/([0-9]{1,12}|\*)")
#: A strong entity tag (RFC 9110 §8.8.3), of a length that is worth keeping.
_STRONG: Final = re.compile(r'"[\x21\x23-\x7e]{1,200}"')


class Fetched(NamedTuple):
    """A download that is whole."""

    data: bytes
    #: As it was sent; empty where it was not, or is a weak one.
    etag: str
    #: What came with it, one line; empty where nothing did.
    signature: str


class Download:
    """What has come of a bundle so far, on disk."""

    def __init__(self, directory: Path, url: str) -> None:
        self.part: Final = directory / "download.part"
        self._about: Final = directory / "download.json"
        self._url: Final = url
        self.etag = ""
        self.signature = ""
        self.size = 0
        self._recall()

    def _recall(self) -> None:
        try:
            about = json.loads(self._about.read_bytes()[:4096])
            size = self.part.stat().st_size
        except (OSError, ValueError, RecursionError):
            return
        if not isinstance(about, dict) or about.get("url") != self._url:
            return
        etag, signature = about.get("etag"), about.get("signature")
        if isinstance(etag, str) and _STRONG.fullmatch(etag) and isinstance(signature, str):
            self.etag, self.signature, self.size = etag, signature, min(size, MAX_BUNDLE)

    def begin(self, answer: httpx.Response) -> BinaryIO:
        """Where a new one is written.

        Raises:
            OSError: it cannot be.
        """
        self.etag = strong(answer.headers.get("etag"))
        self.signature = answer.headers.get(SIGNATURE_HEADER, "").strip()[:2048]
        self.size = 0
        stream = self.part.open("wb")
        about = {"url": self._url, "etag": self.etag, "signature": self.signature}
        replace(self._about, json.dumps(about).encode(), 0o600)
        return stream

    def go_on(self) -> BinaryIO:
        """Where more of it is written.

        Raises:
            OSError: it cannot be.
        """
        stream = self.part.open("r+b")
        stream.truncate(self.size)
        stream.seek(self.size)
        return stream

    def forget(self) -> None:
        """Nothing has come."""
        self.etag, self.signature, self.size = "", "", 0
        for path in (self._about, self.part):
            with writing("SYNC_STATE_DIR", path):
                path.unlink(missing_ok=True)

    def whole(self) -> Fetched:
        """All of it.

        Raises:
            OSError: it cannot be read.
        """
        return Fetched(self.part.read_bytes()[: self.size], self.etag, self.signature)


def strong(etag: object) -> str:
    """An entity tag that can be sent as it is; empty where it is none."""
    return etag if isinstance(etag, str) and _STRONG.fullmatch(etag) else ""


def fetch(there: ControlPlane, directory: Path, known: str) -> Fetched | None:
    """The bundle; None: it is the one that is known.

    Args:
        directory: of the state.
        known: the entity tag of the one that is in place; empty where there is none.

    Raises:
        SyncFailed: it has not come whole; what has come is kept.
    """
    download = Download(directory, there.name)
    for _ in range(CONTINUATIONS):
        had = download.size
        headers = {"accept": "application/gzip, application/octet-stream;q=0.9, */*;q=0.1"}
        if download.size and download.etag:
            headers |= {"range": f"bytes={download.size}-", "if-range": download.etag}
        elif known:
            headers["if-none-match"] = known
        try:
            with there.get(PATH, headers) as answer:
                if answer.status_code == 304 and "if-none-match" in headers:
                    return None
                if answer.status_code == 416 and had:
                    # Shorter than what has come, so it is another one by now.
                    download.forget()
                    continue
                _receive(there, answer, download)
        except SyncFailed as failure:
            if failure.cause is not Cause.BROKEN_OFF or download.size <= had:
                raise
            continue
        with writing("SYNC_STATE_DIR", directory):
            found = download.whole()
        download.forget()
        return found
    raise there.broken_off()


def _receive(there: ControlPlane, answer: httpx.Response, download: Download) -> None:
    """Take what comes, up to its end."""
    resumed = answer.status_code == 206
    if resumed:
        total = _resumable(there, answer, download)
    elif answer.status_code == 200:
        total = _announced(answer)
    else:
        raise there.refusal(answer, PATH)
    _require_bundle(there, answer)
    if total is not None and total > MAX_BUNDLE:
        raise _too_large(there)
    with writing("SYNC_STATE_DIR", download.part):
        stream = download.go_on() if resumed else download.begin(answer)
    with stream:
        for piece in answer.iter_raw():
            if not download.size and not piece.startswith(_GZIP[: len(piece)]):
                download.size = 0
                raise there.nonsense(answer, "gzip'ed archive")
            if download.size + len(piece) > MAX_BUNDLE:
                raise _too_large(there)
            with writing("SYNC_STATE_DIR", download.part):
                stream.write(piece)
                # What is not on the disk is not there when this is killed, and a full one tells.
                stream.flush()
            download.size += len(piece)
    if total is not None and download.size != total:
        raise there.broken_off()


def _require_bundle(there: ControlPlane, answer: httpx.Response) -> None:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise there.nonsense(answer, "gzip'ed archive")
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    # Some servers of files call a .tar.gz that: its bytes are what was signed all the same.
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise there.nonsense(answer, "plain bytes: it compresses them, which was not asked for")


def _announced(answer: httpx.Response) -> int | None:
    said = answer.headers.get("content-length", "")
    return int(said) if re.fullmatch(r"[0-9]{1,15}", said) else None


def _resumable(there: ControlPlane, answer: httpx.Response, download: Download) -> int | None:
    """The whole size, where the answer goes on where we are; else it is begun anew next time."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    etag = answer.headers.get("etag", download.etag)
    if match is None or int(match[1]) != download.size or etag != download.etag:
        download.forget()
        raise there.nonsense(answer, "range that was asked for")
    return None if match[3] == "*" else int(match[3])


def _too_large(there: ControlPlane) -> SyncFailed:
    return SyncFailed(
        Cause.BUNDLE,
        f"{there.name} sends a bundle of over {MAX_BUNDLE >> 20} MiB, which no bundle may have",
    )
