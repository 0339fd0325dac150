"""What Envoy's configuration is made from."""

from dataclasses import dataclass
from pathlib import Path

from authz.core.mode import Mode
from authz.settings import Settings, Upstream, trusted_ca_file


@dataclass(frozen=True, slots=True)
class EnvoyOptions:
    """The part of the settings that Envoy needs; no secrets among it."""

    host: str
    port: int
    mode: Mode
    upstream: Upstream
    run_dir: Path
    #: Certificates an https upstream is verified against; not read for http.
    ca_file: Path | None
    #: The circuit breaker, milliseconds: without a decision until then there is none. The seed's
    #: hard one is 100.
    decision_timeout_ms: int

    @classmethod
    def of(cls, settings: Settings) -> "EnvoyOptions":
        """
        Raises:
            SettingsError: the upstream is https and no trusted certificates are found.
        """
        secure = settings.upstream.scheme == "https"
        return cls(
            host=settings.host,
            port=settings.port,
            mode=settings.mode,
            upstream=settings.upstream,
            run_dir=settings.run_dir.absolute(),
            ca_file=trusted_ca_file(settings).absolute() if secure else None,
            decision_timeout_ms=settings.decision_timeout_ms,
        )
