"""A bundle as `/health` tells of it."""

from typing import TYPE_CHECKING, Any

from authz.core.timestamps import rfc3339

if TYPE_CHECKING:
    from authz.stores.bundles import BundleState


def bundle_entry(state: "BundleState", now: float) -> dict[str, Any]:
    """What was taken last, and what is wrong with it or with what came after it.

    Args:
        now: seconds since the epoch; `ageSeconds` is from `created` to it.
    """
    entry: dict[str, Any] = {}
    taken = state.taken
    if taken is not None:
        entry = {"digest": taken.digest, "signed": bool(taken.key_id)}
        if taken.version is not None and taken.created is not None:
            entry |= {
                "version": taken.version,
                "revision": taken.revision,
                "created": rfc3339(taken.created),
                "ageSeconds": round(max(0.0, now - taken.created), 3),
            }
        if taken.not_after is not None:
            entry["notAfter"] = rfc3339(taken.not_after)
        if taken.key_id:
            entry["keyId"] = taken.key_id
    problem = "; ".join(bundle_problems(state))
    return {**entry, "problem": problem} if problem else entry


def bundle_problems(state: "BundleState | None") -> list[str]:
    """Its problems, each one sentence."""
    return [said for said in (state.problem, state.expired) if said] if state is not None else []
