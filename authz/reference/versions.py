"""Which policies were in force when, and the way back (`edges/http/admin.py`)."""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.edges.http.admin import VersionName, VersionToPin
from authz.reference.operation import CLOSED, NO_VERSION, Operation, Time
from authz.reference.policies import ETAG, NOT_MODIFIED, POLICY, PolicyEntry


@with_config(CLOSED)
class PolicyName(TypedDict):
    """A policy of a version, or another document, which has a kind."""

    kind: NotRequired[str]
    name: str
    version: NotRequired[str]


@with_config(CLOSED)
class Version(TypedDict):
    """Policies that were in force together."""

    version: str
    sha256: str
    activatedAt: Time
    deactivatedAt: NotRequired[Time]
    why: Literal["start", "reload", "rollback", "pin", "release", "resume"]
    pinned: bool
    kept: Annotated[bool, Field(description="Whether it can be rolled back to.")]
    policies: list[PolicyName]


@with_config(CLOSED)
class Versions(TypedDict):
    """Versions, the newest first."""

    current: str
    pinned: Annotated[bool, Field(description="Whether it stays in force whatever the files say.")]
    versions: list[Version]
    next: NotRequired[str]


@with_config(CLOSED)
class VersionSaid(TypedDict):
    """What a version says."""

    version: str
    sha256: str
    active: Annotated[bool, Field(description="It is in force.")]
    policies: list[PolicyEntry]
    documents: NotRequired[list[dict[str, Any]]]
    next: NotRequired[str]


@with_config(CLOSED)
class InForce(TypedDict):
    """What is in force now."""

    version: str
    pinned: bool


_SHA256: Final = "2f1c9d0a77b3e8453d1b6f0c52e9a8b7c4d5e6f708192a3b4c5d6e7f8091a2b3"
_VERSION: Final = _SHA256[:16]
_UNREADABLE: Final = f"the policies recorded as version {_VERSION} cannot be read"

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/policies/versions",
        "listPolicyVersions",
        "List what was in force, and when",
        "Policies",
        Versions,
        {
            "current": _VERSION,
            "pinned": False,
            "versions": [
                {
                    "version": _VERSION,
                    "sha256": _SHA256,
                    "activatedAt": "2026-01-31T12:00:00.000000Z",
                    "why": "reload",
                    "pinned": False,
                    "kept": True,
                    "policies": [{"name": "payments", "version": "1.2.0"}],
                }
            ],
        },
        asks={
            "at": "The one that was in force then (RFC 3339; UTC where no offset is given).",
            "after": "`next` of the page before.",
            "limit": "How many.",
        },
        headers=ETAG,
        others=NOT_MODIFIED,
    ),
    Operation(
        "GET",
        "/admin/policies/versions/{version}",
        "getPolicyVersion",
        "Show the documents of a version",
        "Policies",
        VersionSaid,
        {
            "version": _VERSION,
            "sha256": _SHA256,
            "active": True,
            "policies": [POLICY],
            "documents": [],
        },
        asks={"after": "`next` of the page before.", "limit": "How many policies."},
        headers=ETAG,
        others=NOT_MODIFIED,
        errors=(400, 401, 404, 409),
        refuses={409: _UNREADABLE},
    ),
    Operation(
        "POST",
        "/admin/policies/pin",
        "pinPolicies",
        "Keep what is in force, or a version, whatever the files say",
        "Policies",
        InForce,
        {"version": _VERSION, "pinned": True},
        body=VersionToPin,
        body_optional=True,
        asked={"version": _VERSION},
        errors=(401, 404, 409),
        refuses={404: NO_VERSION, 409: _UNREADABLE},
    ),
    Operation(
        "POST",
        "/admin/policies/unpin",
        "unpinPolicies",
        "Follow the files again",
        "Policies",
        InForce,
        {"version": _VERSION, "pinned": False},
        errors=(401, 409),
        refuses={409: "nothing is pinned"},
    ),
    Operation(
        "POST",
        "/admin/policies/rollback",
        "rollBackPolicies",
        "Go back to a version, and stay there",
        "Policies",
        InForce,
        {"version": _VERSION, "pinned": True},
        body=VersionName,
        asked={"version": _VERSION},
        errors=(401, 404, 409),
        refuses={404: NO_VERSION, 409: _UNREADABLE},
    ),
    Operation(
        "POST",
        "/admin/policies/release",
        "releasePolicies",
        "Follow the files again (as unpin)",
        "Policies",
        InForce,
        {"version": _VERSION, "pinned": False},
        errors=(401, 409),
        refuses={409: "nothing is pinned"},
    ),
)
