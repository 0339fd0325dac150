"""The files besides the policies whose content is in force, and what Envoy is told of them."""

import logging
from datetime import UTC, datetime
from typing import Any

from authz import envoy_config, memory, tls_files
from authz.core.identity import TokenVerifier
from authz.core.jwks import KeySet
from authz.core.mode import Mode
from authz.edges.mode_switch import ModeSwitch
from authz.edges.reloader import Followed
from authz.memory import Delegations
from authz.settings import Settings, read_jwks_file, read_mode_file

log = logging.getLogger(__name__)


def followed(
    settings: Settings,
    switch: ModeSwitch,
    tokens: TokenVerifier,
    delegations: Delegations,
) -> list[Followed[Any]]:
    """The files besides the policies whose content is in force."""
    found: list[Followed[Any]] = []
    if settings.mode_file is not None:
        found.append(
            Followed(
                "mode",
                settings.mode_file,
                read=read_mode_file,
                use=switch.follow,
                stays="the mode stays as it is",
            )
        )
    if settings.jwks_file is not None:
        found.append(
            Followed(
                "keys",
                settings.jwks_file,
                read=read_jwks_file,
                use=lambda keys: _use_keys(tokens, keys),
                stays="the keys stay as they are",
            )
        )
    if settings.tls_cert_file is not None:
        files = (settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)
        found.append(
            Followed(
                "tls",
                settings.tls_cert_file,
                also=[file for file in files[1:] if file is not None],
                read=lambda _: tls_files.listener(settings),
                use=_ListenerCertificate(settings).use,
                stays="the listener keeps the certificate that it has",
            )
        )
    if settings.delegation_jwks_file is not None:
        found.append(
            Followed(
                "delegationKeys",
                settings.delegation_jwks_file,
                read=memory.read_delegation_jwks,
                use=delegations.trust,
                stays="the keys of delegations stay as they are",
            )
        )
    return found


class _ListenerCertificate:
    """Has the Envoy that reads its configuration from here take over what was found to be good."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen = ""

    def use(self, digest: str) -> None:
        """Also where nothing has changed: Envoy may have come up while the files were bad."""
        try:
            envoy_config.wake(self._settings.run_dir)
        except OSError as error:
            log.error(
                "AUTHZ_RUN_DIR: Envoy cannot be told of a new certificate: %s", error.strerror
            )
            return
        seen, self._seen = self._seen, digest
        if seen and digest != seen:
            log.info("TLS_CERT_FILE: new connections get what is in the files now")
            for sentence in tls_files.warnings(self._settings, "TLS", datetime.now(UTC)):
                log.warning("%s", sentence)


def _use_keys(tokens: TokenVerifier, keys: KeySet) -> None:
    if tokens.use_keys(keys):
        log.info("JWKS_FILE: %d public keys verify tokens from now on", len(keys))


def write_mode(settings: Settings, mode: Mode) -> bool:
    """Tell the Envoy that reads its filter from here, if there is one; false where that failed."""
    if not (settings.run_dir / envoy_config.EXT_AUTHZ_FILE).exists():
        return True
    try:
        envoy_config.write_mode(mode, settings.decision_timeout_ms, settings.run_dir)
    except OSError as error:
        log.error(
            "AUTHZ_RUN_DIR: Envoy cannot be told of mode %s: %s; what happens while the service is"
            " away stays as it was",
            mode,
            error.strerror,
        )
        return False
    return True
