"""`GET /admin/policies/bundle`: all policies as one archive, for other sidecars (CONTRACT §1.3).

- Where the policies come from a bundle it is that one, byte for byte as it was verified, with its
  signature: whoever takes it verifies it anew. A pin here is no business of those.
- Else it is made of what is in force, a version that is pinned included. It has no signature, and
  the same policies have the same bytes and so the same `ETag`.
- A download that has broken off is gone on with: one range up to the end, of the very bytes that it
  began with (RFC 9110 §13.1.5, §14.2). Whatever else is asked for gets the whole.
- Files stand at the archive's root, so that `tar xzf … -C /policies/` puts them where they belong.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from fastapi import APIRouter, Depends, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from authz.edges.http.admin import PREFIX
from authz.edges.http.answers import names
from authz.edges.http.credentials import AdminToken
from authz.edges.http.documents import busy
from authz.edges.http.queries import known
from authz.edges.threads import in_thread
from authz.stores.pace import Pace
from authz.stores.policies import Loaded
from authz.stores.version_log import Corrupt
from authz.stores.versions import UnknownVersion, Versions

#: The content type of the archive (RFC 6713), and of a signature file.
GZIP: Final = "application/gzip"
TEXT: Final = "text/plain"
VERSION_HEADER: Final = "x-meshguard-bundle-version"
SIGNATURE_HEADER: Final = "x-meshguard-bundle-signature"
#: Characters of a signature that go into a header: one of base64 has a hundred.
MAX_IN_HEADER: Final = 1024


#: The one range that whoever was cut off asks for.
_REST: Final = re.compile(r"bytes=([0-9]{1,12})-")

#: When the files of an archive that is made here are from: 1980, the earliest that no program
#: complains of. Their own times differ where the policies do not, and so would the `ETag`.
CREATED: Final = 315_532_800


class Served(NamedTuple):
    """An archive, ready to be sent."""

    data: bytes
    #: SHA-256 of it, hexadecimal.
    digest: str
    #: The bundle's own; where it has none, that of the policies.
    version: str
    #: The content of its signature file.
    signature: bytes | None


def router(
    admin: AdminToken, versions: Versions, loaded: Callable[[], Loaded], root: Path
) -> APIRouter:
    """The routes; none without a token. They stand before those of single policies.

    Args:
        loaded: what was read last.
        root: POLICIES_DIR.
    """
    routes = APIRouter(
        prefix=f"{PREFIX}/policies", dependencies=[Depends(admin.required), Depends(known)]
    )
    if not admin:
        return routes
    handlers = _Bundle(versions, loaded, root)
    routes.get("/bundle")(handlers.archive)
    routes.head("/bundle", include_in_schema=False)(handlers.archive)
    routes.get("/bundle.sig")(handlers.signature)
    routes.get("/bundle/bundle.sig", include_in_schema=False)(handlers.signature)
    return routes


class _Bundle:
    """The handlers."""

    def __init__(self, versions: Versions, loaded: Callable[[], Loaded], root: Path) -> None:
        self._versions = versions
        self._loaded = loaded
        self._root = root
        #: What was made last, of which reading and which version in force.
        self._made: tuple[Loaded, str, Served] | None = None
        self._turn = asyncio.Lock()

    async def archive(self, request: Request) -> Response:
        served = await self._served()
        tag = f'"{served.digest}"'
        headers = {
            "etag": tag,
            "accept-ranges": "bytes",
            "cache-control": "no-cache",
            "content-disposition": 'attachment; filename="policies.tar.gz"',
            VERSION_HEADER: served.version,
        }
        signature = _one_line(served.signature)
        if signature:
            headers[SIGNATURE_HEADER] = signature
        if names(",".join(request.headers.getlist("if-none-match")), tag):
            return Response(status_code=304, headers=headers)
        begin, size = _rest(request, tag), len(served.data)
        if not 0 < begin < size:
            return Response(served.data, media_type=GZIP, headers=headers)
        headers["content-range"] = f"bytes {begin}-{size - 1}/{size}"
        return Response(served.data[begin:], 206, media_type=GZIP, headers=headers)

    async def signature(self) -> Response:
        state = self._loaded().bundle
        if state is None:
            raise HTTPException(404, "the policies come from a directory, which nobody has signed")
        if state.taken is None or state.taken.signature is None:
            raise HTTPException(404, "the bundle has no signature")
        headers = {"cache-control": "no-cache"}
        return Response(state.taken.signature, media_type=TEXT, headers=headers)

    async def _served(self) -> Served:
        loaded = self._loaded()
        if loaded.bundle is not None:
            taken = loaded.bundle.taken
            if taken is None:
                raise busy("no bundle was taken yet; /health says why")
            version = str(taken.version) if taken.version else loaded.snapshot.version
            return Served(taken.data, taken.digest, version, taken.signature)
        # One at a time: whoever comes meanwhile has what the first one makes.
        async with self._turn:
            loaded, current = self._loaded(), self._versions.current
            made = self._made
            if (
                made is not None
                and made[0].policies is loaded.policies
                and made[1] == current.version
            ):
                return made[2]
            if not current.policies and not current.chain:
                raise busy("no policies are in force; /health says why")
            served = await self._build(loaded, current.version)
            self._made = (loaded, current.version, served)
            return served

    async def _build(self, loaded: Loaded, version: str) -> Served:
        # Only here: most sidecars are never asked for it.
        from authz.bundles.build import build_plain  # noqa: PLC0415
        from authz.bundles.errors import BundleError  # noqa: PLC0415
        from authz.stores.bundle_archive import files_for, files_of  # noqa: PLC0415

        def work() -> bytes:
            pace = Pace()
            if version == loaded.snapshot.version:
                files = files_of(loaded, self._root, pace)
            else:
                files = files_for(self._versions.said(version, pace)[1], pace)
            return build_plain(files, created=CREATED)

        try:
            data = await in_thread(work)
        except BundleError as error:
            raise HTTPException(409, f"the policies do not fit into a bundle: {error}") from None
        except (Corrupt, UnknownVersion):
            raise busy("the policies have changed just now; ask again") from None
        return Served(data, hashlib.sha256(data).hexdigest(), version, None)


def _rest(request: Request, tag: str) -> int:
    """From where on a download is to go on; 0: from its beginning."""
    said = _REST.fullmatch(request.headers.get("range", ""))
    # Without the tag nobody knows whether what has come is of these bytes.
    if said is None or request.method != "GET" or request.headers.get("if-range") != tag:
        return 0
    return int(said[1])


def _one_line(signature: bytes | None) -> str:
    """A signature that fits into a header as it is: one of base64; empty for every other."""
    if signature is None:
        return ""
    text = signature.strip()
    if not text or len(text) > MAX_IN_HEADER:
        return ""
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        return ""
    return text.decode("ascii")
