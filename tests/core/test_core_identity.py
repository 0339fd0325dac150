"""Each way to fail to identify has its own code, nothing is verified past its `exp`, and what is
minted is what is verified."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.errors import Code
from authz.core.identity import (
    CACHE_SIZE,
    CLOCK_LEEWAY_S,
    Identity,
    TokenVerifier,
    Unidentified,
    mint,
)
from authz.core.tiers import rank
from tests.builders import NOW, SECRET, bearer, claims, token


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
