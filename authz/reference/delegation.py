"""The key that signs receipts (`edges/http/records.py`)."""

from typing import Final, Literal

from pydantic import with_config
from typing_extensions import TypedDict

from authz.reference.operation import CLOSED, Operation


@with_config(CLOSED)
class Key(TypedDict):
    """A public key (RFC 8037 §2)."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    kid: str
    use: Literal["sig"]
    alg: Literal["EdDSA"]


@with_config(CLOSED)
class KeySet(TypedDict):
    """A JWK Set."""

    keys: list[Key]


OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/delegation/keys",
        "getDelegationKeys",
        "Show the public key that receipts are signed with",
        "Relationships",
        KeySet,
        {
            "keys": [
                {
                    "kty": "OKP",
                    "crv": "Ed25519",
                    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                    "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
                    "use": "sig",
                    "alg": "EdDSA",
                }
            ]
        },
        errors=(401, 409, 503),
        refuses={409: "DELEGATION_KEY_FILE: data/key.pem: not a regular file"},
        text="What the DELEGATION_JWKS_FILE of a sidecar holds that is to trust them.",
    ),
)
