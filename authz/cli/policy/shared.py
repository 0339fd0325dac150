"""What several `authz policy` commands need: loading policies, and a call from options."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from authz.cli.shared import fail, note

if TYPE_CHECKING:
    from authz.cli.destination import Destination
    from authz.core.asked import Asked
    from authz.core.identity import Identity
    from authz.core.policy_file import Problem
    from authz.stores.policies import Loaded

#: Exit code for arguments or files that cannot be used.
BAD_INPUT = 2

Tier = Annotated[
    str,
    typer.Option("--tier", help="The agent's trust tier; verified when left out."),
]
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

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]
Kind = Annotated[
    str, typer.Option("--kind", help="Policy, or what else stands there: PrivilegeFloors, ….")
]


class Format(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"
    #: Workflow commands of GitHub Actions, which become annotations of the changed lines.
    GITHUB = "github"


def annotation(problem: "Problem", title: str = "policy") -> str:
    """A problem as a workflow command of GitHub Actions."""
    # GitHub knows a file by one path, and a suite's `policies: ../policies` makes another.
    file = os.path.normpath(problem.file)
    place = f"file={_property(file)},line={problem.line},col={problem.column}"
    message = problem.message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return f"::{problem.severity} {place},title={_property(problem.lint or title)}::{message}"


def _property(text: str) -> str:
    escapes = (("%", "%25"), ("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C"))
    for character, escape in escapes:
        text = text.replace(character, escape)
    return text


def named_gateway() -> "Destination | None":
    """The sidecar that the command line names.

    For commands whose matter is files: what the environment or the config file names is not meant.
    """
    from authz.cli.destination import gateway
    from authz.cli.options import said

    return gateway() if said().gateway else None


def load(paths: list[Path] | None) -> "Loaded":
    """Policies of these files, directories and bundles, else those that a sidecar would judge by.

    Exits when there are none.
    """
    from authz.settings import SettingsError, settings_of
    from authz.stores import policies

    if not paths:
        try:
            settings = settings_of(os.environ, "POLICIES_DIR", "POLICY_BUNDLE")
            paths = [settings.policy_bundle or settings.policies_dir]
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


class Standing(NamedTuple):
    """What an agent is judged by besides its id."""

    tier: str
    tags: list[str] | None
    org: str

    def filled(self, known: "Identity | None") -> "Standing":
        """The same, with what it leaves open as the agent's record has it."""
        if known is None:
            return self
        tags = sorted(known.tags) if self.tags is None else self.tags
        return Standing(self.tier or known.tier, tags, self.org or known.org_id)


def registered(agent: str, said: Standing, paths: list[Path] | None) -> tuple[Standing, bool]:
    """What options leave open, by the agent's record here: as a sidecar would judge it.

    Policies that are named are perhaps another sidecar's; of its agents nothing is known.

    Returns:
        What it is judged by, and whether that is a guess (`note_unknown`).
    """
    if paths:
        return said, False
    from authz.cli import records

    known = records.identity(agent)
    return said.filled(known), known is None and not any(said)


def note_unknown(agent: str) -> None:
    """Say what an agent is taken for of whom nothing is known but the id."""
    from authz.core.asked import AgentSpec

    taken_for = AgentSpec.model_validate({})
    note(
        f"agent {agent} is not registered: taken for one of tier {taken_for.tier} without tags;"
        " --tier and --tag say otherwise"
    )


def asked(
    agent: str,
    action: str,
    standing: Standing,
    *,
    resource: str = "",
    method: str = "",
    path: str = "",
    context: str = "",
) -> "Asked":
    """The call that options describe; exits with a sentence when there can be none like it."""
    from pydantic import ValidationError

    from authz.core.asked import NO_CONTEXT, AgentSpec, Asked
    from authz.core.facts import context_of

    said = context_of(context) if context else None
    if context and said is None:
        fail([f"--context: {NO_CONTEXT}"], BAD_INPUT)
    try:
        given = {name: value for name, value in standing._asdict().items() if value}
        spec = AgentSpec.model_validate({"id": agent, **given})
        return Asked.of(spec, action, resource=resource, method=method, path=path, context=said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        fail([f"--{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}"], BAD_INPUT)
    except ValueError as error:
        fail([str(error)], BAD_INPUT)
