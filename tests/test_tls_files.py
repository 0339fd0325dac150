"""What is said of certificates and keys before Envoy, grpcio or OpenSSL gets them."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from authz import tls_files
from authz.edges import pem
from authz.envoy_config.parts import to_yaml
from authz.settings import Settings
from authz.supervisor import envoy_binary

NOW = datetime.now(UTC)
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

KEYS: dict[str, Key] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA 2048": rsa.generate_private_key(65_537, 2048),
    "P-224": ec.generate_private_key(ec.SECP224R1()),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "RSA 1024": rsa.generate_private_key(65_537, 1024),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
USABLE = {"P-256", "P-384", "P-521", "RSA 2048"}
WHICH = "Envoy takes RSA keys of at least 2048 bits and ECDSA keys on P-256, P-384 or P-521"


def _pair(folder: Path, key: Key, *, since: datetime = NOW) -> tuple[Path, Path]:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sidecar")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(since + timedelta(days=1))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    chain, private = folder / "tls.crt", folder / "tls.key"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    private.chmod(0o600)
    return chain, private


def _settings(**env: str) -> Settings:
    return Settings.from_env({"JWT_SECRET": "s" * 32, "AUTHZ_RUN_DIR": "/", **env})


def _of(chain: Path, key: Path, **env: str) -> Settings:
    return _settings(TLS_CERT_FILE=str(chain), TLS_KEY_FILE=str(key), **env)


def _envoy_takes(folder: Path, chain: Path, key: Path) -> bool:
    """The real Envoy, with the files where it reads them at once."""
    context = {
        "@type": "type.googleapis.com/"
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [
                {"certificate_chain": {"filename": str(chain)},
                 "private_key": {"filename": str(key)}}
            ]
        },
    }  # fmt: skip
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "a",
        "cluster": "a",
    }
    chain_of_filters = {
        "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 3100}}
    config = folder / "envoy.yaml"
    config.write_text(
        to_yaml(
            {
                "static_resources": {
                    "listeners": [
                        {"name": "a", "address": address, "filter_chains": [chain_of_filters]}
                    ],
                    "clusters": [{"name": "a", "type": "STATIC"}],
                }
            }
        )
    )
    checked = subprocess.run(
        [envoy_binary(None), "--mode", "validate", "-l", "off", "-c", config],
        capture_output=True,
        check=False,
    )
    return checked.returncode == 0


@pytest.mark.parametrize("name", list(KEYS))
def test_a_key_is_refused_that_envoy_cannot_use(tmp_path: Path, name: str) -> None:
    chain, key = _pair(tmp_path, KEYS[name])
    if name in USABLE:
        assert tls_files.listener(_of(chain, key))
    else:
        with pytest.raises(ValueError, match=WHICH) as raised:
            tls_files.listener(_of(chain, key))
        assert str(raised.value) == f"TLS_CERT_FILE: {chain}: {WHICH}"
    # It loads an Ed25519 key, and then finishes no handshake with it.
    assert _envoy_takes(tmp_path, chain, key) is (name in USABLE | {"Ed25519"})


def test_a_key_of_no_use_for_tls_is_refused(tmp_path: Path) -> None:
    key = dsa.generate_private_key(2048)
    chain, private = _pair(tmp_path, KEYS["P-256"])
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ValueError, match="not the key of the first certificate"):
        tls_files.listener(_of(chain, private))


def test_an_encrypted_key_is_one_sentence(tmp_path: Path) -> None:
    chain, key = _pair(tmp_path, KEYS["P-256"])
    key.write_bytes(
        KEYS["P-256"].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a passphrase"),
        )
    )
    with pytest.raises(ValueError, match="encrypted") as raised:
        tls_files.listener(_of(chain, key))
    said = f"TLS_KEY_FILE: {key}: the key is encrypted, and there is no passphrase for it"
    assert str(raised.value) == said


def test_a_file_without_an_end_is_not_read(tmp_path: Path) -> None:
    chain, key = _pair(tmp_path, KEYS["P-256"])
    with chain.open("ab") as stream:
        stream.truncate(pem.MAX_PEM + 1)
    with pytest.raises(ValueError, match="longer than"):
        tls_files.listener(_of(chain, key))
    with pytest.raises(ValueError, match="not a regular file"):
        tls_files.listener(_of(Path("/dev/zero"), key))


def test_what_tells_files_from_other_ones_is_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    chain, key = _pair(tmp_path / "a", KEYS["P-256"])
    other, _ = _pair(tmp_path / "b", KEYS["P-384"])
    seen = {tls_files.listener(_of(chain, key))}
    for ca in (chain, other):
        seen.add(tls_files.listener(_of(chain, key, TLS_CLIENT_CA_FILE=str(ca))))
    seen.add(tls_files.listener(_of(*_pair(tmp_path / "a", KEYS["P-256"]))))
    assert len(seen) == 4
    assert tls_files.listener(_settings()) == ""


@pytest.mark.parametrize(
    ("since", "said"),
    [
        (NOW - timedelta(hours=1), []),
        (NOW - timedelta(days=3), ["has expired on"]),
        (NOW + timedelta(days=3), ["is valid from"]),
    ],
)
def test_what_can_be_used_and_should_not_be_is_a_warning(
    tmp_path: Path, since: datetime, said: list[str]
) -> None:
    chain, key = _pair(tmp_path, KEYS["P-256"], since=since)
    settings = _of(chain, key)
    found = list(tls_files.warnings(settings, "TLS", NOW))
    assert [part in sentence for part, sentence in zip(said, found, strict=True)] == [True] * len(
        said
    )
    key.chmod(0o644)
    assert list(tls_files.warnings(settings, "TLS", NOW))[len(said) :] == [
        f"TLS_KEY_FILE: every user of this host can read {key}; take that from them with"
        " `chmod o-r`"
    ]
    assert list(tls_files.warnings(settings, "EXT_AUTHZ_TLS", NOW)) == []
