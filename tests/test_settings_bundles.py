"""The settings of a signed bundle: names of old, paths, and what cannot be together."""

from pathlib import Path

import pytest

from authz.settings import Settings, SettingsError
from authz.settings.bundles import floor_of, signature_of

BASE = {"JWT_SECRET": "s" * 32, "AUTHZ_RUN_DIR": "/"}
SYNC = {"SYNC_URL": "https://control.example", "SYNC_TOKEN": "t" * 16}


def test_the_signature_and_the_floor_lie_beside_what_they_are_of() -> None:
    given = {"POLICY_BUNDLE": "/b/p.tar.gz", "AUDIT_DB_PATH": "/data/audit.db"}
    settings = Settings.from_env({**BASE, **given})
    assert signature_of(settings) == Path("/b/p.tar.gz.sig")
    assert floor_of(settings) == Path("/data/audit.db.bundle-floor")
    named = {"POLICY_BUNDLE_SIGNATURE": "/s", "POLICY_BUNDLE_FLOOR_FILE": "/f"}
    settings = Settings.from_env({**BASE, **given, **named})
    assert (signature_of(settings), floor_of(settings)) == (Path("/s"), Path("/f"))


def test_the_contracts_names_mean_the_same() -> None:
    given = {"POLICY_BUNDLE": "/b", "POLICY_BUNDLE_SIG": "/s", "POLICY_BUNDLE_KEY": "/a.pub, /keys"}
    settings = Settings.from_env({**BASE, **given})
    assert settings.policy_bundle_signature == Path("/s")
    assert settings.policy_bundle_keys == (Path("/a.pub"), Path("/keys"))


def test_what_is_synchronised_into_a_directory_is_verified_by_the_keys() -> None:
    settings = Settings.from_env({**BASE, **SYNC, "POLICY_BUNDLE_KEYS": "/k"})
    assert settings.policy_bundle_keys == (Path("/k"),)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"REQUIRE_SIGNED_POLICIES": "true"},
         "REQUIRE_SIGNED_POLICIES: the files of a POLICIES_DIR are not signed; set POLICY_BUNDLE"
         " and POLICY_BUNDLE_KEYS"),
        ({"REQUIRE_SIGNED_POLICIES": "true", "POLICY_BUNDLE": "/b"},
         "REQUIRE_SIGNED_POLICIES: there is no key to verify with; set POLICY_BUNDLE_KEYS to the"
         " public key (cosign.pub)"),
        ({"REQUIRE_SIGNED_POLICIES": "yes"}, "REQUIRE_SIGNED_POLICIES: must be true or false"),
        ({"POLICY_BUNDLE_KEYS": "/k"}, "POLICY_BUNDLE_KEYS: has no effect without POLICY_BUNDLE"),
        ({**SYNC, "SYNC_PULL": "false", "POLICY_BUNDLE_KEYS": "/k"},
         "POLICY_BUNDLE_KEYS: has no effect without POLICY_BUNDLE"),
        ({**SYNC, "POLICY_BUNDLE_SIGNATURE": "/s"},
         "POLICY_BUNDLE_SIGNATURE: has no effect without POLICY_BUNDLE"),
        ({**SYNC, "POLICY_BUNDLE_FLOOR_FILE": "/f"},
         "POLICY_BUNDLE_FLOOR_FILE: has no effect without POLICY_BUNDLE"),
        ({"POLICY_BUNDLE": "/b", "POLICY_BUNDLE_KEYS": ","},
         "POLICY_BUNDLE_KEYS: must name 1 to 16 files or directories, with commas"),
        ({"POLICY_BUNDLE": "/b", "POLICY_BUNDLE_SIGNATURE": "/x/../b"},
         "POLICY_BUNDLE_SIGNATURE: must differ from POLICY_BUNDLE"),
        ({"POLICY_BUNDLE": "/b", "POLICY_BUNDLE_FLOOR_FILE": "/a", "AUDIT_DB_PATH": "/a"},
         "POLICY_BUNDLE_FLOOR_FILE: must differ from AUDIT_DB_PATH"),
    ],
)  # fmt: skip
def test_what_cannot_be(given: dict[str, str], problem: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_env({**BASE, **given})
    assert raised.value.problems == [problem]
