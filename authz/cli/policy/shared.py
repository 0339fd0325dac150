"""What several `authz policy` commands need: loading policies, and a call from options."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from authz.cli.shared import fail

if TYPE_CHECKING:
    from authz.core.asked import Asked
    from authz.stores.policies import Loaded

#: Exit code for arguments or files that cannot be used.
BAD_INPUT = 2

Tier = Annotated[str, typer.Option("--tier", help="The agent's trust tier.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag of the agent; repeat.")]
Org = Annotated[str, typer.Option("--org", help="The agent's organisation.")]
Resource = Annotated[str, typer.Option("--resource", help="X-MeshGuard-Resource.")]
Method = Annotated[str, typer.Option("--method", help="HTTP method of a proxied request.")]
UpstreamPath = Annotated[str, typer.Option("--path", help="Its path as the upstream sees it.")]
Context = Annotated[str, typer.Option("--context", help="A JSON object: X-MeshGuard-Meta.")]
PolicyPaths = Annotated[
    list[Path] | None,
    typer.Option(
        "--policy", "--policies", help="File or directory; repeat. POLICIES_DIR when left out."
    ),
]


def load(paths: list[Path] | None) -> "Loaded":
    """Policies of these files and directories, else of POLICIES_DIR; exits when there are none."""
    from authz.settings import SettingsError, settings_of
    from authz.stores import policies

    if not paths:
        try:
            paths = [settings_of(os.environ, "POLICIES_DIR").policies_dir]
        except SettingsError as error:
            fail(error.problems, BAD_INPUT)
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing:
        fail((f"{path}: there is no such file or directory" for path in missing), BAD_INPUT)
    return policies.load_paths(paths)


def load_valid(paths: list[Path] | None) -> "Loaded":
    """The same, but errors in them end the command: an answer from half of them would mislead."""
    loaded = load(paths)
    if loaded.errors:
        for problem in loaded.errors:
            typer.echo(str(problem), err=True)
        fail(["the policies have errors; `authz policy validate` prints all problems"], BAD_INPUT)
    return loaded


def asked(
    agent: str,
    action: str,
    *,
    tier: str,
    tags: list[str] | None,
    org: str,
    resource: str,
    method: str,
    path: str,
    context: str,
) -> "Asked":
    """The call that options describe; exits with a sentence when there can be none like it."""
    from pydantic import ValidationError

    from authz.core.asked import AgentSpec, Asked

    said: Any = None
    if context:
        try:
            said = json.loads(context)
        except ValueError as error:
            fail([f"--context: not JSON: {error}"], BAD_INPUT)
        if not isinstance(said, dict):
            fail(["--context: must be a JSON object"], BAD_INPUT)
    try:
        spec = AgentSpec.model_validate({"id": agent, "tier": tier, "tags": tags or [], "org": org})
        return Asked.of(spec, action, resource=resource, method=method, path=path, context=said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fail([f"--{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}"], BAD_INPUT)
    except ValueError as error:
        fail([str(error)], BAD_INPUT)
