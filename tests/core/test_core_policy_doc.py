"""A policy file is taken whole or not at all, and every problem says where it stands."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.policy_doc import MAX_FILE, PolicyDoc, parse_file

HEAD = 'name: n\nversion: "1"\nappliesTo: {tags: [a]}\ndefaultEffect: deny\n'
RULES = 'rules:\n  - effect: allow\n    actions: ["read:*"]\n'
GOOD = HEAD + RULES
AS_TEXT = "must be text; put it in quotes if YAML reads it as something else"
NOBODY = "appliesTo is missing or one of its lists is empty: the policy applies to nobody"


def read(text: str | bytes) -> tuple[list[PolicyDoc], list[str]]:
    parsed = parse_file(text if isinstance(text, bytes) else text.encode(), "f.yaml")
    return [document for document, _ in parsed.documents], [*map(str, parsed.problems)]


def test_the_seeds_policy_has_no_problems() -> None:
    documents, problems = read(
        """\
name: code-review-policy
version: "1.0"
description: Policy for code review agents
appliesTo:
  tags:
    - code-review
rules:
  - effect: allow
    actions:
      - "read:*"
  - effect: deny
    actions:
      - "write:delete"
      - "admin:*"
defaultEffect: deny
"""
    )
    assert problems == []
    (document,) = documents
    assert (document.name, document.version) == ("code-review-policy", "1.0")
    assert document.applies_to.tags == ["code-review"]
    assert [(rule.effect, rule.actions) for rule in document.rules] == [
        ("allow", ["read:*"]),
        ("deny", ["write:delete", "admin:*"]),
    ]
    assert document.default_effect == "deny"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: error: the file is empty; a policy needs a name"),
        ("---\n", "1:1: error: the file is empty; a policy needs a name"),
        ("# a comment\n", "1:1: error: the file is empty; a policy needs a name"),
        ("- a\n", "1:1: error: a policy is a mapping that starts with `name:`"),
        ("just text\n", "1:1: error: a policy is a mapping that starts with `name:`"),
        (GOOD.replace("name: n\n", ""), "1:1: error: `name` is missing"),
        (GOOD.replace("name: n", 'name: ""'), "1:1: error: `name` must not be empty"),
        (GOOD.replace("name: n", "name: no"), f"1:1: error: `name` {AS_TEXT}"),
        (GOOD.replace("name: n", "name: [n]"), f"1:1: error: `name` {AS_TEXT}"),
        (
            GOOD.replace("name: n", r'name: "a\r\nb"'),
            "1:1: error: the name is blank or has control characters",
        ),
        (HEAD, "1:1: error: `rules` is missing"),
        (HEAD + "rules: []\n", "5:1: error: `rules` must not be empty"),
        (HEAD + "rules:\n", "5:1: error: `rules` must be a list"),
        (HEAD + "rules: {effect: allow}\n", "5:1: error: `rules` must be a list"),
        (HEAD + "rules:\n  - allow\n", "6:5: error: `rules` must be a mapping"),
        (HEAD + "rules:\n  - actions: [x]\n", "6:5: error: `effect` is missing"),
        (
            HEAD + "rules:\n  - actions: [x]\n    effect: alow\n",
            "7:5: error: unknown effect `alow`, did you mean `allow`? (one of 'allow' or 'deny')",
        ),
        (
            GOOD.replace("effect: allow", "effect: require_approval"),
            "6:5: error: the effect `require_approval` is not evaluated by this version",
        ),
        (HEAD + "rules:\n  - effect: allow\n", "6:5: error: `actions` is missing"),
        (GOOD.replace('["read:*"]', "[]"), "7:5: error: `actions` must not be empty"),
        (
            GOOD.replace('["read:*"]', "\n      - x\n      - on"),
            f"9:9: error: `rules.actions` {AS_TEXT}",
        ),
        (
            GOOD.replace('"read:*"', '"  "'),
            "7:5: error: an action pattern is empty or has control characters",
        ),
        (
            GOOD.replace('"read:*"', r'"a\nb"'),
            "7:5: error: an action pattern is empty or has control characters",
        ),
        (GOOD.replace("{tags: [a]}", "[a]"), "3:1: error: `appliesTo` must be a mapping"),
        (GOOD.replace("[a]", "a"), "3:13: error: `tags` must be a list"),
        (GOOD.replace("[a]", "[a, 007]"), f"3:23: error: `appliesTo.tags` {AS_TEXT}"),
        ("name: n\nname: m\n", "2:1: error: `name` appears twice; the first is on line 1"),
        (
            GOOD + "    actions: [x]\n",
            "8:5: error: `actions` appears twice; the first is on line 7",
        ),
        (GOOD + "name : m\n", "8:1: error: `name` appears twice; the first is on line 1"),
        ("name: !!str n\n", "1:7: error: the tag `tag:yaml.org,2002:str` is not allowed"),
        ("name: !x n\n", "1:7: error: the tag `!x` is not allowed"),
        ("a: &x [*x]\n", "1:8: error: the alias `*x` names nothing above it"),
        ("a: *nope\n", "1:4: error: the alias `*nope` names nothing above it"),
        ("? [a]\n: b\n", "1:3: error: a key must be plain text"),
        ("[" * 33 + "]" * 33, "1:33: error: nested deeper than 32 levels"),
        ("[" * 100_000, "1:33: error: nested deeper than 32 levels"),
        ("x: 0x_\n", "1:4: error: `0x_` is not a int"),
    ],
)
def test_an_error_names_its_line_and_column_and_nothing_of_the_file_counts(
    text: str, problem: str
) -> None:
    assert read(text) == ([], [f"f.yaml:{problem}"])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name: n\n\trules: []\n", "f.yaml:2:1: error: not YAML: "),
        ('name: "a\n', "f.yaml:2:1: error: not YAML: "),
        ("name: {a\n", "f.yaml:2:1: error: not YAML: "),
        ("name: a\x07\n", "f.yaml:1:8: error: not YAML: "),
        ("name: n\nrules: @x\n", "f.yaml:2:8: error: not YAML: "),
        (b"name: \xff\n", "f.yaml:1:7: error: the file is not UTF-8"),
        (b"name: ok\nx: a\xc3\n", "f.yaml:2:5: error: the file is not UTF-8"),
        (b"\xff\xfen\x00", "f.yaml:1:1: error: the file is not UTF-8"),
    ],
)
def test_what_is_not_yaml_or_not_utf_8_has_a_place(text: str | bytes, place: str) -> None:
    documents, problems = read(text)
    assert documents == []
    (problem,) = problems
    assert problem.startswith(place)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD.replace('version: "1"\n', ""), "1:1: warning: the policy has no version"),
        (
            GOOD.replace("defaultEffect: deny\n", ""),
            "1:1: warning: no defaultEffect; `deny` is used",
        ),
        (GOOD.replace("appliesTo: {tags: [a]}\n", ""), f"1:1: warning: {NOBODY}"),
        (GOOD.replace("{tags: [a]}", "{}"), f"3:1: warning: {NOBODY}"),
        (GOOD.replace("[a]", "[]"), f"3:1: warning: {NOBODY}"),
        (
            GOOD.replace('"1"', "1.10"),
            '2:1: warning: version 1.10 is a number to YAML; write "1.10"',
        ),
        (
            GOOD + "descriptoin: x\n",
            "8:1: warning: unknown key `descriptoin`, did you mean `description`?; ignored",
        ),
        (GOOD + "xyzzy: x\n", "8:1: warning: unknown key `xyzzy`; ignored"),
        (
            GOOD + "    reson: x\n",
            "8:5: warning: unknown key `reson`, did you mean `reason`?; ignored",
        ),
    ],
)
def test_a_warning_names_its_line_and_column_and_the_policy_counts(text: str, problem: str) -> None:
    documents, problems = read(text)
    assert problems == [f"f.yaml:{problem}"]
    assert [document.name for document in documents] == ["n"]


@pytest.mark.parametrize(
    ("written", "version"), [("1.10", "1.10"), ("2", "2"), ("1e3", "1e3"), ("yes", "yes")]
)
def test_an_unquoted_version_keeps_its_characters(written: str, version: str) -> None:
    ((document,), _) = read(GOOD.replace('"1"', written))
    assert document.version == version


def test_a_missing_default_effect_is_deny() -> None:
    ((document,), _) = read(GOOD.replace("defaultEffect: deny\n", ""))
    assert document.default_effect == "deny"


NOT_EVALUATED_OF_A_POLICY = [
    "extends",
    "rollout",
    "enforcement",
    "required_trust_tier",
    "requiredTrustTier",
    "rateLimits",
    "rate_limit",
    "delegation",
    "humanInTheLoop",
    "ruleOrder",
    "budget",
    "cost_ceiling",
    "default_rules",
    "agent_match",
    "tier",
    "spec",
]
NOT_EVALUATED_OF_A_RULE = [
    "conditions",
    "approval",
    "rate_limit",
    "requiredTrustTier",
    "required_trust_tier",
    "requireActionToken",
]


@pytest.mark.parametrize(
    ("indent", "column", "key"),
    [("", 1, key) for key in NOT_EVALUATED_OF_A_POLICY]
    + [("    ", 5, key) for key in NOT_EVALUATED_OF_A_RULE],
)
def test_what_would_change_the_meaning_but_is_not_evaluated_is_an_error(
    indent: str, column: int, key: str
) -> None:
    documents, problems = read(f"{GOOD}{indent}{key}: {{a: b}}\n")
    assert documents == []
    assert problems == [
        f"f.yaml:8:{column}: error: `{key}` is not evaluated by this version, and the policy would"
        " mean something else without it; the file is not loaded"
    ]


def test_one_bad_document_takes_its_whole_file_along() -> None:
    documents, problems = read(f"{GOOD}---\n{GOOD.replace('read:*', '')}---\n{GOOD}")
    assert documents == []
    assert [problem.split(" ")[0] for problem in problems] == ["f.yaml:15:5:"]


def test_all_documents_of_a_good_file_count_with_the_lines_they_start_on() -> None:
    parsed = parse_file(f"{GOOD}---\n---\n{GOOD.replace('name: n', 'name: m')}".encode(), "f.yaml")
    assert [(document.name, line) for document, line in parsed.documents] == [("n", 1), ("m", 10)]


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    documents, problems = read(
        "name: 5\nrules:\n  - effect: permit\n    actions: []\n  - actions: [x]\nversion: 1\n"
    )
    assert documents == []
    errors = [problem for problem in problems if ": error: " in problem]
    assert [problem.split(" ")[0] for problem in errors] == [
        "f.yaml:1:1:",
        "f.yaml:3:5:",
        "f.yaml:4:5:",
        "f.yaml:5:5:",
    ]


def test_a_byte_order_mark_is_not_part_of_the_first_key() -> None:
    assert read(b"\xef\xbb\xbf" + GOOD.encode()) == read(GOOD)


def test_one_action_may_stand_without_a_list() -> None:
    ((document,), problems) = read(GOOD.replace('actions: ["read:*"]', 'action: "read:*"'))
    assert problems == []
    assert document.rules[0].actions == ["read:*"]


def test_the_effect_is_read_in_any_case() -> None:
    ((document,), problems) = read(GOOD.replace("effect: allow", "effect: DENY"))
    assert (document.rules[0].effect, problems) == ("deny", [])


def test_anchors_and_aliases_work() -> None:
    text = GOOD.replace("[a]", "&who [a]").replace('["read:*"]', "*who")
    ((document,), problems) = read(text)
    assert (document.rules[0].actions, problems) == (["a"], [])


def test_an_alias_bomb_costs_no_more_than_the_limit() -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]")
    documents, problems = read("\n".join(lines))
    assert documents == []
    assert problems[0].endswith("error: more than 200000 values, aliases expanded")


def test_aliases_cannot_nest_deeper_than_the_text_may() -> None:
    opened, closed = "[" * 12, "]" * 12
    lines = [f"a: &a {opened}x{closed}", f"b: &b {opened}*a{closed}", f"c: {opened}*b{closed}"]
    documents, problems = read("\n".join(lines))
    assert documents == []
    assert problems[0].startswith("f.yaml:3:")
    assert "nested deeper" in problems[0]


def test_a_file_over_the_size_limit_is_not_read() -> None:
    documents, problems = read(GOOD.encode() + b"#" * MAX_FILE)
    assert documents == []
    assert problems == [f"f.yaml:1:1: error: the file is larger than {MAX_FILE} bytes"]


def test_a_problem_does_not_repeat_a_long_value() -> None:
    _, problems = read(GOOD.replace("effect: allow", "effect: " + "secret" * 100))
    assert len(problems[0]) < 200


PIECES = ["name: n\n", "rules:\n", "  - effect: allow\n", "    actions: [x]\n", "- ", "&a ", "*a"]
MORE = ["{", "}", "[", "]", ": ", "\t", "\n", "? ", "!x ", "'", '"', "|\n", "<<: ", "---\n", "1.5"]


@given(st.lists(st.sampled_from(PIECES + MORE), max_size=25).map("".join))
@settings(deadline=None, max_examples=500)
def test_any_text_gives_documents_or_an_error(text: str) -> None:
    documents, problems = read(text)
    assert bool(documents) is not any(": error: " in problem for problem in problems)


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_bytes_give_documents_or_an_error(data: bytes) -> None:
    documents, problems = read(data)
    assert bool(documents) is not any(": error: " in problem for problem in problems)


@pytest.mark.parametrize(
    "key",
    ["conditions", "approval", "rateLimit", "rateLimits", "humanInTheLoop", "requireActionToken",
     "requiredTrustTier", "enforcement", "<<"],
)  # fmt: skip
@pytest.mark.parametrize("level", ["policy", "rule", "appliesTo"])
def test_what_would_change_a_decision_is_an_error_wherever_it_stands(key: str, level: str) -> None:
    changes = {
        "policy": ("version:", f"{key}: {{x: y}}\nversion:"),
        "rule": ("    actions:", f"    {key}: {{x: y}}\n    actions:"),
        "appliesTo": ("{tags: [a]}", f"{{tags: [a], {key}: {{x: y}}}}"),
    }
    documents, problems = read(GOOD.replace(*changes[level], 1))
    assert documents == []
    [problem] = problems
    assert f"error: `{key}` is not evaluated by this version" in problem


def test_an_unknown_key_in_applies_to_is_an_error() -> None:
    documents, problems = read(GOOD.replace("{tags: [a]}", "{tags: [a], agentIDs: [b]}"))
    assert documents == []
    [problem] = problems
    assert problem.endswith("error: unknown key `agentIDs` in appliesTo, did you mean `agentIds`?")


@pytest.mark.parametrize(
    ("old", "new", "second"),
    [
        ("    actions:", "    action: other\n    actions:", "action"),
        ("defaultEffect:", "default_effect: allow\ndefaultEffect:", "default_effect"),
        ("appliesTo:", "applies_to: {tags: [b]}\nappliesTo:", "applies_to"),
    ],
)
def test_two_spellings_of_one_key_are_an_error(old: str, new: str, second: str) -> None:
    documents, problems = read(GOOD.replace(old, new, 1))
    assert documents == []
    [problem] = problems
    assert problem.endswith(f"error: `{second}` is given a second time in another spelling")


def test_a_bad_default_effect_is_a_warning_and_denies() -> None:
    documents, problems = read(GOOD.replace("defaultEffect: deny", "defaultEffect: maybe"))
    [document] = documents
    assert document.default_effect == "deny"
    assert problems[0].endswith("warning: unknown defaultEffect `maybe`; `deny` is used")


def test_an_unknown_tier_is_a_warning_and_matches_nobody() -> None:
    documents, problems = read(GOOD.replace("{tags: [a]}", "{trustTiers: [trustd]}"))
    assert len(documents) == 1
    assert problems[0].endswith(
        "warning: unknown trust tier `trustd`, did you mean `trusted`?"
        " (one of unverified, basic, verified, trusted, privileged)"
    )


@pytest.mark.parametrize("number", [":1" * 180 + ".5", "9" * 5000, "0x" + "f" * 5000])
def test_an_absurd_number_is_a_problem_and_no_crash(number: str) -> None:
    documents, problems = read(f"name: 1{number}\n")
    assert documents == []
    assert problems


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("# \u00e9\u00e9\u00e9\nname: \u00e9\u00e9\x07\nversion: x".encode(), "2:9"),
        (b"name: \xc3\xa9\xff", "1:8"),
    ],
)
def test_a_column_counts_characters(data: bytes, place: str) -> None:
    [problem] = parse_file(data, "f.yaml").problems
    assert str(problem).startswith(f"f.yaml:{place}: error: ")


@pytest.mark.parametrize("key", ['"a\\nfake.yaml:1:1: error: b"', '"\\e[31m"', "k" * 5000])
def test_a_hostile_key_stays_on_its_line(key: str) -> None:
    for problem in read(GOOD + f"{key}: 1\n")[1]:
        assert len(problem) < 200
        assert problem.isprintable()
        assert problem.isascii()


def test_a_tag_on_a_key_is_refused() -> None:
    assert read("!!binary name: n\n")[1] == ["f.yaml:1:1: error: a key must be plain text"]


@pytest.mark.parametrize("key", ["condition", "when", "resources", "humanInTheLoops"])
def test_what_is_nearly_a_condition_is_an_error_too(key: str) -> None:
    documents, problems = read(GOOD.replace("    actions:", f"    {key}: x\n    actions:", 1))
    assert documents == []
    assert "is not evaluated by this version" in problems[0]


def test_a_file_tells_a_hundred_problems_and_how_many_more() -> None:
    documents, problems = read(GOOD + "".join(f"zzz{number}: 1\n" for number in range(1000)))
    assert len(documents) == 1
    assert len(problems) == 101
    assert problems[-1].endswith("warning: and 900 more problems in this file")


def test_a_number_in_base_60_stays_small() -> None:
    assert read("x: " + ":".join("1" * 100_000) + "\n")[0] == []


def test_too_many_documents_are_refused() -> None:
    documents, problems = read("--- {name: n}\n" * 1100)
    assert documents == []
    assert problems == ["f.yaml:1001:1: error: more than 1000 documents"]
