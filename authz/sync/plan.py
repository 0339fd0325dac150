"""What a turn needs to know, as plain values: they go to another process as one line of JSON.

The token is among them, so they go by a socket: arguments and environments can be read by others.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from authz.settings import Settings

#: What is appended to AUDIT_DB_PATH for the directory of what is known between turns.
STATE_SUFFIX: Final = ".sync"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to, and what there is here."""

    #: Without a slash at its end.
    url: str
    token: str = field(repr=False)
    #: PEM certificates that the control plane's must come from; empty for http.
    ca_file: str
    state_dir: str
    policies_dir: str
    #: POLICY_BUNDLE; empty where policies are a directory.
    bundle: str
    signature: str
    #: Files and directories of PEM public keys.
    keys: tuple[str, ...]
    require_signed: bool
    #: The service's floor of versions; empty where there is none.
    floor_file: str
    database: str
    retention_days: int
    log_format: str

    @classmethod
    def of(cls, settings: "Settings") -> Self:
        """Of settings whose SYNC_URL is set."""
        # Not in the process of a turn, which validates nothing.
        from authz.settings.bundles import floor_of, signature_of  # noqa: PLC0415

        where = settings.sync_url
        assert where is not None
        bundle = settings.policy_bundle
        token = settings.sync_token or settings.admin_token
        default = f"{os.fspath(settings.audit_db_path)}{STATE_SUFFIX}"
        return cls(
            url=f"{where.scheme}://{where.authority}{where.prefix}",
            token=token.get_secret_value() if token else "",
            ca_file=_ca_file(settings) if where.scheme == "https" else "",
            state_dir=_absolute(settings.sync_state_dir or Path(default)),
            policies_dir=_absolute(settings.policies_dir),
            bundle=_absolute(bundle) if bundle else "",
            signature=_absolute(signature_of(settings)) if bundle else "",
            keys=tuple(map(_absolute, settings.policy_bundle_keys)),
            require_signed=settings.require_signed_policies,
            floor_file=_absolute(floor_of(settings)) if bundle else "",
            database=_absolute(settings.audit_db_path),
            retention_days=settings.audit_retention_days,
            log_format=settings.log_format,
        )

    def to_json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """What `to_json` made of one."""
        given = json.loads(line)
        return cls(**{**given, "keys": tuple(given["keys"])})


def _absolute(path: Path) -> str:
    return os.fspath(path.absolute())


def _ca_file(settings: "Settings") -> str:
    """
    Raises:
        SettingsError: nobody could be trusted.
    """
    if settings.sync_ca_file is not None:
        return _absolute(settings.sync_ca_file)
    from authz.settings import SettingsError, trusted_ca_file  # noqa: PLC0415 - as above

    try:
        return _absolute(trusted_ca_file(settings))
    except SettingsError:
        raise SettingsError(
            ["SYNC_CA_FILE: not set, no trusted certificates found, and https needs them"]
        ) from None
