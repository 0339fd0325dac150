"""Whether policies are known to come from who may make them, and to be the newest of them."""

import time
from collections.abc import Iterator
from typing import Any, Final

from authz.cli.doctor.facts import Facts
from authz.cli.doctor.finding import Finding, failed, passed, skipped, warned
from authz.core.timestamps import seconds_of

#: Days before `notAfter` from which a bundle should be built anew.
SOON_DAYS: Final = 7
_DAY_S: Final = 86_400
#: Digits of a key's id that tell it from others here.
_SHORT: Final = 16


def bundles(facts: Facts) -> Iterator[Finding]:
    """The bundle that is in force, by what `/health` says."""
    bundle = facts.said.get("bundle")
    if not isinstance(bundle, dict):
        yield warned(
            "policies are read from a directory, and nobody has signed them",
            "build and sign a bundle (`authz bundle build`, `authz bundle sign`), and set"
            " POLICY_BUNDLE, POLICY_BUNDLE_KEYS and REQUIRE_SIGNED_POLICIES=true; or verify it in"
            " an init container and mount what it extracts read-only",
        )
        return
    if bundle.get("problem"):
        yield failed(str(bundle["problem"]), "put a bundle there that can be taken")
    if bundle.get("digest"):
        yield _signed(bundle)
        yield from _aged(bundle)
    yield _required(facts)


def _signed(bundle: dict[str, Any]) -> Finding:
    if not bundle.get("signed"):
        return failed(
            "the bundle in force is not verified: there is no key to verify it with",
            "set POLICY_BUNDLE_KEYS to the public key (cosign.pub)",
        )
    return passed(f"the bundle is signed by key {str(bundle.get('keyId', ''))[:_SHORT]}")


def _aged(bundle: dict[str, Any]) -> Iterator[Finding]:
    if "version" not in bundle:
        yield warned(
            "the bundle has no version, so an older one that was signed is taken as well",
            "build it with `authz bundle build --version N`",
        )
        return
    age = float(bundle.get("ageSeconds", 0)) / _DAY_S
    yield passed(f"it is version {bundle['version']}, {age:.1f} days old; none older is taken")
    try:
        left = (seconds_of(str(bundle["notAfter"])) - time.time()) / _DAY_S
    except (KeyError, ValueError):
        return
    if 0 < left < SOON_DAYS:
        yield warned(
            f"it is to be used for {left:.1f} days more",
            "build a new one: a sidecar that starts after that does not take it",
        )


def _required(facts: Facts) -> Finding:
    if facts.inside is None:
        return skipped()
    if facts.inside.require_signed:
        return passed("policies that nobody has signed are refused (REQUIRE_SIGNED_POLICIES)")
    return warned(
        "REQUIRE_SIGNED_POLICIES is not set: without POLICY_BUNDLE it would start with a directory",
        "set it to true",
    )
