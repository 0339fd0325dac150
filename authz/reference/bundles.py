"""All policies as one archive (`edges/http/bundle.py`)."""

from typing import Final

from authz.edges.http.bundle import GZIP, TEXT
from authz.reference.operation import Operation
from authz.reference.policies import NOT_MODIFIED

_HEADERS: Final = {
    "ETag": "The archive's SHA-256; send it as `If-None-Match`: 304 while nothing has changed.",
    "X-MeshGuard-Bundle-Version": "The bundle's; that of the policies where it has none.",
    "X-MeshGuard-Bundle-Signature": "What `bundle.sig` says, where that is one line of base64.",
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/policies/bundle",
        "getPolicyBundle",
        "All policies as one archive",
        "Policies",
        None,
        media={GZIP: "a tar archive, gzip'ed, with the files at its root"},
        headers=_HEADERS,
        in_parts=True,
        others=NOT_MODIFIED,
        errors=(400, 401, 409, 503),
        refuses={409: "the policies do not fit into a bundle: the bundle is larger than 8388608"},
        text="POLICY_BUNDLE as it was verified; else what is in force of POLICIES_DIR, which nobody"
        " has signed. A download that broke off goes on with `Range: bytes=N-` and its `ETag` as"
        " `If-Range`.",
    ),
    Operation(
        "GET",
        "/admin/policies/bundle.sig",
        "getPolicyBundleSignature",
        "The signature of that archive",
        "Policies",
        None,
        media={TEXT: "MEUCIQDq1yVvQkV0n2E0bq0oM4s9kXbqv5rA3b6l1h1m8m3w8wIgZb1mH0n0"},
        errors=(400, 401, 404),
        refuses={404: "the policies come from a directory, which nobody has signed"},
        text="The file that came with it, as `cosign verify-blob --signature` and"
        " `authz bundle verify` take it. Also at `/admin/policies/bundle/bundle.sig`.",
    ),
)
