"""Settings to what a sidecar remembers and judges with: state, environment, operations.

- The sidecar and the command line make the same of the same settings, so that a token or a receipt
  of the one is good for the other.
- The key that signs receipts is made when the first one is signed, and `cryptography` imported when
  there is one: most sidecars delegate nothing, and start without.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from authz.core.action_token import ActionTokens
from authz.core.delegation.receipt import ChainReader, Fits
from authz.core.environment import Environment
from authz.core.jwks import KeySet
from authz.core.mode import Mode
from authz.core.snapshot import Snapshot
from authz.core.state import MAX_AHEAD_S, State
from authz.operations import NotPossible, Operations, Signer
from authz.settings import Settings, read_jwks_file
from authz.stores.audit_key import (
    KeyUnusable,
    export_public,
    public_file,
    public_key,
    signing_key,
)
from authz.stores.audit_log import AuditLog, AuditReader


class Delegations:
    """Who signs receipts here, and whose are trusted."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            ValueError: DELEGATION_JWKS_FILE or DELEGATION_KEY_FILE is not usable; one sentence.
        """
        self._key_file = settings.delegation_key_file or default_key_file(settings.audit_db_path)
        self._own: dict[str, Fits] = {}
        self._others: dict[str, Fits] = {}
        self._signer: Signer | None = None
        if _is_there(public_file(self._key_file)):
            try:
                self._trust_own()
            except KeyUnusable as error:
                raise ValueError(f"DELEGATION_KEY_FILE: {error}") from None
        self.chains: Final = ChainReader(_Trusted(self))
        if settings.delegation_jwks_file is not None:
            self.trust(read_delegation_jwks(settings.delegation_jwks_file))

    def trust(self, keys: KeySet) -> None:
        """Trust these keys of others from now on, and no others but our own."""
        self._others = {kid: _fits(keys, kid) for kid in keys.kids("EdDSA")}
        self._use()

    def signer(self) -> Signer:
        """Who signs receipts; the key is made where there is none.

        The first time takes a tenth of a second, in whatever thread it is.

        Raises:
            NotPossible: it cannot be used, or made.
        """
        if self._signer is None:
            try:
                key = signing_key(self._key_file)
                export_public(public_file(self._key_file), key)
                self._trust_own()
            except KeyUnusable as error:
                raise NotPossible(f"DELEGATION_KEY_FILE: {error}") from None
            self._use()
            self._signer = Signer(key.key_id, key.sign, key.public_raw)
        return self._signer

    def _trust_own(self) -> None:
        key = public_key(public_file(self._key_file))
        self._own = {key.key_id: key.fits}

    def keys(self) -> dict[str, Fits]:
        """Whose receipts are trusted, by key id."""
        return {**self._others, **self._own}

    def find(self, kid: str) -> Fits | None:
        """The key of this id that is trusted.

        Our own may be one that a command has made in another process since.
        """
        found = self._own.get(kid) or self._others.get(kid)
        if found is None and not self._own and _is_there(public_file(self._key_file)):
            with contextlib.suppress(KeyUnusable):
                self._trust_own()
            found = self._own.get(kid)
        return found

    def _use(self) -> None:
        self.chains.use_keys(_Trusted(self))


class _Trusted(Mapping[str, Fits]):
    """The keys that are trusted, as a chain is read with them."""

    def __init__(self, delegations: Delegations) -> None:
        self._delegations = delegations

    def __getitem__(self, kid: str) -> Fits:
        found = self._delegations.find(kid)
        if found is None:
            raise KeyError(kid)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._delegations.keys())

    def __len__(self) -> int:
        return len(self._delegations.keys())


def _is_there(path: Path) -> bool:
    """Whether there is a file that can be seen: what lies in somebody else's directory cannot."""
    return os.path.exists(path)  # noqa: PTH110 - `Path.exists` raises what a stranger's mode causes


def default_key_file(database: Path) -> Path:
    """Where the key that signs receipts lies unless DELEGATION_KEY_FILE says otherwise."""
    return Path(f"{os.fspath(database)}.delegation.key")


def read_delegation_jwks(path: Path) -> KeySet:
    """The public keys that a DELEGATION_JWKS_FILE holds.

    Raises:
        ValueError: as `settings.read_jwks_file`, or none of them is Ed25519 and named.
    """
    keys = read_jwks_file(path, "DELEGATION_JWKS_FILE")
    if not keys.kids("EdDSA"):
        raise ValueError(
            f"DELEGATION_JWKS_FILE: {path} has no Ed25519 key with a kid, and receipts are signed"
            " with no other"
        )
    return keys


def _fits(keys: KeySet, kid: str) -> Fits:
    key = keys.find(kid, "EdDSA")
    assert key is not None

    def fits(signature: bytes, message: bytes) -> bool:
        verified: bool = key.Algorithm.verify(message, key.key, signature)
        return verified

    return fits


def action_tokens(settings: Settings) -> ActionTokens:
    """What action tokens are signed with; without JWT_SECRET something that ends with the process.

    They are good for minutes, and for this sidecar alone where there is no secret to share.
    """
    return ActionTokens(settings.jwt_secret.get_secret_value() or secrets.token_hex(32))


def environment(
    settings: Settings, state: State, delegations: Delegations, tokens: ActionTokens
) -> Environment:
    """What calls are judged with besides the policies."""
    return Environment(
        state,
        tokens,
        delegations.chains,
        settings.intent_verification,
        settings.destructive_gate,
        settings.upstream.host,
    )


def operations(
    settings: Settings,
    state: State,
    audit: AuditLog,
    delegations: Delegations,
    tokens: ActionTokens,
    *,
    snapshot: Callable[[], Snapshot],
    mode: Callable[[], Mode],
    now: Callable[[], float],
    steady: Callable[[], float],
    version: Callable[[], str] | None = None,
) -> Operations:
    """What people do to the records of these settings; the arguments are those of `Operations`."""
    return Operations(
        state,
        audit,
        snapshot=snapshot,
        mode=mode,
        now=now,
        steady=steady,
        new_id=lambda: secrets.token_hex(16),
        action_tokens=tokens,
        signer=delegations.signer,
        jwt_secret=settings.jwt_secret.get_secret_value(),
        jwt_ttl_s=settings.jwt_ttl_s,
        version=version,
    )


def steady_offset(audit: AuditLog | AuditReader, now: float, monotonic: float) -> float:
    """Seconds that make a steady clock (`core/ledger.py`) of one that counts from anywhere.

    Args:
        now: seconds since the epoch.
        monotonic: seconds of the clock that never steps back, at the same time.
    """
    last = min(audit.newest_at(), now + MAX_AHEAD_S)
    return max(now, last) - monotonic
