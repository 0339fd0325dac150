"""One operation, as its author describes it, and its part of the OpenAPI document.

Paths, and the parameters in them and in queries, are the application's own: FastAPI knows them.
What it cannot know is said here: who may, what a body and an answer look like, and what can go
wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, NotRequired

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, with_config
from pydantic.json_schema import GenerateJsonSchema
from typing_extensions import TypedDict

from authz.edges.http.app import WORDS

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
#: Answers are what is described and nothing more.
CLOSED: Final = ConfigDict(extra="forbid")

Time = Annotated[
    str, Field(description="RFC 3339, UTC.", json_schema_extra={"format": "date-time"})
]

#: Who may ask, as OpenAPI's security requirements: any one of a list is enough.
ANYBODY: Final[Sequence[Mapping[str, list[str]]]] = ()
ADMIN: Final[Sequence[Mapping[str, list[str]]]] = ({"adminToken": []}, {"adminBearer": []})
AGENT: Final[Sequence[Mapping[str, list[str]]]] = ({"agentToken": []},)
EITHER: Final[Sequence[Mapping[str, list[str]]]] = (*AGENT, *ADMIN)

SCHEMES: Final[Mapping[str, Mapping[str, str]]] = {
    "agentToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An agent's own token, as `POST /admin/agents` and `authz token mint` make"
        " it.",
    },
    "adminToken": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Admin-Token",
        "description": "What ADMIN_TOKEN is. It counts before `Authorization`.",
    },
    "adminBearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "The same, for clients that send nothing but `Authorization`.",
    },
}


@with_config(CLOSED)
class Error(TypedDict):
    """Every refusal. `code` is one of docs/codes.md, where one is to blame."""

    error: str
    message: str
    code: NotRequired[str]


#: What a status means wherever an operation does not say it better.
MEANINGS: Final[Mapping[int, str]] = {
    201: "Made.",
    202: "Recorded.",
    206: "What was asked for of it, up to its end.",
    304: "It is as it was; there is no body.",
    400: "What was sent is not usable; `message` says where and why.",
    401: "The credential is missing or wrong. Never 403, which SDKs take for a denial.",
    403: "Whoever asks may not.",
    404: "There is none.",
    405: "Not with this method.",
    409: "Not as things stand.",
    412: "It has changed since; the `ETag` is another one.",
    413: "The body is too large.",
    415: "The body's content type is not one that is read here.",
    422: "It was read, and is not valid.",
    429: "Too many; `Retry-After` says when.",
    503: "It cannot be done or recorded now, and so was not done; `Retry-After` says when to try.",
}


#: What a refusal says, for example.
_MESSAGES: Final[Mapping[int, str]] = {
    400: "page: there is no such parameter",
    401: "an admin token is required",
    403: "only the agent that delegated can revoke this, or an administrator",
    404: "there is no such entry",
    405: "/admin/agents does not take DELETE",
    409: "a revoked agent cannot be changed; register another one",
    412: "it is not what If-Match says any more",
    413: "the body is larger than 262144 bytes",
    415: "content-type: send application/json, not text/plain",
    422: "rules: missing",
    429: "too many at once",
    503: "the disk is full, and what cannot be recorded is not done",
}

#: What 400 says where there is a body.
_BAD_BODY: Final = "the body is not JSON"

#: Headers that a refusal always has, by its status.
OF_REFUSALS: Final[Mapping[int, Mapping[str, str]]] = {
    401: {"WWW-Authenticate": "The scheme that is asked for (RFC 6750 §3)."},
    405: {"Allow": "The methods that are."},
    429: {"Retry-After": "Seconds after which it may be let through."},
    503: {"Retry-After": "Seconds after which it is worth asking again."},
}

#: What parameters say wherever an operation does not say it better.
PARAMETERS: Final[Mapping[str, str]] = {
    "after": "The `next` of the page before.",
    "agentId": "Of this agent alone.",
    "agent_id": "The agent's id.",
    "name": "Its name.",
    "version": "The version's name.",
    "limit": "Entries of a page.",
    "pending_id": "The pending action's id.",
    "relationship_id": "The relationship's id.",
}

#: What stands in a path, for example, and in the answers about it.
IN_PATHS: Final[Mapping[str, str]] = {
    "agent_id": "reviewer",
    "decision_id": "3e527362a396a81e80557de7106ecf0f",
    "name": "readers",
    "pending_id": "pdact_3f0c9a7be2d1486fa5b0c1d2e3f40516",
    "relationship_id": "rel_5d2a8c7e91f04b36a1c2d3e4f5061728",
    "trace_id": "b1946ac92492d234",
    "version": "2f1c9d0a77b3e845",
    "wallet": "points",
}
NO_VERSION: Final = "no such version is kept; kept are 90eb5fc74e8d6c24"
#: What 404 says for example, by the end of the path.
_NONE: Final[Mapping[str, str]] = {
    "agent_id": f"there is no agent {IN_PATHS['agent_id']}",
    "name": f"there is no policy {IN_PATHS['name']}",
    "pending_id": f"there is no pending action {IN_PATHS['pending_id']}",
    "relationship_id": f"there is no relationship {IN_PATHS['relationship_id']}",
    "trace_id": "there is no entry of this trace",
    "version": NO_VERSION,
}


class Operation(NamedTuple):
    """What is to be said of one method of one path."""

    method: str
    #: As the route has it: `/admin/agents/{agent_id}`.
    path: str
    #: `operationId`, a verb first: `listAgents`.
    name: str
    #: One line, as a heading.
    summary: str
    #: The heading that it stands under; `reference.build.TAGS` has them in order.
    tag: str
    #: A TypedDict (`with_config(CLOSED)`) or another type of the answer's body; None: no body.
    answer: Any
    #: Of an answer; what the page shows first.
    example: object = None
    who: Sequence[Mapping[str, list[str]]] = ADMIN
    #: The model that reads the body.
    body: type[BaseModel] | None = None
    #: Of a body.
    asked: object = None
    body_optional: bool = False
    #: The body's schemas by content type, where it is not JSON that `body` reads.
    bodies: Mapping[str, Mapping[str, Any]] | None = None
    status: int = 200
    #: Other statuses: the type of the body, None where there is none, and an example.
    others: Mapping[int, tuple[Any, object]] = {}
    #: Refusals in the shape of `Error`.
    errors: Sequence[int] = (400, 401, 503)
    #: What they say for example, where it is not what they mostly say.
    refuses: Mapping[int, str] = {}
    #: More than the summary says; Markdown.
    text: str = ""
    #: Parameters of the path or the query that `PARAMETERS` does not explain, or not so.
    asks: Mapping[str, str] = {}
    #: Words that a parameter can be.
    words: Mapping[str, Sequence[str]] = {}
    #: Headers of the request besides a credential, and what they say.
    sends: Mapping[str, str] = {}
    #: Those among them without which there is no answer, and an example of each.
    needs: Mapping[str, str] = {}
    #: Content types of the answer other than JSON, with an example of each.
    media: Mapping[str, str] = {}
    #: Header names of the answer, and what they say.
    headers: Mapping[str, str] = {}
    #: A part of the answer can be asked for (RFC 9110 §14).
    in_parts: bool = False

    def document(self, parameters: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """The operation's own part of the document; schemas of answers have their `$defs`.

        Args:
            parameters: those of its path and query, as FastAPI has them.
        """
        made: dict[str, Any] = {
            "operationId": self.name,
            "summary": self.summary,
            "tags": [self.tag],
            "security": [dict(scheme) for scheme in self.who],
        }
        if self.text:
            made["description"] = self.text
        asked = [self._parameter(parameter) for parameter in parameters]
        asked += [
            {
                "name": name,
                "in": "header",
                "required": name in self.needs,
                "description": said,
                "schema": {"type": "string"},
                **({"example": self.needs[name]} if name in self.needs else {}),
            }
            for name, said in self.sends.items()
        ]
        if asked:
            made["parameters"] = asked
        if self._takes_a_body:
            made["requestBody"] = {"required": not self.body_optional, "content": self._bodies()}
        made["responses"] = self._responses()
        return made

    @property
    def _takes_a_body(self) -> bool:
        return self.body is not None or self.bodies is not None

    def _parameter(self, parameter: Mapping[str, Any]) -> dict[str, Any]:
        name = parameter["name"]
        schema = {key: value for key, value in parameter["schema"].items() if key != "title"}
        if name in self.words:
            # The empty word, which means all of them, is not worth telling.
            schema = {"type": "string", "enum": list(self.words[name])}
        said = self.asks.get(name) or PARAMETERS.get(name, "")
        made = {**parameter, "schema": schema, **({"description": said} if said else {})}
        if parameter["in"] == "path":
            made["example"] = IN_PATHS[name]
        return made

    def _bodies(self) -> dict[str, Any]:
        contents: dict[str, Any] = {}
        if self.body is not None:
            contents[JSON] = {
                "schema": _named(self.body.model_json_schema(schema_generator=_Plain))
            }
        for media, schema in (self.bodies or {}).items():
            contents[media] = {"schema": dict(schema)}
        if self.asked is not None:
            for content in contents.values():
                content["example"] = self.asked
        return contents

    def _responses(self) -> dict[str, Any]:
        good: dict[str, Any] = {"description": MEANINGS.get(self.status, "Done.")}
        contents = {}
        if self.answer is not None:
            contents[JSON] = _content(self.answer, self.example)
        for media, shown in self.media.items():
            contents[media] = {"example": shown}
            if media != EVENTS:
                # What stands for a stream of events is its schema of one, which is none of ours.
                contents[media]["schema"] = {"type": "string"}
        if contents:
            good["content"] = contents
        if self.headers:
            good["headers"] = _headers(self.headers)
        responses: dict[str, Any] = {str(self.status): good}
        if self.in_parts:
            which = _headers({"Content-Range": "Which bytes, of how many."}, required=True)
            part = {"description": MEANINGS[206], "headers": {**good.get("headers", {}), **which}}
            responses["206"] = {**good, **part}
        for status, (answer, example) in self.others.items():
            content = {} if answer is None else {"content": {JSON: _content(answer, example)}}
            responses[str(status)] = {"description": MEANINGS.get(status, "Done."), **content}
        errors = set(self.errors)
        if self._takes_a_body:
            errors |= {400, 413, 415}
        for status in sorted(errors - {int(status) for status in responses}):
            example = {"error": WORDS[status], "message": self._refusal(status)}
            refusal = {
                "description": MEANINGS[status],
                "content": {
                    JSON: {"schema": {"$ref": "#/components/schemas/Error"}, "example": example}
                },
            }
            if status in OF_REFUSALS:
                refusal["headers"] = _headers(OF_REFUSALS[status], required=True)
            responses[str(status)] = refusal
        return responses

    def _refusal(self, status: int) -> str:
        """What a refusal says, for example."""
        if status in self.refuses:
            return self.refuses[status]
        if status == 400 and self._takes_a_body:
            return _BAD_BODY
        if status == 404:
            named = [part[1:-1] for part in self.path.split("/") if part.startswith("{")]
            return _NONE.get(named[-1] if named else "", _MESSAGES[404])
        return _MESSAGES[status]


def _headers(said: Mapping[str, str], *, required: bool = False) -> dict[str, Any]:
    return {
        name: {"description": text, "required": required, "schema": {"type": "string"}}
        for name, text in said.items()
    }


def _content(answer: Any, example: object) -> dict[str, Any]:
    content = {"schema": schema_of(answer)}
    return content if example is None else {**content, "example": example}


def schema_of(answer: Any) -> dict[str, Any]:
    """The JSON Schema of an answer's type."""
    return _named(TypeAdapter(answer).json_schema(mode="serialization", schema_generator=_Plain))


class _Plain(GenerateJsonSchema):
    """Without a title of each key, which would be the key again."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def _named(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema as a reference to itself, so that it stands once however often it is used."""
    if "$ref" in schema or "title" not in schema:
        return schema
    inner = schema.pop("$defs", {})
    name = schema["title"]
    return {"$ref": f"#/$defs/{name}", "$defs": {**inner, name: schema}}
