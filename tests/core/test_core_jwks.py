"""A JWK Set is public keys that are each for one algorithm, or it is refused with one sentence."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.jwks import MAX_JWKS, MAX_KEYS, parse
from tests.signers import Signer, base64url, jwks, rsa_key, uint

ED = Signer("ed")
P256 = Signer("ec", ec.generate_private_key(ec.SECP256R1()))
RSA = Signer("rsa", rsa_key())
ALL = (ED, P256, RSA)


def said_of(data: bytes) -> str:
    """Why it is refused; empty where it is not."""
    try:
        parse(data)
    except ValueError as error:
        return str(error)
    return ""


def refusal(data: bytes) -> str:
    sentence = said_of(data)
    assert sentence
    return sentence


def test_each_type_of_key_is_found_by_its_id_for_its_algorithm_alone() -> None:
    keys = parse(jwks(*ALL))
    assert len(keys) == 3
    for signer in ALL:
        for alg in ("EdDSA", "ES256", "RS256", "HS256", "none", "PS256", "RS512", ""):
            key = keys.find(signer.kid, alg)
            if alg != signer.alg:
                assert key is None
                continue
            assert key is not None
            assert key.algorithm_name == alg
            assert key.Algorithm.verify(b"message", key.key, signer.sign(b"message"))
            assert not key.Algorithm.verify(b"another", key.key, signer.sign(b"message"))
        assert keys.knows(signer.kid)
    for kid in ("", "ED", "ed ", "keys"):
        assert keys.find(kid, "EdDSA") is None
        assert not keys.knows(kid)
    assert not keys.knows(None)


def test_without_an_id_there_is_a_key_where_exactly_one_is_for_the_algorithm() -> None:
    keys = parse(jwks(ED, Signer("ed-2"), P256, Signer(None, rsa_key())))
    assert keys.find(None, "EdDSA") is None
    assert keys.find(None, "ES256") is not None
    assert keys.find(None, "RS256") is not None
    assert keys.find(None, "HS256") is None
    # A key without an id is not whatever one is asked for.
    assert keys.find("rsa", "RS256") is None
    alone = parse(jwks(Signer(None)))
    assert alone.find(None, "EdDSA") is not None
    assert alone.find("any", "EdDSA") is None


def test_what_a_key_may_say_of_itself() -> None:
    for signer in ALL:
        said = {"alg": signer.alg, "use": "sig", "key_ops": ["verify"], "x5t": "x", "ours": [1, {}]}
        assert len(parse(jwks(signer.jwk(**said)))) == 1
    data = json.dumps({"keys": [ED.jwk()], "issuer": "somebody", "more": {"d": 1}}).encode()
    assert len(parse(data)) == 1
    largest = jwks(*(Signer(f"{n:0256}") for n in range(MAX_KEYS)))
    assert len(parse(largest)) == MAX_KEYS


def test_sets_are_equal_where_their_texts_are() -> None:
    assert parse(jwks(ED)) == parse(jwks(ED))
    assert parse(jwks(ED)) != parse(jwks(ED, P256))
    assert parse(jwks(ED)) != parse(jwks(ED) + b"\n")


KIND = "is of another kind than OKP with Ed25519, EC with P-256, or RSA; leave it out"
KID = "has a `kid` that is not printable text of 1 to 256 characters"


def _private(name: str) -> str:
    return f"keys[0] has a private part, `{name}`; only public keys belong here"


@pytest.mark.parametrize(
    ("member", "sentence"),
    [
        *((ED.jwk(**{name: "c2VjcmV0"}), _private(name)) for name in ("d", "p", "k")),
        *((RSA.jwk(**{name: ""}), _private(name)) for name in ("d", "q", "dp", "dq", "qi")),
        (RSA.jwk() | {"oth": None}, _private("oth")),
        ({"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
         "keys[0] is a shared secret; only public keys belong here"),
        ({"kty": "OKP", "crv": "Ed448", "x": base64url(b"x" * 57)}, f"keys[0] {KIND}"),
        ({"kty": "OKP", "crv": "X25519", "x": base64url(b"x" * 32)}, f"keys[0] {KIND}"),
        (Signer("a", ec.generate_private_key(ec.SECP384R1())).jwk(), f"keys[0] {KIND}"),
        (P256.jwk(crv="secp256k1"), f"keys[0] {KIND}"),
        (P256.jwk(crv=None), f"keys[0] {KIND}"),
        (ED.jwk(kty="EC"), f"keys[0] {KIND}"),
        (ED.jwk(kty="ed25519"), f"keys[0] {KIND}"),
        (ED.jwk(kty=["OKP"]), f"keys[0] {KIND}"),
        (ED.jwk(crv={}), f"keys[0] {KIND}"),
        ({}, f"keys[0] {KIND}"),
        (ED.jwk(alg="ES256"),
         "keys[0] has another `alg` than EdDSA, which its type is for"),
        (ED.jwk(alg="HS256"),
         "keys[0] has another `alg` than EdDSA, which its type is for"),
        (RSA.jwk(alg="PS256"),
         "keys[0] has another `alg` than RS256, which its type is for"),
        (RSA.jwk(alg=["RS256"]),
         "keys[0] has another `alg` than RS256, which its type is for"),
        (ED.jwk() | {"alg": None},
         "keys[0] has another `alg` than EdDSA, which its type is for"),
        (ED.jwk(use="enc"), "keys[0] has another `use` than sig, so it must not verify"),
        (ED.jwk(use=1), "keys[0] has another `use` than sig, so it must not verify"),
        (ED.jwk(key_ops=["sign"]), "keys[0] has `key_ops` without verify, so it must not verify"),
        (ED.jwk(key_ops=[]), "keys[0] has `key_ops` without verify, so it must not verify"),
        (ED.jwk(key_ops="verify"), "keys[0] has `key_ops` without verify, so it must not verify"),
        (ED.jwk(x=base64url(b"x" * 31)), "keys[0] is not a key: `x` must be its public half"),
        (ED.jwk(x=base64url(b"x" * 32) + "="), "keys[0] is not a key: `x` must be its public half"),
        (ED.jwk(x=""), "keys[0] is not a key: `x` must be its public half"),
        (ED.jwk(x=None), "keys[0] is not a key: `x` must be its public half"),
        (ED.jwk(x=[1]), "keys[0] is not a key: `x` must be its public half"),
        (P256.jwk(y=uint(1, 32)), "keys[0] is not a key: `x` and `y` must be its public half"),
        (P256.jwk(x=uint(0, 32), y=uint(0, 32)),
         "keys[0] is not a key: `x` and `y` must be its public half"),
        (P256.jwk(x=base64url(b"\x00" + b"x" * 32)),
         "keys[0] is not a key: `x` and `y` must be its public half"),
        (Signer("a", rsa_key(1024)).jwk(),
         "keys[0] is RSA of 1024 bits, and must have 2048 to 4096: see `n`"),
        (RSA.jwk(n=uint(2**2047 - 1)),
         "keys[0] is RSA of 2047 bits, and must have 2048 to 4096: see `n`"),
        (RSA.jwk(n=uint(2**4096 + 1)),
         "keys[0] is RSA of 4097 bits, and must have 2048 to 4096: see `n`"),
        (RSA.jwk(n=5), "keys[0] is RSA of 0 bits, and must have 2048 to 4096: see `n`"),
        (RSA.jwk(n="AAAA" * 100), "keys[0] is RSA of 0 bits, and must have 2048 to 4096: see `n`"),
        (RSA.jwk(e=uint(2**64 + 1)), "keys[0] has an exponent `e` of over 64 bits"),
        (RSA.jwk(e=uint(1)), "keys[0] is not a key: `n` and `e` must be its public half"),
        (RSA.jwk(e=uint(65536)), "keys[0] is not a key: `n` and `e` must be its public half"),
        (RSA.jwk(e=None), "keys[0] is not a key: `n` and `e` must be its public half"),
        (ED.jwk(kid=""), f"keys[0] {KID}"),
        (ED.jwk(kid=7), f"keys[0] {KID}"),
        (ED.jwk(kid="a\nb"), f"keys[0] {KID}"),
        (ED.jwk(kid="x" * 257), f"keys[0] {KID}"),
        (ED.jwk() | {"kid": None}, f"keys[0] {KID}"),
    ],
    # Not the keys, which are made anew by each process that collects the tests.
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_no_public_key_that_verifies_is_refused(
    member: dict[str, Any], sentence: str
) -> None:
    assert refusal(jwks(member)) == sentence
    # Nor among good ones.
    if "kid" in member:
        assert refusal(jwks(Signer("good"), member)) == sentence.replace("keys[0]", "keys[1]")


def test_two_keys_do_not_share_an_id() -> None:
    given = "give each key its own"
    assert (
        refusal(jwks(Signer("a"), Signer("a"))) == f"keys[1] has the `kid` of another key; {given}"
    )
    assert refusal(jwks(ED, ED)) == f"keys[1] has the `kid` of another key; {given}"
    assert refusal(jwks(Signer(None), ED, Signer(None, rsa_key()))) == (
        f"keys[2] has no `kid` either; {given}"
    )


ONE_OBJECT = "not one JSON object with distinct keys, in UTF-8"
NO_SET = "not a JWK Set, which is an object with a list `keys`"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "not JSON from line 1, column 1 on"),
        (b'{"keys": [\n  {"kty" "OKP"}\n]}', "not JSON from line 2, column 10 on"),
        (b"\xef\xbb\xbf" + jwks(ED), "not JSON from line 1, column 1 on"),
        (b"\xff\xfe", ONE_OBJECT),
        (jwks(ED).decode().encode("utf-16"), ONE_OBJECT),
        (b'{"keys": [], "keys": []}', ONE_OBJECT),
        (jwks(ED).replace(b'"kid"', b'"kty": "oct", "kid"'), ONE_OBJECT),
        (b'{"keys": ' + b"[" * 30_000, ONE_OBJECT),
        (b'{"keys": ' + b"9" * 30_000 + b"}", ONE_OBJECT),
        (b"[]", NO_SET),
        (b"null", NO_SET),
        (b"{}", NO_SET),
        (b'{"keys": {}}', NO_SET),
        (b'{"keys": null}', NO_SET),
        (json.dumps(ED.jwk()).encode(),
         'a key and not a set of keys; write {"keys": [...]} around it'),
        (b'{"keys": []}', "0 keys, where 1 to 64 must be"),
        (b'{"keys": [' + b"{}," * 64 + b"{}]}", "65 keys, where 1 to 64 must be"),
        (b'{"keys": ["x"]}', "keys[0] is not an object"),
        (jwks(ED) + b" " * MAX_JWKS, "larger than 65536 bytes"),
        (ED.public_pem(), "not JSON from line 1, column 1 on"),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_what_is_no_set_of_keys_is_one_sentence(data: bytes, sentence: str) -> None:
    assert refusal(data) == sentence


def test_no_sentence_holds_a_value() -> None:
    secret = base64url(b"a secret that nobody may read")
    for name in ("d", "k", "kty", "crv", "alg", "use", "x", "kid", "key_ops"):
        for member in (ED, RSA, P256):
            value = secret + "\n" if name == "kid" else secret
            assert secret not in said_of(jwks(member.jwk(**{name: value})))
    assert secret not in refusal(b'{"keys": [' + secret.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["kty", "crv", "x", "y", "n", "e", "d", "k", "kid", "alg", "use", "key_ops"]
)


@given(st.sampled_from(ALL), st.dictionaries(NAMES, JSON))
@settings(deadline=None, max_examples=300)
def test_any_key_is_taken_or_refused_with_one_sentence(
    signer: Signer, changes: dict[str, object]
) -> None:
    data = json.dumps({"keys": [signer.jwk() | changes]}).encode()
    sentence = said_of(data)
    assert "\n" not in sentence
    if sentence:
        return
    # Whatever was changed, the key is the same, for the same algorithm.
    keys = parse(data)
    [found] = [key for alg in ("EdDSA", "ES256", "RS256") if (key := keys.find(None, alg))]
    assert found.algorithm_name == signer.alg


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_answered(data: bytes) -> None:
    assert refusal(data)


def test_the_largest_rsa_key_is_taken() -> None:
    # Only its public half is looked at, so no 4096-bit key needs to be made.
    modulus = rsa_key().public_key().public_numbers().n
    while modulus.bit_length() < 4096:
        modulus *= 3
    numbers = rsa.RSAPublicNumbers(65537, modulus >> (modulus.bit_length() - 4096) | 1)
    member = {"kty": "RSA", "kid": "a", "n": uint(numbers.n), "e": uint(numbers.e)}
    assert parse(jwks(member)).find("a", "RS256") is not None
