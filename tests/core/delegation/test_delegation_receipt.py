"""A chain is what trusted keys signed, character by character, or it is refused; and what it costs
to refuse one does not depend on who made it."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.delegation.receipt import (
    CACHE_SIZE,
    MAX_CHAIN,
    ChainReader,
    Fits,
    chain_of,
    read_chain,
    receipt,
    signed,
)
from authz.core.delegation.relationship import Refused, Relationship
from authz.core.errors import Code
from tests.builders import NOW
from tests.core.delegation.chains import Key, below, chain, first, rel, trusting

KEY, OTHER = Key(1), Key(2)
KEYS = trusting(k1=KEY)
HOPS = chain("a", "b", "c")
CHAIN = chain_of(HOPS, KEY.sign, "k1")
FIRST = CHAIN.split("~")[0]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(jws: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a hop."""
    header, claims, _ = (
        base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in jws.split(".")
    )
    return json.loads(header), json.loads(claims)


HEADER, CLAIMS = parts(FIRST)


def made(
    header: Mapping[str, object] | bytes = HEADER,
    claims: Mapping[str, object] | bytes = CLAIMS,
    key: Key = KEY,
) -> str:
    """A hop whose every part is the test's choice; the signature over it is a true one."""
    texts = [
        part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)
    ]
    message = ".".join(base64url(text) for text in texts)
    return f"{message}.{base64url(key.sign(message.encode()))}"


def refusal(text: str, keys: Mapping[str, Fits] = KEYS) -> Code:
    with pytest.raises(Refused) as refused:
        read_chain(text, keys)
    assert refused.value.reason
    return refused.value.code


def test_a_chain_tells_the_hops_that_were_signed() -> None:
    hops = (
        *chain("a", "b", "\u4e2d"),
        first(
            resources=("docs/*",),
            ceiling=(),
            requires_approval=True,
            created_at=round(NOW + 0.123456, 6),
            org_id="",
            source_name="",
            source_tags=(),
            source_org="",
        ),
    )
    assert read_chain(chain_of(hops, KEY.sign, "k1"), KEYS) == hops


def test_a_hop_is_a_jws_of_its_own_type() -> None:
    header, claims = parts(signed(HOPS[0], KEY.sign, "k1"))
    assert header == {"alg": "EdDSA", "kid": "k1", "typ": "mg-delegation+jwt"}
    assert claims == {
        "version": "1.0",
        "receiptId": "rcpt_" + rel(1)[4:],
        "timestamp": "2023-11-14T21:13:20.000000Z",
        "orgId": "acme",
        "relationshipType": "delegates_to",
        "issuer": {
            "agentId": "a",
            "tier": "trusted",
            "name": "A",
            "tags": ["ci"],
            "orgId": "acme",
        },
        "delegate": {"agentId": "b"},
        "scope": {
            "actions": ["read:*"],
            "resources": [],
            "ceiling": ["read:*"],
            "maxDepth": 4,
            "expiresAt": "2023-11-14T23:13:20.000000Z",
            "requiresApproval": False,
        },
        "chain": {"depth": 1, "rootAgentId": "a"},
    }


def test_a_hop_of_no_organisation_names_none() -> None:
    assert "orgId" not in parts(signed(first(org_id=""), KEY.sign, "k1"))[1]


def test_a_receipt_shows_the_claims_and_the_signature() -> None:
    hop = HOPS[1]
    jws = signed(hop, KEY.sign, "k1")
    shown = receipt(hop, jws)
    assert shown["signature"] == "sig_" + jws.split(".")[2]
    assert shown["chain"] == {
        "depth": 2,
        "parentReceiptId": "rcpt_" + rel(1)[4:],
        "rootAgentId": "a",
    }
    assert {key: value for key, value in shown.items() if key != "signature"} == parts(jws)[1]


def test_a_chain_that_no_header_could_carry_is_not_made() -> None:
    wide = tuple(f"read:{number:03d}{'x' * 200}" for number in range(64))
    with pytest.raises(ValueError, match="longer than 16384 characters"):
        chain_of([first(scope=wide)], KEY.sign, "k1")
    for hops in ((), chain(*"abcdefg")):
        with pytest.raises(ValueError, match="a chain has 1 to 5 hops"):
            chain_of(hops, KEY.sign, "k1")


@pytest.mark.parametrize("hops", [6, 1000, 100_000])
def test_a_chain_of_too_many_hops_is_refused_before_any_signature_is_looked_at(hops: int) -> None:
    key = Key(1)
    assert refusal("~".join([FIRST] * hops), trusting(k1=key)) is Code.DELEGATION_TOO_DEEP
    assert key.verified == 0


def test_a_chain_that_is_too_long_is_refused_before_any_signature_is_looked_at() -> None:
    key = Key(1)
    text = "~".join([FIRST, "x" * MAX_CHAIN])
    assert refusal(text, trusting(k1=key)) is Code.DELEGATION_MALFORMED
    assert key.verified == 0


HEAD, BODY, PROOF = FIRST.split(".")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "~",
        ".",
        "..",
        "...",
        rel(1),
        f"{FIRST}~",
        f"~{FIRST}",
        f"{HEAD}.{BODY}",
        f"{HEAD}.{BODY}.",
        f"{FIRST}.{PROOF}",
        f"{FIRST}=",
        f"{FIRST}==",
        f" {FIRST}",
        f"{FIRST}\n",
        f"{HEAD}.{BODY}.{PROOF[:-1]}+",
        f"{HEAD}.{BODY}.{PROOF[:-1]}\u00e9",
        # One character too many encodes no further byte.
        f"{HEAD}.{BODY}.{PROOF}AAA",
        f"{'A' * 2000}.{BODY}.{PROOF}",
        made(header=b"[]"),
        made(header=b"not json"),
        made(header=b"\xff"),
        made(header=b'{"alg":"EdDSA","alg":"EdDSA","kid":"k1","typ":"mg-delegation+jwt"}'),
        made(header={**HEADER, "crit": []}),
        made(header={**HEADER, "jwk": {}}),
        made(header={"alg": "EdDSA", "kid": "k1"}),
        made(claims=b"null"),
        made(claims=b'{"version":'),
        made(claims=b"[" * 5000),
        made(claims=json.dumps(CLAIMS).encode() + b"{}"),
        made(claims=json.dumps(CLAIMS).encode("utf-16")),
        made(claims=b"\xef\xbb\xbf" + json.dumps(CLAIMS).encode()),
        made(claims=json.dumps(CLAIMS).replace('"depth": 1', '"depth": 1, "depth": 1').encode()),
    ],
    ids=lambda text: f"{len(text)}:{text[:12]!a}",
)
def test_what_is_no_chain_is_malformed(text: str) -> None:
    assert refusal(text) is Code.DELEGATION_MALFORMED


def changed(path: str, value: object) -> dict[str, Any]:
    """The claims with one of them changed; None takes it away."""
    claims: dict[str, Any] = json.loads(json.dumps(CLAIMS))
    *steps, last = path.split(".")
    place = claims
    for step in steps:
        place = place[step]
    place[last] = value
    if value is None:
        del place[last]
    return claims


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((path, None) for path in (
            "version", "receiptId", "timestamp", "relationshipType", "issuer", "delegate", "scope",
            "chain", "issuer.agentId", "issuer.tier", "delegate.agentId", "scope.actions",
            "scope.resources", "scope.ceiling", "scope.maxDepth", "scope.expiresAt",
            "scope.requiresApproval", "chain.depth", "chain.rootAgentId",
        )),
        ("extra", 1),
        ("scope.extra", 1),
        ("delegate", "b"),
        ("version", "2.0"),
        ("version", 1.0),
        ("receiptId", rel(1)),
        ("receiptId", rel(1)[4:]),
        ("receiptId", "rcpt_1"),
        ("receiptId", ["rcpt_"]),
        ("timestamp", NOW),
        ("timestamp", "2023-11-14"),
        ("timestamp", "2023-11-14T21:13:20Z"),
        ("timestamp", "9999-12-31T23:59:59.000000Z"),
        ("timestamp", "soon"),
        ("timestamp", "1969-12-31T23:59:59.000000Z"),
        ("timestamp", "9999-12-31T23:59:59.999999Z"),
        ("timestamp", "0001-01-01T00:00:00.000000Z"),
        ("scope.expiresAt", "2023-11-15T00:13:20.000000+01:00"),
        ("relationshipType", "owns"),
        ("orgId", 7),
        ("delegate.agentId", ""),
        ("delegate.agentId", "\ud800"),
        ("issuer.tier", "royal"),
        ("issuer.tags", {}),
        ("scope.actions", "*"),
        ("scope.actions", ["x"] * 65),
        ("scope.maxDepth", 9),
        ("scope.requiresApproval", "no"),
        ("chain.depth", 6),
        ("chain.depth", True),
        ("chain.parentReceiptId", ""),
        ("chain.parentReceiptId", "rcpt_"),
        ("chain.parentReceiptId", 1),
    ],
)  # fmt: skip
def test_a_hop_with_claims_that_none_has_is_malformed(path: str, value: object) -> None:
    assert refusal(made(claims=changed(path, value))) is Code.DELEGATION_MALFORMED


def test_a_trust_score_may_be_told_and_is_not_believed() -> None:
    assert read_chain(made(claims=changed("issuer.trustScore", 0.9)), KEYS) == HOPS[:1]


@pytest.mark.parametrize(
    "text",
    [
        made(key=OTHER),
        made({**HEADER, "kid": "k2"}),
        made({**HEADER, "kid": ["k1"]}),
        made({**HEADER, "kid": ""}),
        made({**HEADER, "alg": "none"}),
        made({**HEADER, "alg": "eddsa"}),
        made({**HEADER, "alg": "HS256"}),
        made({**HEADER, "typ": "JWT"}),
        made({**HEADER, "typ": "MG-delegation+jwt"}),
        f"{HEAD}.{BODY}.{base64url(bytes(64))}",
        f"{HEAD}.{BODY}.{base64url(bytes(63))}",
        f"{HEAD}.{BODY}.{base64url(bytes(65))}",
        f"{HEAD}.{CHAIN.split('~')[1].split('.')[1]}.{PROOF}",
        f"{FIRST}~{made(key=OTHER)}",
    ],
)
def test_a_hop_that_no_trusted_key_signed_is_a_bad_signature(text: str) -> None:
    assert refusal(text) is Code.DELEGATION_BAD_SIGNATURE


def test_a_signature_of_another_length_is_not_looked_at() -> None:
    key = Key(1)
    text = f"{HEAD}.{BODY}.{base64url(bytes(65))}"
    assert refusal(text, trusting(k1=key)) is Code.DELEGATION_BAD_SIGNATURE
    assert key.verified == 0


def test_a_long_header_is_not_read_whoever_signed_it() -> None:
    kid = "k" * 1024
    assert refusal(made({**HEADER, "kid": kid}), trusting(**{kid: KEY})) is (
        Code.DELEGATION_MALFORMED
    )


def test_a_key_signs_under_its_own_name_alone() -> None:
    both = trusting(k1=KEY, k2=OTHER)
    swapped = made({**HEADER, "kid": "k2"})
    assert refusal(swapped, both) is Code.DELEGATION_BAD_SIGNATURE
    assert read_chain(made({**HEADER, "kid": "k2"}, key=OTHER), both) == HOPS[:1]


def test_nothing_of_a_hop_is_read_that_was_not_signed() -> None:
    """Or its parser would be open to everybody."""
    assert refusal(made(claims=b"not json", key=OTHER)) is Code.DELEGATION_BAD_SIGNATURE


@given(st.integers(0, len(CHAIN) - 1), st.characters(max_codepoint=0x2FF))
@settings(deadline=None, max_examples=500)
def test_no_other_text_than_the_signed_one_is_accepted(at: int, character: str) -> None:
    text = CHAIN[:at] + character + CHAIN[at + 1 :]
    if text != CHAIN:
        assert refusal(text) in {Code.DELEGATION_MALFORMED, Code.DELEGATION_BAD_SIGNATURE}


def test_not_even_its_last_bits_can_be_chosen() -> None:
    """Two of the bits in a signature's last character encode nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    accepted = []
    for character in alphabet:
        try:
            read_chain(FIRST[:-1] + character, KEYS)
        except Refused:
            continue
        accepted.append(character)
    assert accepted == [FIRST[-1]]


@given(st.text(max_size=40) | st.text(alphabet="eyJ.~-_A", max_size=60))
def test_any_text_is_refused_with_a_sentence(text: str) -> None:
    assert refusal(text).startswith("delegation_")


def test_a_reader_verifies_a_chain_once() -> None:
    key = Key(1)
    reader = ChainReader(trusting(k1=key))
    assert reader.read(CHAIN) == HOPS
    assert reader.read(CHAIN) is reader.read(CHAIN)
    assert key.verified == len(HOPS)


def test_a_reader_remembers_no_failure() -> None:
    key = Key(1)
    reader = ChainReader(trusting(k1=key))
    reader.read(CHAIN)
    for _ in range(2):
        with pytest.raises(Refused):
            reader.read(made(key=OTHER))
    assert key.verified == len(HOPS) + 2
    reader.read(CHAIN)
    assert key.verified == len(HOPS) + 2


def test_a_reader_remembers_a_bounded_number_of_chains() -> None:
    key = Key(1)
    reader = ChainReader(trusting(k1=key))
    hops: list[Relationship] = [first(id=rel(number)) for number in range(CACHE_SIZE + 1)]
    texts = [chain_of([hop], KEY.sign, "k1") for hop in hops]
    for text in (*texts, texts[-1]):
        reader.read(text)
    assert key.verified == CACHE_SIZE + 1
    reader.read(texts[0])
    assert key.verified == CACHE_SIZE + 2


def test_a_key_that_is_not_trusted_any_more_opens_nothing_it_opened_before() -> None:
    reader = ChainReader(KEYS)
    assert reader.read(CHAIN) == HOPS
    reader.use_keys(trusting(k2=OTHER))
    with pytest.raises(Refused) as refused:
        reader.read(CHAIN)
    assert refused.value.code is Code.DELEGATION_BAD_SIGNATURE
    assert reader.read(chain_of([below(HOPS[0], "z")], OTHER.sign, "k2"))
