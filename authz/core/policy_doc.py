"""Policy files: YAML text to documents, or problems with their place (CONTRACT §5).

- A file is taken whole or not at all: one error and none of its documents count.
- What we do not know is a warning with the nearest known name, and an error in `appliesTo`, where
  ignoring it would reach more callers; what we know but do not evaluate is an error anywhere,
  because a policy without its `conditions` says something else than was written.
- Problems read `file:line:column: error: sentence` and carry no values longer than a word.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from authz.core import tiers, yaml_tree
from authz.core.text import word
from authz.core.yaml_tree import Node, Path, YamlError

#: A file's size, bytes. The seed's policy has 420; ten thousand rules fit.
MAX_FILE: Final = 1 << 20
#: Characters in a name, id or version: they travel in response headers and audit rows.
MAX_NAME: Final = 256
MAX_TEXT: Final = 4096

Effect = Literal["allow", "deny"]

#: Published parts of the language that change what a policy decides and that this version does
#: not evaluate. They are errors wherever they stand: one level too high or too low they were
#: meant all the same.
_NOT_EVALUATED: Final = frozenset(
    {
        "<<",
        "actionPattern",
        "agent_match",
        "apiVersion",
        "approval",
        "budget",
        "conditions",
        "cost_ceiling",
        "context",
        "default_rules",
        "delegation",
        "enforcement",
        "extends",
        "humanInTheLoop",
        "if",
        "rateLimit",
        "rateLimits",
        "rate_limit",
        "requireActionToken",
        "requiredTrustTier",
        "required_trust_tier",
        "resource",
        "resources",
        "rollout",
        "ruleOrder",
        "spec",
        "tier",
        "unless",
        "when",
        "where",
    }
)
#: Two keys at least this much alike are one and a typing error (difflib's ratio): `condition`
#: must not be a warning where `conditions` is an error.
_TYPING_ERROR: Final = 0.85
#: Problems told of one file; the file's author will not read more.
MAX_PROBLEMS: Final = 100


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, validate_by_name=True
    )


class AppliesTo(_Model):
    """Whom a policy is for: OR inside a list, AND between the lists that are present."""

    tags: list[str] | None = None
    trust_tiers: list[str] | None = Field(None, alias="trustTiers")
    agent_ids: list[str] | None = Field(None, alias="agentIds")
    org_ids: list[str] | None = Field(None, alias="orgIds")

    @property
    def is_nobody(self) -> bool:
        """No list is present, or one of those that are is empty (CONTRACT §5)."""
        lists = (self.tags, self.trust_tiers, self.agent_ids, self.org_ids)
        return all(names is None for names in lists) or any(names == [] for names in lists)


def _nobody() -> AppliesTo:
    return AppliesTo.model_validate({})


class Rule(_Model):
    """One line of a policy: what it does to which actions."""

    effect: Effect
    actions: list[str] = Field(
        min_length=1, max_length=10_000, validation_alias=AliasChoices("actions", "action")
    )
    id: str = Field("", max_length=MAX_NAME)
    name: str = Field("", max_length=MAX_NAME)
    description: str = Field("", max_length=MAX_TEXT)
    reason: str = Field("", max_length=MAX_TEXT)

    @field_validator("effect", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return _lower(value)

    @field_validator("actions", mode="before")
    @classmethod
    def _single(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("actions")
    @classmethod
    def _printable(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if not pattern.strip() or not pattern.isprintable():
                raise ValueError("an action pattern is empty or has control characters")
        return value


class PolicyDoc(_Model):
    """A `kind: Policy` document, the kind that is meant where none is named."""

    name: str = Field(min_length=1, max_length=MAX_NAME)
    kind: Literal["Policy"] = "Policy"
    version: str = Field("", max_length=MAX_NAME)
    description: str = Field("", max_length=MAX_TEXT)
    applies_to: AppliesTo = Field(default_factory=_nobody, alias="appliesTo")
    rules: list[Rule] = Field(min_length=1, max_length=10_000)
    default_effect: Effect = Field("deny", alias="defaultEffect")

    @field_validator("name")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value.isprintable() or not value.strip():
            raise ValueError("the name is blank or has control characters")
        return value

    @field_validator("default_effect", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return _lower(value)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something about a policy file that its author should know. Line 0: about all of it."""

    file: str
    line: int
    column: int
    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        if not self.line:
            return f"{self.file}: {self.severity}: {self.message}"
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.message}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one file holds: its documents, or none and at least one error."""

    documents: tuple[tuple[PolicyDoc, int], ...]  # with the line each starts on
    problems: tuple[Problem, ...]


def parse_file(data: bytes, file: str) -> Parsed:
    """Read one policy file. `file` is the name that problems carry."""
    if len(data) > MAX_FILE:
        return _refused(Problem(file, 1, 1, "error", f"the file is larger than {MAX_FILE} bytes"))
    try:
        nodes = yaml_tree.parse(data)
    except YamlError as error:
        return _refused(Problem(file, error.line, error.column, "error", error.message))
    if not nodes:
        return _refused(Problem(file, 1, 1, "error", "the file is empty; a policy needs a name"))
    documents: list[tuple[PolicyDoc, int]] = []
    problems: set[Problem] = set()
    for node in nodes:
        reader = _Reader(node, file)
        document = reader.read()
        problems.update(reader.problems)
        if document is not None:
            documents.append((document, node.line))
    if any(problem.severity == "error" for problem in problems):
        documents.clear()
    return Parsed(tuple(documents), _told(problems))


def _told(problems: set[Problem]) -> tuple[Problem, ...]:
    """The problems in the order of the file, errors first where there are too many."""
    if len(problems) <= MAX_PROBLEMS:
        return tuple(sorted(problems))
    chosen = sorted(problems, key=lambda problem: (problem.severity, problem))[:MAX_PROBLEMS]
    last = max(chosen)
    more = f"and {len(problems) - MAX_PROBLEMS} more problems in this file"
    return (*sorted(chosen), Problem(last.file, last.line, last.column, "warning", more))


def _refused(problem: Problem) -> Parsed:
    return Parsed((), (problem,))


class _Reader:
    """Reads one document and collects everything there is to say about it."""

    def __init__(self, node: Node, file: str) -> None:
        self._node = node
        self._file = file
        self.problems: list[Problem] = []

    def read(self) -> PolicyDoc | None:
        if not isinstance(self._node.value, dict):
            self._say((), "error", "a policy is a mapping that starts with `name:`")
            return None
        data: Any = self._node.plain()
        self._raw_version(data)
        self._readable_default(data)
        while True:
            try:
                document = PolicyDoc.model_validate(data)
            except ValidationError as error:
                if not self._explain(error, data):
                    return None
            else:
                break
        self._warn(document)
        return document

    def _raw_version(self, data: dict[str, Any]) -> None:
        # `version: 1.10` is the number 1.1 to YAML; its author meant the characters.
        version = self._node.value["version"] if "version" in data else None  # type: ignore[call-overload, index]
        if isinstance(version, Node) and isinstance(version.value, (bool, int, float)):
            data["version"] = version.text
            self._say(
                ("version",),
                "warning",
                f'version {version.text} is a number to YAML; write "{version.text}"',
            )

    def _readable_default(self, data: dict[str, Any]) -> None:
        # CONTRACT §5: a bad defaultEffect is a warning, and deny is what stays.
        for key in ("defaultEffect", "default_effect"):
            if key in data and _lower(data[key]) not in ("allow", "deny"):
                written = word(self._node.text_at((key,)))
                self._say((key,), "warning", f"unknown {key} `{written}`; `deny` is used")
                data[key] = "deny"

    def _explain(self, error: ValidationError, data: Any) -> bool:
        """Turn pydantic's errors into problems; true when what is left is worth another try."""
        retry = True
        for item in error.errors(include_url=False, include_input=False):
            path: Path = item["loc"]
            if item["type"] == "extra_forbidden":
                retry &= self._unknown_key(path, data)
                continue
            retry = False
            self._say(path, "error", _sentence(path, item, self._node.text_at(path)))
        return retry

    def _unknown_key(self, path: Path, data: Any) -> bool:
        key, shown = str(path[-1]), word(str(path[-1]))
        model = _model_at(path[:-1])
        if key in _NOT_EVALUATED or difflib.get_close_matches(
            key[:MAX_NAME], _NOT_EVALUATED, n=1, cutoff=_TYPING_ERROR
        ):
            self._say(
                path,
                "error",
                f"`{shown}` is not evaluated by this version, and the policy would mean something"
                " else without it; the file is not loaded",
            )
            return False
        if key in _spellings(model):
            self._say(path, "error", f"`{shown}` is given a second time in another spelling")
            return False
        hint = _nearest(key, _keys(model))
        if model is AppliesTo:
            # Ignored, it would make the policy apply to more callers than its author meant.
            self._say(path, "error", f"unknown key `{shown}` in appliesTo{hint}")
            return False
        holder = data
        for step in path[:-1]:
            holder = holder[step]
        del holder[key]
        self._say(path, "warning", f"unknown key `{shown}`{hint}; ignored")
        return True

    def _warn(self, document: PolicyDoc) -> None:
        given = document.model_fields_set
        if "version" not in given:
            self._say((), "warning", "the policy has no version")
        if "default_effect" not in given:
            self._say((), "warning", "no defaultEffect; `deny` is used")
        scope = document.applies_to
        if scope.is_nobody:
            self._say(
                ("appliesTo",),
                "warning",
                "appliesTo is missing or one of its lists is empty: the policy applies to nobody",
            )
        for index, tier in enumerate(scope.trust_tiers or ()):
            if tier != "*" and tiers.rank(tier) is None:
                hint = _nearest(tier, tiers.TIERS)
                path = ("appliesTo", "trustTiers", index)
                self._say(
                    path,
                    "warning",
                    f"unknown trust tier `{word(tier)}`{hint} (one of {', '.join(tiers.TIERS)})",
                )

    def _say(self, path: Path, severity: Literal["error", "warning"], message: str) -> None:
        line, column = self._node.place(path)
        self.problems.append(Problem(self._file, line, column, severity, message))


def _model_at(path: Path) -> type[_Model]:
    if path[:1] == ("rules",):
        return Rule
    return AppliesTo if path[:1] in (("appliesTo",), ("applies_to",)) else PolicyDoc


def _spellings(model: type[_Model]) -> set[str]:
    """Every key that a field of the model may be written as."""
    known = {*model.model_fields, *_keys(model)}
    return known | {"action"} if model is Rule else known


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _keys(model: type[_Model]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _sentence(path: Path, item: Any, written: str) -> str:
    """Pydantic's finding in a policy author's words (error types of pydantic-core)."""
    where = ".".join(str(step) for step in path if not isinstance(step, int)) or "document"
    leaf = str(path[-1]) if path and not isinstance(path[-1], int) else where
    context = item.get("ctx", {})
    match item["type"]:
        case "missing":
            return f"`{leaf}` is missing"
        case "literal_error" if _lower(written) == "require_approval":
            return f"the {leaf} `require_approval` is not evaluated by this version"
        case "literal_error":
            expected = context["expected"]
            words = [part.strip("'") for part in expected.replace(" or ", ", ").split(", ")]
            return f"unknown {leaf} `{word(written)}`{_nearest(written, words)} (one of {expected})"
        case "string_type":
            return f"`{leaf}` must be text; put it in quotes if YAML reads it as something else"
        case "list_type":
            return f"`{leaf}` must be a list"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"`{leaf}` must be a mapping"
        case "too_short" | "string_too_short":
            return f"`{leaf}` must not be empty"
        case "too_long" | "string_too_long":
            return f"`{leaf}` is longer than {context['max_length']}"
        case "value_error":
            return str(context["error"])
    return f"`{leaf}`: {item['msg']}"


def _nearest(written: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(written[:MAX_NAME], known, n=1)
    return f", did you mean `{close[0]}`?" if close else ""
