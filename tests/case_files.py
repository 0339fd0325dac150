"""Cases as data: what a YAML file under `tests/cases` may say, and nothing else.

- A case is what is given, and then steps: calls with their verdict and audit row, and what people
  and time do between them.
- A key that is not known, a code that there is not, a status that is not the code's, or a column
  that a row does not have is an error of the file, so that nothing stands there unread.
- What exists only when the case runs is written as `${pending.last}`, `${token.last}`,
  `${relationship.NAME}` or `${version}`; `case_world` fills it in. A header that is forged says
  how: `{chain: NAME, hops: [1, 3]}`.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from authz.core.audit import AuditRow
from authz.core.errors import Code
from tests.builders import NOW

DIRECTORY: Final = Path(__file__).parent / "cases"
#: The stages, and what is no stage's: what the gate itself answers.
STAGES: Final = (
    "auth",
    "delegation-fuse",
    "intent",
    "action-token",
    "policy",
    "destructive-gate",
    "rate-limit",
    "privilege",
    "provenance-gate",
    "risk-wallet",
    "gate",
)


class Part(BaseModel):
    """A mapping of a case."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _text(value: object) -> object:
    # Settings are an environment: `true` and 60 are texts there.
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else value


Setting = Annotated[str, BeforeValidator(_text)]


class Agent(Part):
    """An agent of the registry."""

    name: str = ""
    tier: str = "verified"
    tags: list[str] = Field(default_factory=list)
    org_id: str = ""


class Delegation(Part):
    """A relationship, made as the admin API would make it."""

    source: str
    target: str
    scope: list[str]
    parent: str = ""
    type: str = "delegates_to"
    resources: list[str] = Field(default_factory=list)
    ceiling: list[str] | None = None
    max_depth: int = 0
    requires_approval: bool = False
    #: Seconds from now on.
    lasts: int = 3600


class Forged(Part):
    """A header's value that is made when the case runs, and then perhaps spoilt."""

    #: The signed chain of a relationship.
    chain: str = ""
    #: The last action token that was minted.
    action_token: Literal["", "last"] = ""
    #: An agent's token, as it stands after `Bearer`.
    token: str = ""
    #: A text.
    text: str = ""

    #: Which hops the chain has, in this order, counted from 1; all of them by default.
    hops: list[int] = Field(default_factory=list)
    #: Claims that are others; of a chain by hop, with a dot between the keys. `now+60` is a time.
    claims: dict[str, Any] = Field(default_factory=dict)
    by_hop: dict[int, dict[str, Any]] = Field(default_factory=dict)
    #: Fields of the JOSE header that are others; null leaves one out.
    header: dict[str, Any] = Field(default_factory=dict)
    #: Whose key signs it: ours, that of somebody else, one of `given.keys`, or nobody's anew, so
    #: that the signature stays which was there before the claims were changed.
    signed: str = "ours"
    #: Of an HMAC.
    digest: Literal["sha256", "sha512"] = "sha256"
    #: How often all of it stands there, one behind the other; a chain's with `~` between.
    times: int = 1
    #: Characters that are missing at the end.
    cut: int = 0
    #: The character, counted from the end, of which one bit is another.
    flip: int = 0
    #: What stands before and after it.
    before: str = ""
    after: str = ""

    @model_validator(mode="after")
    def _is_one_thing(self) -> "Forged":
        if sum(map(bool, (self.chain, self.action_token, self.token, self.text))) != 1:
            raise ValueError("one of chain, action_token, token and text")
        if self.hops and not self.chain:
            raise ValueError("only a chain has hops")
        return self


class Call(Part):
    """What an agent asks."""

    source: Literal["proxy", "check", "batch", "mint"] = "proxy"
    method: str = "GET"
    path: str = "/proxy/docs"
    host: str = "upstream.example"
    #: The agent whose token the call carries; with `claims` that are others, null for none.
    agent: str = Field("", alias="as")
    claims: dict[str, Any] = Field(default_factory=dict)
    #: What it declares: headers, or a batch's own fields.
    action: str = ""
    resource: str = ""
    headers: dict[str, str | Forged] = Field(default_factory=dict)
    #: Bytes in hexadecimal instead of a CheckRequest with all that.
    raw: str | None = None

    @model_validator(mode="after")
    def _can_be_asked(self) -> "Call":
        if self.source in ("batch", "mint") and not self.action:
            raise ValueError(f"a {self.source} call names its action")
        if self.raw is not None and self.source != "proxy":
            raise ValueError("only a proxied call is bytes")
        return self


_CODES: Final[dict[object, Code]] = {str(code): code for code in Code}


def _code(value: object) -> object:
    if value not in _CODES:
        raise ValueError(f"no code: {value}")
    return _CODES[value]


class Then(Part):
    """The answer that is expected; what is null must be absent."""

    status: int
    code: Annotated[Code, BeforeValidator(_code)]
    #: Of the row and of a denial; what is left out is not compared.
    stage: str | None = ""
    policy: str | None = ""
    rule: str | None = ""
    reason: str = ""
    #: Only a policy or rule in dry run objects, so the call passes.
    dry_run: bool = False
    #: Fields of the answer's body, and headers of the answer.
    body: dict[str, Any] = Field(default_factory=dict)
    headers: dict[str, str | None] = Field(default_factory=dict)
    #: Of a call that is forwarded: headers that it gets, and those that it loses.
    upstream: dict[str, str] = Field(default_factory=dict)
    removed: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _says_enough(self) -> "Then":
        status = self.code.status
        if 400 <= self.status != status:
            raise ValueError(f"{self.code} is answered with {status}")
        if status in (401, 403, 429) and "" in (self.stage, self.rule):
            raise ValueError("a denial names its stage and rule")
        return self


class Asked(Part):
    """A call with its answer and its row."""

    call: Call
    then: Then
    #: Columns of its row; null is NULL. `metadata` is compared by the keys that stand here. None
    #: where there is to be no row.
    row: dict[str, Any] | None = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_columns(self) -> "Asked":
        _known_columns(self.row)
        return self


class Answer(Part):
    """What a person says to a pending action."""

    pending: str = "${pending.last}"
    approver: str = "ann"
    words: str = ""


class Change(Part):
    """An agent's record, some fields others."""

    agent: str
    tier: str | None = None
    tags: list[str] | None = None


class Wallet(Part):
    """What an agent has spent of a wallet."""

    wallet: str
    agent: str


class Spent(Wallet):
    """That it has spent so much."""

    spent: int


class Named(Delegation):
    """A relationship that is made in the middle of a case."""

    name: str


#: What people and time do.
OPERATIONS: Final = (
    "create_agent",
    "update_agent",
    "revoke_agent",
    "delegate",
    "revoke_relationship",
    "approve",
    "reject",
    "reset_fuse",
    "reset_wallet",
)


#: What a step says of the one thing that happens in it.
_BESIDES: Final = ("then", "row", "fails", "also")


class Step(Part):
    """One thing that happens."""

    call: Call | None = None
    #: Calls that come at once: one snapshot, one transaction.
    together: list[Asked] | None = None

    create_agent: dict[str, Agent] | None = None
    update_agent: Change | None = None
    revoke_agent: str | None = None
    delegate: Named | None = None
    revoke_relationship: str | None = None
    approve: Answer | None = None
    reject: Answer | None = None
    reset_fuse: str | None = None
    reset_wallet: Wallet | None = None

    #: Seconds that pass, and seconds that the clock on the wall is set forward, or back.
    advance: float | None = None
    step_clock: float | None = None
    #: What is in POLICIES_DIR from now on.
    documents: str | None = None
    mode: Literal["enforce", "audit", "bypass"] | None = None
    #: The process ends; another one begins with what is in the database.
    restart: bool | None = None
    #: Somebody else holds the database's lock, or gives it back.
    store: Literal["locked", "free"] | None = None
    #: So many calls are turned away, with this answer.
    turn_away: int | None = None
    #: What has been spent.
    spent: Spent | None = None

    #: Of `call` and `turn_away`.
    then: Then | None = None
    #: Of `call` and of what people do.
    row: dict[str, Any] | None = Field(default_factory=dict)
    #: Why what people do is refused, word for word.
    fails: str = ""
    #: Rows about the sidecar itself that come with calls, or with a restart.
    also: list[dict[str, Any]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _is_one_thing(self) -> "Step":
        said = [name for name in self.model_fields_set if name not in _BESIDES]
        if len(said) != 1:
            raise ValueError(f"a step is one thing, and this one is {', '.join(said) or 'none'}")
        [what] = said
        if (self.then is not None) is not (what in ("call", "turn_away")):
            raise ValueError("a call, and nothing else, has a `then`")
        if "row" in self.model_fields_set and what not in ("call", *OPERATIONS):
            raise ValueError(f"no row comes of {what} alone")
        if self.fails and what not in OPERATIONS:
            raise ValueError("only what people do fails")
        if self.also and what not in ("call", "together", "restart"):
            raise ValueError(f"no rows come with {what}")
        for row in (self.row, *self.also):
            _known_columns(row)
        return self

    @property
    def what(self) -> str:
        """What happens in it."""
        return next(name for name in self.model_fields_set if name not in _BESIDES)

    @property
    def asked(self) -> list[Asked]:
        """Its calls."""
        if self.call is not None and self.then is not None:
            return [Asked(call=self.call, then=self.then, row=self.row)]
        return self.together or []


class Given(Part):
    """What is there before the first step."""

    #: What is in POLICIES_DIR: one file, word for word.
    documents: str = ""
    #: It is meant to have errors.
    bad_documents: bool = False
    agents: dict[str, Agent] = Field(default_factory=dict)
    relationships: dict[str, Delegation] = Field(default_factory=dict)
    #: As in the environment of the process.
    settings: dict[str, Setting] = Field(default_factory=dict)
    #: Names of key pairs whose public halves are in JWKS_FILE.
    keys: list[str] = Field(default_factory=list)
    #: The chain, where it is not the real one: its stages by name, `broken` which raises, and
    #: `slow` which takes until Envoy has answered.
    chain: list[str] | None = None
    #: Seconds since the epoch.
    clock: float = NOW


class Case(Part):
    """One file."""

    #: A sentence.
    what: str = Field(min_length=20, pattern=r"\.$")
    through: Literal["gate", "envoy"] = "gate"
    #: Why it is not run a second time in audit mode.
    not_in_audit_mode: str = ""
    given: Given = Field(default_factory=Given)
    steps: list[Step] = Field(min_length=1)

    @model_validator(mode="after")
    def _tells_why(self) -> "Case":
        has_mode = "MODE" in self.given.settings or any(step.mode for step in self.steps)
        if has_mode is not bool(self.not_in_audit_mode) and has_mode:
            raise ValueError("its mode is a part of it: say so in not_in_audit_mode")
        return self

    @property
    def expected(self) -> Iterator[tuple[Code, str]]:
        """Every code that is expected, and where: in an answer or in a row."""
        for step in self.steps:
            for asked in step.asked:
                yield asked.then.code, "answer"
                if asked.row is not None and "code" not in asked.row:
                    yield asked.then.code, "row"
            if step.what == "turn_away" and step.then is not None:
                yield step.then.code, "answer"
            for row in (step.row, *step.also, *(asked.row for asked in step.asked)):
                if row and "code" in row:
                    yield _CODES[row["code"]], "row"

    @property
    def denies(self) -> bool:
        """Whether anything in it is answered with a refusal."""
        answers = [asked.then for step in self.steps for asked in step.asked]
        answers += [step.then for step in self.steps if step.then is not None]
        return any(then.status >= 400 for then in answers)


def _known_columns(row: dict[str, Any] | None) -> None:
    unknown = set(row or {}) - set(AuditRow._fields)
    if unknown:
        raise ValueError(f"no columns of a row: {', '.join(sorted(unknown))}")


class _Loader(yaml.CSafeLoader):
    """Refuses a key that appears twice: one of the two would not be tested."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if len(set(keys)) != len(keys):
            raise ValueError(f"{node.start_mark}: a key stands there twice")
        return super().construct_mapping(node, deep)


@functools.cache
def read(path: Path) -> Case:
    """The case in a file.

    Raises:
        ValueError: it says something that no case can.
    """
    try:
        return Case.model_validate(yaml.load(path.read_text("utf-8"), _Loader))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from None


def paths(through: str) -> list[Path]:
    """The files of the cases that are run through this."""
    return [path for path in sorted(DIRECTORY.rglob("*.yaml")) if read(path).through == through]


def name_of(path: Path) -> str:
    """Stage and sentence, for a test's id."""
    return str(path.relative_to(DIRECTORY).with_suffix(""))
