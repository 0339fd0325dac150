"""What can be said to every command: which sidecar to ask and how, and what to print.

- Before the command (`authz --gateway … agent list`) or after it (`authz agent list --gateway …`);
  what stands after it counts.
- What was said is looked up where it is needed, so that no command has to hand it on.
"""

from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand
from typer.main import get_command

_GATEWAY_HELP: Final = "Ask the sidecar at this URL: http://host:3100, or unix:/path of its socket."
_ADMIN_HELP: Final = (
    "Its ADMIN_TOKEN. Others see what stands here in the list of processes: `-` reads it from"
    " standard input, `@FILE` from a file."
)
_LOCAL_HELP: Final = "Use the database here, whatever the environment and the config file say."


@dataclass(frozen=True, slots=True)
class Said:
    """The options of one command line."""

    gateway: str = ""
    admin_token: str = ""
    local: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False


_SAID: Final[ContextVar[Said]] = ContextVar("said")


def said() -> Said:
    """What this command line says."""
    return _SAID.get(Said())


def begin(options: Said) -> None:
    """A command line begins with these."""
    _SAID.set(options)


Gateway = Annotated[str, typer.Option("--gateway", metavar="URL", help=_GATEWAY_HELP)]
AdminToken = Annotated[
    str, typer.Option("--admin-token", "--api-key", metavar="TOKEN", help=_ADMIN_HELP)
]
Local = Annotated[bool, typer.Option("--local", help=_LOCAL_HELP)]


def wants_json() -> bool:
    """JSON was asked for: before the command, by MESHGUARD_OUTPUT_FORMAT, or in the config file."""
    from authz.cli.destination import output_format

    return said().as_json or output_format() == "json"


def _json_too(ctx: typer.Context, value: bool) -> bool:
    return value or (not ctx.resilient_parsing and wants_json())


AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON object.", callback=_json_too)]
AsJsonLines = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line.", callback=_json_too)
]
AsJsonArray = Annotated[
    bool, typer.Option("--json", help="Print a JSON array.", callback=_json_too)
]


def _too(param: typer.CallbackParam, value: Any) -> Any:
    if value and param.name:
        _SAID.set(replace(said(), **{param.name: value}))
    return value


def _placeholder(
    gateway: Annotated[
        str, typer.Option("--gateway", metavar="URL", help=_GATEWAY_HELP, callback=_too,
                          expose_value=False, rich_help_panel="Where")
    ] = "",
    admin_token: Annotated[
        str, typer.Option("--admin-token", "--api-key", metavar="TOKEN", help=_ADMIN_HELP,
                          callback=_too, expose_value=False, rich_help_panel="Where")
    ] = "",
    local: Annotated[
        bool, typer.Option("--local", help=_LOCAL_HELP, callback=_too, expose_value=False,
                           rich_help_panel="Where")
    ] = False,
) -> None:  # fmt: skip
    """Only its parameters are used."""
    del gateway, admin_token, local


def _shared() -> list[Any]:
    holder = typer.Typer(add_completion=False)
    holder.command()(_placeholder)
    return list(get_command(holder).params)


_SHARED: Final = _shared()


class RemoteCommand(TyperCommand):
    """A command that also works elsewhere: it takes --gateway, --admin-token and --local."""

    def __init__(self, *args: Any, params: list[Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, params=[*(params or []), *_SHARED], **kwargs)


class LocalCommand(TyperCommand):
    """A command that is about what is here: a sidecar that is named before it is refused.

    Whoever names one would take what is here for what is there.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        from authz.cli.shared import BAD_ARGUMENTS, fail

        if said().gateway or said().admin_token:
            option = "--gateway" if said().gateway else "--admin-token"
            name = ctx.command_path.partition(" ")[2]
            fail([f"{option}: `authz {name}` is about what is here, and asks no sidecar"],
                 BAD_ARGUMENTS)  # fmt: skip
        return super().invoke(ctx)
