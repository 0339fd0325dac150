"""Each way to fail to identify has its own code, nothing is verified past its `exp`, and what is
minted is what is verified."""

import json
import math
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.agents import Agent, changed, new_agent, revoked
from authz.core.errors import Code
from authz.core.identity import (
    CACHE_SIZE,
    CLOCK_LEEWAY_S,
    EMPTY,
    MAX_HEADER,
    MAX_TOKEN,
    Identity,
    TokenVerifier,
    Unidentified,
    mint,
)
from authz.core.jwks import parse
from authz.core.tiers import rank
from tests.builders import NOW, SECRET, bearer, claims, token
from tests.signers import Signer, base64url, jwks, rsa_key


def identify(authorization: str, now: float = NOW) -> Identity | Unidentified:
    return TokenVerifier(SECRET).identify(authorization, now)


def known(authorization: str, now: float = NOW) -> Identity:
    caller = identify(authorization, now)
    assert isinstance(caller, Identity), caller
    return caller


def refusal(authorization: str, now: float = NOW) -> Unidentified:
    caller = identify(authorization, now)
    assert isinstance(caller, Unidentified), caller
    return caller


def test_a_good_token_names_its_agent() -> None:
    caller = known(bearer(name="Reviewer", tags=["code-review", "ci"], orgId="acme"))
    assert caller == Identity(
        "agent-1", "Reviewer", "verified", 2, frozenset({"code-review", "ci"}), "acme", 2
    )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    assert known(f"{scheme} {token(claims())}").agent_id == "agent-1"


@pytest.mark.parametrize(
    "authorization",
    ["", " ", "Bearer", "Bearer ", "Bearer   ", "Basic dXNlcjpwYXNz", token(claims()), "Token x"],
    ids=lambda text: text[:12],
)
def test_no_bearer_token_is_a_missing_token(authorization: str) -> None:
    assert refusal(authorization).code is Code.TOKEN_MISSING


GOOD_HEADER, GOOD_BODY, GOOD_MAC = token(claims()).split(".")


@pytest.mark.parametrize(
    "credential",
    [
        "sk-someone-elses-key",
        "a.b",
        "a.b.c",
        "..",
        "....",
        "\u00e9.\u00e9.\u00e9",
        f"{GOOD_HEADER}.{GOOD_BODY}",
        f"{GOOD_HEADER}.{GOOD_BODY}.{GOOD_MAC}.{GOOD_MAC}",
        f"{GOOD_HEADER}.{GOOD_BODY}.!!!",
        f"{GOOD_HEADER} {GOOD_BODY}",
        token(b"[]"),
        token(b"null"),
        token(b"not json"),
        token(b"\xff\xfe"),
        token(claims(), b"[]"),
        token(claims(), b"{"),
        token(claims(), b"\xff"),
        token(claims(), {"alg": "HS256", "b64": False}),
        token(claims(), b'{"alg":"HS256","x":' + b"[" * 5000 + b"}"),
        token(b'{"sub":' + b"[" * 5000 + b"}"),
        token(b'{"exp":' + b"9" * 5000 + b"}"),
    ],
    ids=lambda text: f"{len(text)}:{text[:12]!a}",
)
def test_what_is_no_jwt_is_malformed(credential: str) -> None:
    assert refusal(f"Bearer {credential}").code is Code.TOKEN_MALFORMED


def test_a_token_of_more_than_8_kib_is_malformed_even_when_its_signature_is_ours() -> None:
    assert refusal(bearer(padding="x" * 8192)).code is Code.TOKEN_MALFORMED


@pytest.mark.parametrize(
    "credential",
    [
        token(claims(), secret=SECRET + "!"),
        token(claims(), secret=""),
        f"{GOOD_HEADER}.{token(claims(sub='agent-2')).split('.')[1]}.{GOOD_MAC}",
        f"{GOOD_HEADER}.{GOOD_BODY}.",
        token(claims(), digest="sha512"),
    ],
    ids=["other secret", "empty secret", "other claims", "no signature", "other digest"],
)
def test_a_signature_that_is_not_over_this_token_is_a_bad_signature(credential: str) -> None:
    assert refusal(f"Bearer {credential}")[::2] == (Code.TOKEN_BAD_SIGNATURE, True)


@pytest.mark.parametrize(
    ("header", "digest"),
    [
        ({"alg": "none"}, "sha256"),
        ({"alg": "None"}, "sha256"),
        ({"alg": "NONE", "typ": "JWT"}, "sha256"),
        ({"alg": "hs256"}, "sha256"),
        ({"alg": "HS384"}, "sha384"),
        ({"alg": "HS512", "typ": "JWT"}, "sha512"),
        ({"alg": "RS256"}, "sha256"),
        ({"alg": "ES256"}, "sha256"),
        ({"alg": "EdDSA"}, "sha256"),
        ({"alg": ""}, "sha256"),
    ],
)
def test_only_hs256_is_accepted_whatever_the_header_asks_for(
    header: dict[str, object], digest: str
) -> None:
    refused = refusal("Bearer " + token(claims(), header, digest=digest))
    assert refused[::2] == (Code.TOKEN_WRONG_ALGORITHM, True)


def test_the_algorithm_none_without_a_signature_is_a_wrong_algorithm() -> None:
    body = token(claims(), {"alg": "none"}).rpartition(".")[0]
    assert refusal(f"Bearer {body}.").code is Code.TOKEN_WRONG_ALGORITHM


@pytest.mark.parametrize("header", [b'{"alg":["HS256"]}', b'{"alg":{}}', b'{"alg":null}', b"{}"])
def test_an_algorithm_that_is_no_text_identifies_nobody(header: bytes) -> None:
    code = refusal("Bearer " + token(claims(), header)).code
    assert code in {Code.TOKEN_WRONG_ALGORITHM, Code.TOKEN_MALFORMED}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": NOW - 1}, Code.TOKEN_EXPIRED),
        ({"exp": NOW}, Code.TOKEN_EXPIRED),
        ({"exp": 0}, Code.TOKEN_EXPIRED),
        ({"exp": -1}, Code.TOKEN_EXPIRED),
        ({"nbf": NOW + CLOCK_LEEWAY_S + 1}, Code.TOKEN_NOT_YET_VALID),
        ({"iat": NOW + CLOCK_LEEWAY_S + 1}, Code.TOKEN_NOT_YET_VALID),
        ({"iss": "someone"}, Code.TOKEN_WRONG_ISSUER),
        ({"iss": ""}, Code.TOKEN_WRONG_ISSUER),
        ({"iss": ["meshguard"]}, Code.TOKEN_WRONG_ISSUER),
        ({"iss": 5}, Code.TOKEN_WRONG_ISSUER),
        ({"sub": None}, Code.TOKEN_BAD_CLAIM),
        ({"sub": ""}, Code.TOKEN_BAD_CLAIM),
        ({"sub": 7}, Code.TOKEN_BAD_CLAIM),
        ({"sub": ["agent-1"]}, Code.TOKEN_BAD_CLAIM),
        ({"sub": "a\r\nb"}, Code.TOKEN_BAD_CLAIM),
        ({"sub": "x" * 300}, Code.TOKEN_BAD_CLAIM),
        ({"exp": None}, Code.TOKEN_BAD_CLAIM),
        ({"exp": True}, Code.TOKEN_BAD_CLAIM),
        ({"exp": math.nan}, Code.TOKEN_BAD_CLAIM),
        ({"exp": math.inf}, Code.TOKEN_BAD_CLAIM),
        ({"exp": 10**400}, Code.TOKEN_BAD_CLAIM),
        ({"exp": 1e300}, Code.TOKEN_BAD_CLAIM),
        ({"exp": str(NOW + 60)}, Code.TOKEN_BAD_CLAIM),
        ({"exp": [NOW + 60]}, Code.TOKEN_BAD_CLAIM),
        ({"exp": {}}, Code.TOKEN_BAD_CLAIM),
        ({"nbf": "soon"}, Code.TOKEN_BAD_CLAIM),
        ({"nbf": math.nan}, Code.TOKEN_BAD_CLAIM),
        ({"iat": True}, Code.TOKEN_BAD_CLAIM),
        ({"tier": "admin"}, Code.TOKEN_BAD_CLAIM),
        ({"tier": 4}, Code.TOKEN_BAD_CLAIM),
        ({"tags": "code-review"}, Code.TOKEN_BAD_CLAIM),
        ({"tags": {"code-review": 1}}, Code.TOKEN_BAD_CLAIM),
        ({"tags": 5}, Code.TOKEN_BAD_CLAIM),
        ({"tags": [1]}, Code.TOKEN_BAD_CLAIM),
        ({"tags": ["a", None]}, Code.TOKEN_BAD_CLAIM),
        ({"tags": [["a"]]}, Code.TOKEN_BAD_CLAIM),
        ({"name": ["x"]}, Code.TOKEN_BAD_CLAIM),
        ({"orgId": 5}, Code.TOKEN_BAD_CLAIM),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_each_bad_claim_has_its_code_and_the_token_is_ours(
    changes: dict[str, object], code: Code
) -> None:
    assert refusal(bearer(**changes))[::2] == (code, True)


def test_a_dashboard_token_is_no_agent() -> None:
    dashboard = {"orgId": "o", "email": "a@b", "plan": "pro", "isSuperAdmin": True}
    times = {"iss": "meshguard", "iat": NOW, "exp": NOW + 60}
    assert refusal("Bearer " + token(dashboard | times)).code is Code.TOKEN_BAD_CLAIM


@pytest.mark.parametrize("typ", ["mg-action+jwt", "dpop+jwt", "JWE", "", 5, None, ["JWT"]])
def test_a_token_for_another_purpose_identifies_nobody(typ: object) -> None:
    refused = refusal("Bearer " + token(claims(), {"alg": "HS256", "typ": typ}))
    assert refused[::2] == (Code.TOKEN_BAD_CLAIM, True)


def test_a_token_without_a_typ_is_accepted() -> None:
    assert known("Bearer " + token(claims(), {"alg": "HS256"})).agent_id == "agent-1"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_start_within_the_leeway_is_accepted(claim: str) -> None:
    assert known(bearer(**{claim: NOW + CLOCK_LEEWAY_S})).agent_id == "agent-1"


def test_the_expiry_has_no_leeway() -> None:
    authorization = bearer(exp=NOW + 10)
    assert known(authorization, NOW + 9.999).agent_id == "agent-1"
    assert refusal(authorization, NOW + 10).code is Code.TOKEN_EXPIRED


def test_a_token_without_an_issuer_is_accepted() -> None:
    assert known(bearer(iss=None)).agent_id == "agent-1"


def test_a_pinned_sidecar_accepts_its_agent_and_no_other() -> None:
    verifier = TokenVerifier(SECRET, pinned_agent="agent-1")
    assert isinstance(verifier.identify(bearer(), NOW), Identity)
    other = verifier.identify(bearer(sub="agent-2"), NOW)
    assert isinstance(other, Unidentified)
    assert (other.code, other.ours) == (Code.TOKEN_WRONG_AGENT, True)


@pytest.mark.parametrize(
    ("spellings", "rung"),
    [
        (["unverified", "untrusted", "anonymous", "sandboxed", "restricted"], 0),
        (["basic"], 1),
        (["verified", "standard"], 2),
        (["trusted", "elevated"], 3),
        (["privileged", "unrestricted"], 4),
    ],
)
def test_aliases_of_a_tier_share_its_rank_and_keep_their_spelling(
    spellings: list[str], rung: int
) -> None:
    for spelling in [*spellings, spellings[0].upper()]:
        caller = known(bearer(tier=spelling))
        assert (caller.tier, caller.rank) == (spelling, rung)


def test_a_word_on_no_rung_has_no_rank() -> None:
    assert rank("admin") is None
    assert rank("") is None


@pytest.mark.parametrize("claim", ["tier", "trustTier", "trust"])
def test_the_tier_is_read_from_any_of_its_claims(claim: str) -> None:
    assert known(bearer(**({"tier": None} | {claim: "elevated"}))).rank == 3


def test_a_token_without_a_tier_is_unverified() -> None:
    assert known(bearer(tier=None)).rank == 0


@pytest.mark.parametrize("claim", ["orgId", "org"])
def test_the_organisation_is_read_from_either_claim(claim: str) -> None:
    assert known(bearer(**{claim: "acme"})).org_id == "acme"


@pytest.mark.parametrize(
    ("authorization", "ours"),
    [
        ("Bearer " + token({"iss": "someone", "sub": "x"}, secret="another"), False),
        ("Bearer " + token({"sub": "x"}, {"alg": "HS512"}, digest="sha512"), False),
        ("Bearer " + token({"iss": "someone"}, {"alg": "RS256"}), True),
        ("Token " + token({"iss": "meshguard"}, secret="another"), True),
        (token({"iss": "meshguard"}, secret="another"), True),
        ('Bearer "' + token({"iss": "meshguard"}, secret="another") + '"', True),
        ("Basic x,Bearer " + token(claims()), True),
        ("Bearer\t" + token(claims()), True),
        (token({"iss": "someone"}, secret="another"), False),
        ("Bearer " + token({"iss": "meshguard"}, secret="another"), True),
        ("Bearer " + token({"iss": "meshguard"}, {"alg": "RS256"}), True),
        ("Bearer " + token({"iss": "someone", "sub": "x", "exp": NOW + 9}), True),
        ("Bearer sk-someone-elses-key", False),
        ("Basic dXNlcjpwYXNz", False),
    ],
)
def test_a_credential_is_ours_when_we_signed_it_or_it_says_so(
    authorization: str, ours: bool
) -> None:
    assert refusal(authorization).ours is ours


def test_a_cached_token_is_not_accepted_past_its_expiry() -> None:
    verifier, authorization = TokenVerifier(SECRET), bearer(exp=NOW + 10)
    assert isinstance(verifier.identify(authorization, NOW), Identity)
    assert isinstance(verifier.identify(authorization, NOW + 9), Identity)
    for later in (10, 11, 10_000):
        caller = verifier.identify(authorization, NOW + later)
        assert isinstance(caller, Unidentified)
        assert caller.code is Code.TOKEN_EXPIRED


def test_the_cache_of_verified_tokens_is_bounded() -> None:
    verifier = TokenVerifier(SECRET)
    for number in range(CACHE_SIZE + 50):
        caller = verifier.identify(bearer(sub=f"agent-{number}"), NOW)
        assert isinstance(caller, Identity)
        assert caller.agent_id == f"agent-{number}"
    assert len(verifier._verified) <= CACHE_SIZE


def test_failures_are_not_cached() -> None:
    verifier, early = TokenVerifier(SECRET), bearer(nbf=NOW + 1000)
    for number in range(50):
        verifier.identify(f"Bearer wrong-{number}", NOW)
        verifier.identify("Bearer " + token(claims(sub=f"a{number}"), secret="wrong"), NOW)
    assert isinstance(verifier.identify(early, NOW), Unidentified)
    assert len(verifier._verified) == 0
    assert isinstance(verifier.identify(early, NOW + 1000), Identity)


@given(st.text(max_size=60).map("Bearer ".__add__) | st.text(max_size=60))
@settings(deadline=None)
def test_any_text_is_answered_without_an_exception(authorization: str) -> None:
    assert isinstance(identify(authorization), Unidentified)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(["iss", "sub", "exp", "nbf", "iat", "tier", "trust", "tags", "org", "name"])


@given(st.dictionaries(NAMES, JSON))
@settings(deadline=None, max_examples=300)
def test_any_signed_claims_are_answered_without_an_exception(changes: dict[str, object]) -> None:
    caller = identify("Bearer " + token(claims() | changes))
    assert isinstance(caller, Identity) or (caller.ours and caller.code.status == 401)


def test_what_is_minted_is_verified() -> None:
    minted = mint(
        SECRET,
        agent_id="agent-7",
        now=NOW + 0.75,
        ttl_s=60,
        name="Seven",
        tier="elevated",
        tags=("b", "a"),
        org_id="acme",
    )
    assert known(f"Bearer {minted}", NOW + 0.75) == Identity(
        "agent-7", "Seven", "elevated", 3, frozenset({"a", "b"}), "acme", 3
    )
    assert refusal(f"Bearer {minted}", NOW + 61).code is Code.TOKEN_EXPIRED


def test_minting_needs_no_more_than_an_id() -> None:
    caller = known("Bearer " + mint(SECRET, agent_id="a", now=NOW, ttl_s=1))
    assert (caller.agent_id, caller.tier, caller.tags) == ("a", "verified", frozenset())


@pytest.mark.parametrize(
    "wish",
    [
        {"agent_id": ""},
        {"agent_id": "a\nb"},
        {"agent_id": "x" * 300},
        {"name": "x" * 300},
        {"name": "a\x00"},
        {"tier": "admin"},
        {"tags": ("a\tb",)},
        {"tags": ("x" * 300,)},
        {"tags": tuple(map(str, range(100)))},
        {"org_id": "a\r\n"},
        {"ttl_s": 0},
        {"ttl_s": -60},
        {"ttl_s": 1e30},
        {"ttl_s": math.nan},
    ],
    ids=lambda wish: ascii(wish)[:40],
)
def test_what_would_be_refused_is_not_minted(wish: dict[str, object]) -> None:
    asked: dict[str, object] = {"agent_id": "agent-1", "now": NOW, "ttl_s": 60} | wish
    with pytest.raises(ValueError, match=r"\w"):
        mint(SECRET, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("ttl_s", [float("inf"), float("nan"), 0, -1])
def test_a_lifetime_that_is_none_is_not_minted(ttl_s: float) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        mint(SECRET, agent_id="a", now=NOW, ttl_s=ttl_s)


def test_a_token_too_long_to_be_accepted_is_not_minted() -> None:
    tags = tuple(f"{number:0250}" for number in range(60))
    with pytest.raises(ValueError, match="use fewer tags"):
        mint(SECRET, agent_id="a", now=NOW, ttl_s=60, tags=tags)


def test_a_token_too_long_to_be_accepted_is_still_ours() -> None:
    caller = TokenVerifier(SECRET).identify(bearer(padding="x" * 9000), NOW)
    assert isinstance(caller, Unidentified)
    assert (caller.code, caller.ours) == (Code.TOKEN_MALFORMED, True)


@pytest.mark.parametrize("tags", ["", 0, False, {}])
def test_tags_of_a_wrong_kind_are_not_no_tags(tags: object) -> None:
    caller = TokenVerifier(SECRET).identify(bearer(tags=tags), NOW)
    assert isinstance(caller, Unidentified)
    assert caller.code is Code.TOKEN_BAD_CLAIM


def test_blanks_around_a_token_make_no_second_cache_entry() -> None:
    verifier = TokenVerifier(SECRET)
    scheme, good = bearer().split()
    for count in range(1, 20):
        assert isinstance(verifier.identify(scheme + " " * count + good, NOW), Identity)
    assert len(verifier._verified) == 1


@pytest.mark.parametrize("piece", ["eyJ", "eyJ.", "eyJ-", ".eyJ", "eyJ.eyJ "])
def test_a_credential_of_many_beginnings_is_read_once(piece: str) -> None:
    # Quadratic, this took minutes.
    assert refusal("Bearer " + piece * 200_000).code is Code.TOKEN_MALFORMED


# Public keys.

ED = Signer("ed")
P256 = Signer("ec", ec.generate_private_key(ec.SECP256R1()))
RSA = Signer("rsa", rsa_key())
SIGNERS = pytest.mark.parametrize("signer", [ED, P256, RSA], ids=lambda signer: signer.alg)
SECRETS = pytest.mark.parametrize("secret", ["", SECRET], ids=["keys alone", "beside a secret"])
#: Nobody here has these.
OTHERS = {
    "EdDSA": Signer("other"),
    "ES256": Signer("other", ec.generate_private_key(ec.SECP256R1())),
    "RS256": Signer("other", rsa_key(number=1)),
}


def verifier(secret: str = "", *signers: Signer) -> TokenVerifier:
    return TokenVerifier(secret, keys=parse(jwks(*(signers or (ED, P256, RSA)))))


def code_of(credential: str, secret: str = "", *signers: Signer) -> Code | None:
    """Why a token is refused; None where it is not."""
    caller = verifier(secret, *signers).identify(f"Bearer {credential}", NOW)
    return caller.code if isinstance(caller, Unidentified) else None


@SIGNERS
@SECRETS
def test_a_token_that_a_public_key_verifies_names_its_agent(signer: Signer, secret: str) -> None:
    said = claims(name="Reviewer", tags=["ci"], orgId="acme")
    tokens = verifier(secret)
    for _ in ("verified", "cached"):
        caller = tokens.identify(f"Bearer {signer.token(said)}", NOW)
        assert caller == Identity(
            "agent-1", "Reviewer", "verified", 2, frozenset({"ci"}), "acme", 2
        )
    # The secret's own are as good as ever, where there is one.
    assert isinstance(tokens.identify(bearer(), NOW), Identity) is bool(secret)


@SIGNERS
@SECRETS
def test_a_token_without_a_kid_needs_exactly_one_key_for_its_algorithm(
    signer: Signer, secret: str
) -> None:
    nameless = signer.token(header={"kid": None})
    assert code_of(nameless, secret) is None
    assert code_of(nameless, secret, Signer(None, signer.key)) is None
    twice = (signer, OTHERS[signer.alg])
    assert code_of(nameless, secret, *twice) is Code.TOKEN_UNKNOWN_KEY


def _with_hmac(key: bytes, **header: object) -> str:
    return token(claims(), {"alg": "HS256", **header}, secret=key.decode("latin-1"))


@SIGNERS
@SECRETS
def test_a_public_key_is_never_the_secret_of_an_hmac(signer: Signer, secret: str) -> None:
    jwk = json.dumps(signer.jwk())
    texts = [
        signer.public_pem(),
        signer.public_pem().strip(),
        jwk.encode(),
        json.dumps(signer.jwk(), separators=(",", ":")).encode(),
        jwks(signer),
        signer.jwk().get("x", signer.jwk().get("n", "")).encode(),
        b"",
    ]
    wanted = Code.TOKEN_BAD_SIGNATURE if secret else Code.TOKEN_WRONG_ALGORITHM
    headers: list[dict[str, object]] = [{}, {"kid": "ed"}, {"kid": "ed", "jwk": signer.jwk()}]
    for text in texts:
        for header in headers:
            assert code_of(_with_hmac(text, **header), secret) is wanted
    # Nor does the header of another algorithm make an HMAC one of its signatures.
    forged = token(claims(), {"alg": signer.alg, "kid": signer.kid}, secret=texts[0].decode())
    assert code_of(forged, secret) is Code.TOKEN_BAD_SIGNATURE


@SECRETS
def test_an_empty_key_signs_nothing(secret: str) -> None:
    for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "ed"}):
        assert code_of(token(claims(), header, secret=""), secret) in {
            Code.TOKEN_BAD_SIGNATURE,
            Code.TOKEN_WRONG_ALGORITHM,
        }
    caller = TokenVerifier("").identify("Bearer " + token(claims(), secret=""), NOW)
    assert isinstance(caller, Unidentified)
    assert caller.code is Code.TOKEN_WRONG_ALGORITHM


@SIGNERS
@SECRETS
@pytest.mark.parametrize(
    "alg",
    ["none", "None", "NONE", "", "HS384", "HS512", "RS384", "RS512", "PS256", "ES384", "ES512",
     "ES256K", "Ed25519", "eddsa", "rs256", None, 5, ["EdDSA", "ES256", "RS256"], {}],
    ids=ascii,
)  # fmt: skip
def test_an_algorithm_that_is_not_pinned_is_a_wrong_one(
    signer: Signer, secret: str, alg: object
) -> None:
    given = signer.token(header={"alg": alg})
    assert code_of(given, secret) is Code.TOKEN_WRONG_ALGORITHM
    stripped = given.rpartition(".")[0]
    assert code_of(f"{stripped}.", secret) is Code.TOKEN_WRONG_ALGORITHM


@SIGNERS
def test_a_key_verifies_no_algorithm_but_its_own(signer: Signer) -> None:
    for other in (ED, P256, RSA):
        if other is not signer:
            confused = signer.token(header={"alg": other.alg})
            assert code_of(confused) is Code.TOKEN_WRONG_ALGORITHM
            confused = signer.token(header={"kid": other.kid})
            assert code_of(confused) is Code.TOKEN_WRONG_ALGORITHM
            confused = signer.token(header={"alg": other.alg, "kid": other.kid})
            assert code_of(confused) is Code.TOKEN_BAD_SIGNATURE
    # Without an id it is tried with the one key of that algorithm.
    confused = signer.token(header={"alg": "RS256" if signer is ED else "EdDSA", "kid": None})
    assert code_of(confused) is Code.TOKEN_BAD_SIGNATURE


@SIGNERS
@SECRETS
def test_a_signature_of_another_key_is_a_bad_one_whatever_the_kid_says(
    signer: Signer, secret: str
) -> None:
    other = OTHERS[signer.alg]
    assert code_of(other.token(), secret) is Code.TOKEN_UNKNOWN_KEY
    assert code_of(other.token(header={"kid": signer.kid}), secret) is Code.TOKEN_BAD_SIGNATURE
    assert code_of(other.token(header={"kid": None}), secret) is Code.TOKEN_BAD_SIGNATURE
    for header in ("jku", "x5u", "x5c", "jwk"):
        value: object = {"jku": "https://x/", "x5u": "file:///x", "x5c": ["A"]}.get(header)
        given = {"kid": signer.kid, header: value or {"kty": "OKP", "crv": "Ed25519", "x": "A"}}
        # Where to find another key is not asked, nor is it held against a token.
        assert code_of(other.token(header=given), secret) is Code.TOKEN_BAD_SIGNATURE
        assert code_of(signer.token(header=given), secret) is None


@SIGNERS
@SECRETS
def test_a_signature_is_over_all_of_a_token_and_whole(signer: Signer, secret: str) -> None:
    head, body, signature = signer.token().split(".")
    privileged = signer.token(claims(tier="privileged")).split(".")[1]
    other_head = signer.token(header={"typ": "JWT"}).split(".")[0]
    for bad in (
        f"{head}.{privileged}.{signature}",
        f"{other_head}.{body}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-4]}",
        f"{head}.{body}.{signature}AAAA",
        f"{head}.{body}.{base64url(bytes(64))}",
        f"{head}.{body}.{base64url(bytes(256))}",
        f"{head}.{body}.{base64url(b'0')}",
    ):
        assert code_of(bad, secret) is Code.TOKEN_BAD_SIGNATURE
    for none in (f"{head}.{body}", f"{head}.{body}.{signature}.{signature}", f"{head}..{body}.!"):
        assert code_of(none, secret) is Code.TOKEN_MALFORMED


def test_a_signature_in_der_is_no_signature_of_a_token() -> None:
    signed = P256.token().rpartition(".")[0]
    assert isinstance(P256.key, ec.EllipticCurvePrivateKey)
    der = P256.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
    assert code_of(f"{signed}.{base64url(der)}") is Code.TOKEN_BAD_SIGNATURE


@SIGNERS
@SECRETS
@pytest.mark.parametrize("kid", [5, ["ed"], {}, True, 1.5], ids=ascii)
def test_a_kid_that_is_no_text_is_malformed(signer: Signer, secret: str, kid: object) -> None:
    assert code_of(signer.token(header={"kid": kid}), secret) is Code.TOKEN_MALFORMED


@SIGNERS
@SECRETS
def test_a_header_that_asks_for_what_is_not_understood_is_malformed(
    signer: Signer, secret: str
) -> None:
    headers: list[dict[str, object]] = [
        {"crit": ["exp"], "exp": NOW + 60},
        {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"crit": "kid"},
    ]
    for header in headers:
        assert code_of(signer.token(header=header), secret) is Code.TOKEN_MALFORMED
        if secret:
            signed = token(claims(), {"alg": "HS256", **header})
            assert code_of(signed, secret) is Code.TOKEN_MALFORMED


@SIGNERS
def test_of_a_header_no_more_is_read_than_has_its_bounds(signer: Signer) -> None:
    assert code_of(signer.token(header={"x": "y" * 600})) is None
    assert code_of(signer.token(header={"x": "y" * MAX_HEADER})) is Code.TOKEN_MALFORMED
    assert code_of(signer.token(header={"kid": "y" * MAX_HEADER})) is Code.TOKEN_MALFORMED
    assert code_of(signer.token(claims(padding="x" * MAX_TOKEN))) is Code.TOKEN_MALFORMED
    for header in (b"", b"[]", b"null", b"\xff", b"{", b'{"alg":' + b"[" * 700):
        assert code_of(signer.token(header=header)) is Code.TOKEN_MALFORMED


@SIGNERS
@SECRETS
def test_what_a_public_key_signed_is_judged_as_what_the_secret_signed(
    signer: Signer, secret: str
) -> None:
    said: Mapping[Code, object] = {
        Code.TOKEN_EXPIRED: claims(exp=NOW),
        Code.TOKEN_NOT_YET_VALID: claims(nbf=NOW + 1000),
        Code.TOKEN_WRONG_ISSUER: claims(iss="someone"),
        Code.TOKEN_BAD_CLAIM: claims(sub=None),
    }
    for code, body in said.items():
        assert code_of(signer.token(body), secret) is code  # type: ignore[arg-type]
    assert code_of(signer.token(header={"typ": "mg-action+jwt"}), secret) is Code.TOKEN_BAD_CLAIM
    for body in (b"[]", b"null", b"not json", b"\xff", b'{"sub":' + b"[" * 5000 + b"}"):
        assert code_of(signer.token(body), secret) is Code.TOKEN_MALFORMED
    pinned = TokenVerifier(secret, "agent-2", parse(jwks(signer)))
    caller = pinned.identify(f"Bearer {signer.token()}", NOW)
    assert isinstance(caller, Unidentified)
    assert (caller.code, caller.ours) == (Code.TOKEN_WRONG_AGENT, True)


@SIGNERS
@SECRETS
def test_what_a_key_of_ours_signed_is_ours_and_so_is_what_says_it_is(
    signer: Signer, secret: str
) -> None:
    def ours(credential: str) -> bool:
        caller = verifier(secret).identify(f"Bearer {credential}", NOW)
        assert isinstance(caller, Unidentified)
        return caller.ours

    other = OTHERS[signer.alg]
    theirs = claims(iss="someone")
    assert ours(signer.token(theirs))
    assert ours(signer.token(b"[]"))
    assert ours(signer.token(theirs, {"crit": ["x"]}))
    assert not ours(other.token(theirs))
    assert not ours(other.token(theirs, {"kid": signer.kid}))
    assert not ours(signer.token(theirs, {"alg": "none"}))
    assert ours(other.token())
    assert ours(other.token(header={"kid": signer.kid}))
    assert ours(signer.token(header={"alg": "none"}))


def test_keys_are_replaced_and_what_the_old_ones_verified_counts_no_longer() -> None:
    old, new = Signer("old"), Signer("new")
    tokens = TokenVerifier(SECRET, keys=parse(jwks(old)))

    def accepted() -> list[bool]:
        credentials = (old.token(), new.token(), bearer().removeprefix("Bearer "))
        callers = [tokens.identify(f"Bearer {credential}", NOW) for credential in credentials]
        return [isinstance(caller, Identity) for caller in callers]

    assert accepted() == [True, False, True]
    assert tokens.use_keys(parse(jwks(old, new)))
    assert accepted() == [True, True, True]
    cached = dict(tokens._verified)
    assert not tokens.use_keys(parse(jwks(old, new)))
    assert tokens._verified == cached
    assert tokens.use_keys(parse(jwks(new)))
    assert accepted() == [False, True, True]
    # The same id again, of another key.
    assert tokens.use_keys(parse(jwks(Signer("new", old.key))))
    assert accepted() == [False, False, True]
    assert tokens.use_keys(None)
    assert accepted() == [False, False, True]


HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), JSON)
SIGNATURES = st.binary(max_size=80) | st.integers(0, 300).map(bytes)


@given(st.sampled_from([ED, P256, RSA]), SIGNATURES)
@settings(deadline=None)
def test_any_signature_that_nobody_made_is_a_bad_one(signer: Signer, signature: bytes) -> None:
    signed = signer.token().rpartition(".")[0]
    assert code_of(f"{signed}.{base64url(signature)}") is Code.TOKEN_BAD_SIGNATURE


@given(st.sampled_from([ED, P256]), HEADERS, st.dictionaries(NAMES, JSON), st.booleans())
@settings(deadline=None, max_examples=200)
def test_any_token_is_answered_without_an_exception(
    signer: Signer, header: dict[str, object], changes: dict[str, object], is_forged: bool
) -> None:
    by = OTHERS[signer.alg] if is_forged else signer
    credential = by.token(claims() | changes, {"kid": signer.kid} | header)
    caller = verifier(SECRET).identify(f"Bearer {credential}", NOW)
    if is_forged or header.get("crit") is not None:
        assert isinstance(caller, Unidentified)
    assert isinstance(caller, Identity) or caller.code.status == 401


# The registry.


class Records:
    """A registry, as changes come."""

    def __init__(self, *agents: Agent) -> None:
        self.version = 0
        self.looked_up: list[str] = []
        self._agents = {agent.agent_id: agent for agent in agents}

    def put(self, agent: Agent) -> None:
        self._agents[agent.agent_id] = agent
        self.version += 1

    def get(self, agent_id: str) -> Agent | None:
        self.looked_up.append(agent_id)
        return self._agents.get(agent_id)


AGENT = new_agent("agent-1", NOW, name="Registered", tier="Standard", tags=("ci",), org_id="acme")


def test_an_agent_that_the_registry_does_not_know_is_who_its_token_says() -> None:
    caller = TokenVerifier(SECRET, registry=Records()).identify(bearer(tier="trusted"), NOW)
    assert caller == TokenVerifier(SECRET, registry=EMPTY).identify(bearer(tier="trusted"), NOW)
    assert caller == Identity("agent-1", "", "trusted", 3, frozenset(), "", 3)


@pytest.mark.parametrize(
    ("registered", "claimed", "effective"),
    [("verified", "privileged", 2), ("privileged", "verified", 2), ("basic", "basic", 1),
     ("unverified", "privileged", 0), ("privileged", "unverified", 0)],
)  # fmt: skip
def test_a_record_wins_over_the_token_and_both_vouch_for_the_lower_rank(
    registered: str, claimed: str, effective: int
) -> None:
    records = Records(changed(AGENT, NOW, tier=registered))
    said = bearer(name="Claimed", tags=["admin"], orgId="other", tier=claimed)
    caller = TokenVerifier(SECRET, registry=records).identify(said, NOW)
    rung = rank(registered)
    assert rung is not None
    assert caller == Identity(
        "agent-1", "Registered", registered, rung, frozenset({"ci"}), "acme", effective
    )


def test_what_a_record_does_not_say_the_token_does_not_say_for_it() -> None:
    records = Records(new_agent("agent-1", NOW, name="n"))
    caller = TokenVerifier(SECRET, registry=records).identify(
        bearer(tags=["admin"], orgId="acme"), NOW
    )
    assert isinstance(caller, Identity)
    assert (caller.tags, caller.org_id) == (frozenset(), "")


@pytest.mark.parametrize("known", [True, False], ids=["registered", "known elsewhere"])
def test_an_agent_that_is_revoked_is_nobody_from_the_next_call_on(known: bool) -> None:
    records = Records(*([AGENT] if known else []))
    tokens = TokenVerifier(SECRET, keys=parse(jwks(ED)), registry=records)
    credentials = [bearer(), f"Bearer {ED.token()}"]
    for credential in credentials:
        assert isinstance(tokens.identify(credential, NOW), Identity)
    records.put(revoked(AGENT if known else "agent-1", NOW, "stolen"))
    for credential in [*credentials, bearer(name="a token it gets later"), *credentials]:
        caller = tokens.identify(credential, NOW)
        assert isinstance(caller, Unidentified)
        assert (caller.code, caller.ours) == (Code.AGENT_REVOKED, True)
        assert "stolen" not in caller.reason
    assert isinstance(tokens.identify(bearer(sub="agent-2"), NOW), Identity)
    assert len(tokens._verified) == 1


def test_a_token_that_is_no_good_says_so_before_its_agent_is_looked_up() -> None:
    records = Records(revoked("agent-1", NOW, ""))
    tokens = TokenVerifier(SECRET, registry=records)
    for bad, code in (
        (bearer(exp=NOW), Code.TOKEN_EXPIRED),
        ("Bearer " + token(claims(), secret="another"), Code.TOKEN_BAD_SIGNATURE),
    ):
        caller = tokens.identify(bad, NOW)
        assert isinstance(caller, Unidentified)
        assert caller.code is code
    assert records.looked_up == []


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"tier": "basic"}, "rank", 1),
        ({"tier": "privileged"}, "rank", 4),
        ({"tier": "privileged"}, "effective_rank", 2),
        ({"tier": "basic"}, "effective_rank", 1),
        ({"tags": ("a", "b")}, "tags", frozenset("ab")),
        ({"tags": ()}, "tags", frozenset()),
        ({"name": "Renamed"}, "name", "Renamed"),
        ({"org_id": ""}, "org_id", ""),
    ],
)
def test_a_changed_record_counts_at_the_next_call_for_tokens_that_were_verified_before(
    changes: dict[str, object], field: str, expected: object
) -> None:
    records = Records(AGENT)
    tokens = TokenVerifier(SECRET, registry=records)
    before = tokens.identify(bearer(), NOW)
    records.put(changed(AGENT, NOW, **changes))
    after = tokens.identify(bearer(), NOW)
    assert getattr(after, field) == expected
    records.put(AGENT)
    assert tokens.identify(bearer(), NOW) == before


def test_a_cached_token_is_looked_up_only_when_the_registry_changed() -> None:
    records = Records(AGENT)
    tokens = TokenVerifier(SECRET, registry=records)
    for _ in range(5):
        tokens.identify(bearer(), NOW)
    assert records.looked_up == ["agent-1"]
    records.put(new_agent("agent-2", NOW, name="n"))
    for _ in range(5):
        tokens.identify(bearer(), NOW)
    assert records.looked_up == ["agent-1"] * 2
    # Nor does a look-up make a token last longer.
    records.put(AGENT)
    caller = tokens.identify(bearer(), NOW + 3600)
    assert isinstance(caller, Unidentified)
    assert caller.code is Code.TOKEN_EXPIRED


def test_a_change_during_a_look_up_is_not_missed() -> None:
    class Racing(Records):
        def get(self, agent_id: str) -> Agent | None:
            found = super().get(agent_id)
            if len(self.looked_up) == 1:
                self.put(revoked(AGENT, NOW, ""))
            return found

    tokens = TokenVerifier(SECRET, registry=Racing(AGENT))
    assert isinstance(tokens.identify(bearer(), NOW), Identity)
    assert isinstance(tokens.identify(bearer(), NOW), Unidentified)


def test_a_registry_that_fails_identifies_nobody_and_is_asked_again() -> None:
    class Failing(Records):
        fails = True

        def get(self, agent_id: str) -> Agent | None:
            if self.fails:
                raise OSError("the disk is gone")
            return super().get(agent_id)

    records = Failing(AGENT)
    tokens = TokenVerifier(SECRET, registry=records)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            tokens.identify(bearer(), NOW)
    records.fails = False
    assert isinstance(tokens.identify(bearer(), NOW), Identity)
    records.fails = True
    records.version += 1
    with pytest.raises(OSError, match="gone"):
        tokens.identify(bearer(), NOW)


def test_the_cache_stays_bounded_while_the_registry_changes() -> None:
    records = Records()
    tokens = TokenVerifier(SECRET, registry=records)
    for number in range(CACHE_SIZE + 20):
        records.version += number % 3 == 0
        for sub in (number, number // 2):
            assert isinstance(tokens.identify(bearer(sub=f"agent-{sub}"), NOW), Identity)
    assert len(tokens._verified) <= CACHE_SIZE
