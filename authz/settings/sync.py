"""The control plane that policies come from and audit rows go to, when there is a network."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, SecretStr

from authz.core.durations import parse_duration
from authz.settings import checks
from authz.settings.group import Group
from authz.settings.upstream import Upstream, parse_upstream

if TYPE_CHECKING:
    from authz.settings.model import Settings


def _control_plane(value: object) -> object:
    if not isinstance(value, str):
        return value
    if "@" in value:
        raise ValueError("must not contain a user or password; use SYNC_TOKEN")
    return parse_upstream(value.strip().rstrip("/"))


class Sync(Group):
    """Synchronisation."""

    sync_url: Annotated[Upstream | None, BeforeValidator(_control_plane)] = Field(
        None,
        alias="SYNC_URL",
        description="the control plane, https with an optional port and path prefix: policies are"
        " fetched from it and audit rows sent to it; off when unset",
    )
    sync_interval_s: Annotated[int, BeforeValidator(checks.duration)] = Field(
        parse_duration("60s"),
        alias="SYNC_INTERVAL",
        description="the longest time between two synchronisations, each up to a fifth early",
    )
    sync_token: Annotated[
        SecretStr | None,
        checks.secret(checks.MIN_ADMIN_TOKEN, "the control plane's ADMIN_TOKEN", is_made=False),
    ] = Field(
        None,
        alias="SYNC_TOKEN",
        description="the control plane's ADMIN_TOKEN; the one here when unset",
    )
    sync_token_file: Path | None = Field(
        None, alias="SYNC_TOKEN_FILE", description="file that SYNC_TOKEN is read from at start"
    )
    sync_ca_file: Path | None = Field(
        None,
        alias="SYNC_CA_FILE",
        description="PEM certificates that the control plane's must come from; those of"
        " SSL_CERT_FILE when unset",
    )
    sync_pull: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
        True,
        alias="SYNC_PULL",
        description="fetch policies: into POLICY_BUNDLE where that is set, else into POLICIES_DIR",
    )
    sync_push: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
        True, alias="SYNC_PUSH", description="send audit rows"
    )
    sync_state_dir: Path | None = Field(
        None,
        alias="SYNC_STATE_DIR",
        description="directory of what is known between two synchronisations; AUDIT_DB_PATH with"
        " `.sync` appended when unset",
    )
    sync_allow_http: Annotated[bool, BeforeValidator(checks.boolean)] = Field(
        False,
        alias="SYNC_ALLOW_HTTP",
        description="let the token, policies and rows go over the network in cleartext",
    )


def sync_problems(settings: "Settings") -> list[str]:
    """What is wrong with these together."""
    there = settings.sync_url
    if there is None:
        return []
    problems = []
    if there.scheme == "http" and not settings.sync_allow_http and not _is_here(there):
        problems.append(
            f"SYNC_URL: {there.host} is another host, and http would show it and whoever is on the"
            " way the admin token; use https, or set SYNC_ALLOW_HTTP=true"
        )
    if settings.sync_token is None and settings.admin_token is None:
        problems.append("SYNC_URL: needs SYNC_TOKEN, the control plane's ADMIN_TOKEN")
    if there.scheme == "http" and settings.sync_ca_file is not None:
        problems.append("SYNC_CA_FILE: has no effect with http")
    return problems


def _is_here(there: Upstream) -> bool:
    """Nobody else can be meant: names can be anybody's, but for one."""
    if there.host == "localhost":
        return True
    return there.is_address and ipaddress.ip_address(there.host).is_loopback
