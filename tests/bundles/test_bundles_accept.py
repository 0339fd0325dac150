"""Whether a bundle is taken: the signature first, then its times, then the floor."""

from typing import Any, Final

import pytest

from authz.bundles import accept as accepting
from authz.bundles.accept import LEEWAY_S, Accepted, Floor, accept
from authz.bundles.build import build, build_plain
from authz.bundles.errors import BundleError, Reason
from authz.bundles.signing import signature_of
from tests.bundles.keys import private, public

NOW: Final = 1_780_000_000
FILES: Final = {"a.yaml": b"name: a\n"}
KEYS: Final = public(private())


def taken(data: bytes, **changes: Any) -> Accepted:
    said: dict[str, Any] = {
        "signature": signature_of(data, private()),
        "keys": KEYS,
        "now": NOW,
        "floor": None,
        "require_signed": True,
    }
    said |= changes
    return accept(data, said.pop("signature"), said.pop("keys"), **said)


def refusal(data: bytes, reason: Reason, **changes: Any) -> str:
    with pytest.raises(BundleError) as caught:
        taken(data, **changes)
    assert caught.value.reason is reason
    return str(caught.value)


def versioned(version: int, **said: Any) -> bytes:
    return build(FILES, version=version, created=NOW, **said)


def test_a_signed_bundle_is_taken_and_raises_the_floor() -> None:
    accepted = taken(versioned(3))
    assert accepted.contents.files == FILES
    assert accepted.key_id == private().key_id
    assert accepted.floor == Floor(3, accepted.digest)
    assert accepted.warnings == ()
    # The same again, and any later one.
    assert taken(versioned(3), floor=accepted.floor) == accepted
    assert taken(versioned(4), floor=accepted.floor).floor == Floor(4, taken(versioned(4)).digest)


def test_an_older_one_is_refused_though_its_signature_is_right() -> None:
    floor = taken(versioned(3)).floor
    assert "has version 2, and version 3 was taken" in refusal(
        versioned(2), Reason.FLOOR, floor=floor
    )
    said = refusal(versioned(3, revision="other"), Reason.FLOOR, floor=floor)
    assert "another bundle of version 3 was taken before" in said


def test_one_without_a_manifest_is_taken_until_one_with_was() -> None:
    plain = build_plain(FILES, created=NOW)
    accepted = taken(plain)
    assert accepted.floor is None
    assert "no manifest" in accepted.warnings[0]
    said = refusal(plain, Reason.NO_MANIFEST, floor=taken(versioned(1)).floor)
    assert "`authz bundle build`" in said


def test_its_times_are_held_against_the_clock() -> None:
    data = versioned(1, not_after=NOW + 60)
    taken(data, now=NOW - LEEWAY_S)
    taken(data, now=NOW + 60)
    assert "the clock here says 2026-05-28T20:21:39" in refusal(
        data, Reason.CREATED, now=NOW - LEEWAY_S - 1
    )
    assert "was to be used until 2026-05-28T20:27:40" in refusal(
        data, Reason.EXPIRED, now=NOW + 60.5
    )


def test_the_signature_comes_before_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(data: bytes) -> None:
        raise AssertionError("unpacked before it was verified")

    monkeypatch.setattr(accepting, "unpack", never)
    data = versioned(1)
    refusal(data, Reason.SIGNATURE, signature=signature_of(data, private(number=1)))
    refusal(data[:-1], Reason.SIGNATURE, signature=signature_of(data, private()))
    assert "has no signature" in refusal(data, Reason.UNSIGNED, signature=None)
    refusal(data, Reason.UNSIGNED, signature=None, require_signed=False)
    assert "no public key" in refusal(data, Reason.UNSIGNED, keys=None)
    refusal(bytes((8 << 20) + 1), Reason.SIZE, signature=b"")


def test_what_is_signed_is_checked_all_the_same() -> None:
    refusal(b"<html>", Reason.ARCHIVE)


def test_without_keys_nothing_is_verified_and_that_is_said() -> None:
    for signature, why in ((None, "there is no signature"), (b"x", "no key to verify with")):
        accepted = taken(versioned(1), keys=None, signature=signature, require_signed=False)
        assert accepted.key_id is None
        assert why in accepted.warnings[0]
        # The floor holds for it as well.
        assert accepted.floor is not None
