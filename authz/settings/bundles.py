"""A signed bundle of policies in the place of POLICIES_DIR: where it is, and whose it must be."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AliasChoices, BeforeValidator, Field

from authz.settings import checks
from authz.settings.group import Group

if TYPE_CHECKING:
    from authz.settings.model import Settings

#: Files and directories that POLICY_BUNDLE_KEYS may name: a few keys, and those that follow them.
MAX_KEY_PATHS: Final = 16


def _paths(value: object) -> object:
    if not isinstance(value, str):
        return value
    words = [word.strip() for word in value.split(",") if word.strip()]
    if not 0 < len(words) <= MAX_KEY_PATHS:
        raise ValueError(f"must name 1 to {MAX_KEY_PATHS} files or directories, with commas")
    return tuple(Path(word) for word in words)


class Bundles(Group):
    """The bundle, its signature, the keys, and what was accepted last."""

    policy_bundle: Path | None = Field(
        None,
        alias="POLICY_BUNDLE",
        description="tar.gz of policy files that counts instead of POLICIES_DIR, read at start and"
        " whenever it changes",
    )
    policy_bundle_signature: Path | None = Field(
        None,
        validation_alias=AliasChoices("POLICY_BUNDLE_SIGNATURE", "POLICY_BUNDLE_SIG"),
        description="its signature, as `authz bundle sign` and `cosign sign-blob` make it;"
        " POLICY_BUNDLE with `.sig` appended when unset",
    )
    policy_bundle_keys: Annotated[tuple[Path, ...], BeforeValidator(_paths)] = Field(
        (),
        validation_alias=AliasChoices("POLICY_BUNDLE_KEYS", "POLICY_BUNDLE_KEY"),
        description="PEM public keys that may sign it: files, or directories of `*.pem` and"
        " `*.pub`, with commas between them; a bundle that none of them has signed is refused",
    )
    require_signed_policies: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
        False,
        alias="REQUIRE_SIGNED_POLICIES",
        description="refuse to start without a POLICY_BUNDLE and POLICY_BUNDLE_KEYS",
    )
    policy_bundle_floor_file: Path | None = Field(
        None,
        alias="POLICY_BUNDLE_FLOOR_FILE",
        description="where the newest version that was accepted is kept, so that no older one is;"
        " AUDIT_DB_PATH with `.bundle-floor` appended when unset",
    )


def bundle_problems(settings: "Settings") -> list[str]:
    """What is wrong with these together."""
    given = {
        "POLICY_BUNDLE_SIGNATURE": settings.policy_bundle_signature is not None,
        "POLICY_BUNDLE_FLOOR_FILE": settings.policy_bundle_floor_file is not None,
        "POLICY_BUNDLE_KEYS": bool(settings.policy_bundle_keys),
    }
    problems = []
    if settings.policy_bundle is None:
        if settings.sync_url is not None and settings.sync_pull:
            # What is synchronised into POLICIES_DIR is verified by the same keys before.
            del given["POLICY_BUNDLE_KEYS"]
        problems += [
            f"{name}: has no effect without POLICY_BUNDLE"
            for name, is_set in given.items()
            if is_set
        ]
        if settings.require_signed_policies:
            problems.append(
                "REQUIRE_SIGNED_POLICIES: the files of a POLICIES_DIR are not signed; set"
                " POLICY_BUNDLE and POLICY_BUNDLE_KEYS"
            )
        return problems
    if settings.require_signed_policies and not settings.policy_bundle_keys:
        problems.append(
            "REQUIRE_SIGNED_POLICIES: there is no key to verify with; set POLICY_BUNDLE_KEYS to the"
            " public key (cosign.pub)"
        )
    named: dict[str, str] = {}
    for name, path in (
        ("AUDIT_DB_PATH", settings.audit_db_path),
        ("POLICY_BUNDLE", settings.policy_bundle),
        ("POLICY_BUNDLE_SIGNATURE", signature_of(settings)),
        ("POLICY_BUNDLE_FLOOR_FILE", floor_of(settings)),
    ):
        # One that is written, or verified, in the place of another.
        other = named.setdefault(os.path.abspath(path), name)  # noqa: PTH100 - links stay
        if other != name:
            problems.append(f"{name}: must differ from {other}")
    return problems


def signature_of(settings: "Settings") -> Path:
    """Where the signature of POLICY_BUNDLE is, which is set."""
    return settings.policy_bundle_signature or Path(f"{settings.policy_bundle}.sig")


def floor_of(settings: "Settings") -> Path:
    """Where the newest accepted version is kept."""
    return settings.policy_bundle_floor_file or Path(f"{settings.audit_db_path}.bundle-floor")
