"""`authz policy test`: one call, or suites of them, against policies (CONTRACT §14)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from authz.cli.options import AsJson
from authz.cli.policy import remote_test, shared
from authz.cli.policy.explain import as_object, print_decision, print_trace
from authz.cli.shared import fail
from authz.core.text import visible

if TYPE_CHECKING:
    from authz.core.policy_file import Problem
    from authz.core.policy_suite import Coverage, Result, SuiteRead
    from authz.stores.policies import Loaded

_SAID = {"allow": "allowed", "deny": "denied"}
_MARKS = {True: ("✓", "PASS"), False: ("✗", "FAIL")}


def run_tests(
    agent_id: Annotated[str, typer.Argument(metavar="AGENT", help="The agent's id.")] = "",
    wanted: Annotated[str, typer.Argument(metavar="ACTION", help="What it wants to do.")] = "",
    agent: Annotated[str, typer.Option("--agent", help="The agent's id.")] = "",
    action: Annotated[str, typer.Option("--action", help="What it wants to do.")] = "",
    tier: shared.Tier = "",
    tag: shared.Tags = None,
    org: shared.Org = "",
    resource: shared.Resource = "",
    method: shared.Method = "",
    path: shared.UpstreamPath = "",
    context: shared.Context = "",
    policy: shared.PolicyPaths = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", help="A suite: YAML with `tests:`; repeat.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show every rule.")] = False,
    full: Annotated[
        bool, typer.Option("--full-coverage", help="A rule that no test reaches fails.")
    ] = False,
    as_json: AsJson = False,
    layout: Annotated[
        shared.Format, typer.Option("--format", help="github: annotations of a pull request.")
    ] = shared.Format.TEXT,
) -> None:
    """Ask what policies say to a call, or run suites and list the rules that no test reached.

    With --gateway a sidecar says what it would answer to a call: by its own policies, or by one
    that --policy names, and of an agent by its record, where options say nothing else.

    Exit code 0: allowed, or all passed. 1: denied, or a test failed. 2: a file or an argument
    cannot be used.
    """
    # What the command line says of the format counts more than what is true of every command.
    layout = shared.Format.JSON if as_json and layout is shared.Format.TEXT else layout
    as_json = layout is shared.Format.JSON
    if file:
        if agent or action or agent_id or wanted:
            fail(["give --file or a call, not both"], shared.BAD_INPUT)
        if shared.named_gateway() is not None:
            fail(["--file: suites are run here; leave out --gateway"], shared.BAD_INPUT)
        _suites(file, policy, verbose=verbose, full=full, layout=layout)
    if (agent_id and agent) or (wanted and action):
        fail(["give an agent and an action once, as arguments or as options"], shared.BAD_INPUT)
    positional = bool(agent_id)
    agent, action = agent or agent_id, action or wanted
    if not agent or not action:
        fail(["give an agent and an action, or --file SUITE"], shared.BAD_INPUT)
    from authz.core.explain import explain

    there = shared.named_gateway()
    if there is not None:
        asked = remote_test.Asked(agent, action, tier, tag, org, resource, method, path, context)
        remote_test.ask(
            there, asked, policy, positional=positional, verbose=verbose, as_json=as_json
        )
    loaded = shared.load_valid(policy)
    standing, is_guess = shared.registered(agent, shared.Standing(tier, tag, org), policy)
    call = shared.asked(
        agent,
        action,
        standing,
        resource=resource,
        method=method,
        path=path,
        context=context,
    )
    if is_guess:
        shared.note_unknown(agent)
    explanation = explain(loaded.snapshot, call.identity, call.call)
    verdict = explanation.verdict
    if as_json:
        typer.echo(json.dumps(as_object(explanation, _sources(loaded)), indent=2))
    elif positional:
        said = explanation.outcome.upper()
        typer.echo(
            visible(f"{said} (rule: {verdict.rule or '-'}, policy: {verdict.policy or '-'})")
        )
    else:
        print_decision(explanation)
    if verbose and not as_json:
        print_trace(explanation, _sources(loaded))
    raise typer.Exit(0 if explanation.enforced == "allow" else 1)


def _suites(
    files: list[Path],
    paths: list[Path] | None,
    *,
    verbose: bool,
    full: bool,
    layout: shared.Format,
) -> None:
    from dataclasses import replace

    from authz.core.policy_suite import coverage, run_suite

    passed = failed = 0
    results: list[tuple[Path, Result]] = []
    missed: list[Problem] = []
    github = layout is shared.Format.GITHUB
    reached = total = 0
    # Suites that name their own policies are covered against these; the others together.
    groups: dict[tuple[Path, ...], list[tuple[Path, SuiteRead]]] = {}
    for file in files:
        read = _read(file, layout)
        assert read.suite is not None
        chosen = tuple(paths or ())
        if not chosen and read.suite.policies is not None:
            chosen = (file.parent / read.suite.policies,)
        groups.setdefault(chosen, []).append((file, read))
    for chosen, suites in groups.items():
        loaded = shared.load_valid(list(chosen))
        found: list[Result] = []
        for file, read in suites:
            ran = run_suite(read, loaded.snapshot)
            found += ran
            results += [(file, result) for result in ran]
        covered = coverage(loaded.snapshot, found)
        reached += covered.total - len(covered.missed)
        total += covered.total
        missed += _missed(loaded, covered, full=full)
    for file, result in results:
        passed += not result.failure
        failed += bool(result.failure)
        if github and result.failure:
            typer.echo(shared.annotation(_as_problem(file, result), "policy test"))
        elif layout is shared.Format.TEXT:
            _print(file, result, verbose=verbose)
    if layout is shared.Format.JSON:
        body = {
            "summary": {"total": len(results), "passed": passed, "failed": failed},
            "results": [_object(file, result) for file, result in results],
            "coverage": {
                "rules": total,
                "reached": reached,
                "missed": [f"{visible(p.file)}:{p.line}: {p.message}" for p in missed],
            },
        }
        typer.echo(json.dumps(body, indent=2))
    else:
        typer.echo(f"Results: {passed} passed, {failed} failed")
        typer.echo(f"Coverage: {reached} of {total} rules decided in some test")
        for problem in missed:
            if github:
                told = replace(problem, message=f"no test reaches {problem.message}")
                typer.echo(shared.annotation(told, "policy test"))
            else:
                typer.echo(
                    f"  not reached: {visible(problem.file)}:{problem.line}: {problem.message}"
                )
    raise typer.Exit(1 if failed or (full and missed) else 0)


def _read(file: Path, layout: shared.Format) -> "SuiteRead":
    from authz.core.policy_file import MAX_FILE
    from authz.core.policy_suite import read_suite

    try:
        with file.open("rb") as stream:
            read = read_suite(stream.read(MAX_FILE + 1), str(file))
    except OSError as error:
        fail([f"{file}: cannot be read: {error.strerror}"], shared.BAD_INPUT)
    if read.suite is None:
        for problem in read.problems:
            if layout is shared.Format.GITHUB:
                typer.echo(shared.annotation(problem, "policy test"))
            else:
                typer.echo(str(problem), err=True)
        raise typer.Exit(shared.BAD_INPUT)
    return read


def _sources(loaded: "Loaded") -> dict[str, str]:
    return {n: f"{f.file}:{placed.line}" for n, (f, placed) in loaded.policies.sources.items()}


def _missed(loaded: "Loaded", covered: "Coverage", *, full: bool) -> "list[Problem]":
    from authz.core.policy_file import Problem

    found = []
    for name, place in covered.missed:
        file, placed = loaded.policies.sources[name]
        rule = next(rule for rule in placed.policy.rules if rule.place == place)
        said = f"{name} rule {place + 1}: {rule.effect} {', '.join(rule.patterns)}"
        severity: Literal["error", "warning"] = "error" if full else "warning"
        found.append(Problem(file.file, placed.rule_lines[place], 1, severity, said))
    return found


def _as_problem(file: Path, result: "Result") -> "Problem":
    from authz.core.policy_file import Problem

    verdict = result.explanation.verdict
    said = f"{result.test.name}: {result.failure}: {verdict.reason or verdict.code}"
    return Problem(str(file), result.line, 1, "error", said)


def _print(file: Path, result: "Result", *, verbose: bool) -> None:
    mark, word = _MARKS[not result.failure]
    outcome = result.explanation.outcome
    said = _SAID.get(outcome, outcome.replace("_", " "))
    detail = f"({said})" if not result.failure else f"({result.failure})"
    where = f" {file}:{result.line}" if result.failure else ""
    typer.echo(visible(f"{mark} {result.test.name} {word} {detail}{where}"))
    if result.failure or verbose:
        verdict = result.explanation.verdict
        typer.echo(visible(f"    {verdict.reason or verdict.code}"))
    if verbose:
        for trace in result.explanation.applicable:
            typer.echo(visible(f"    {trace.policy.name}: {trace.says}"))
            for rule in trace.rules:
                typer.echo(visible(f"      {rule}"))


def _object(file: Path, result: "Result") -> dict[str, Any]:
    verdict = result.explanation.verdict
    body: dict[str, Any] = {
        "name": result.test.name,
        "file": str(file),
        "line": result.line,
        "passed": not result.failure,
        "decision": result.explanation.outcome,
        "expected": result.test.expect,
    }
    optional = {"policy": verdict.policy, "rule": verdict.rule, "reason": verdict.reason}
    return {
        **body,
        **{key: value for key, value in optional.items() if value},
        **({"failure": result.failure} if result.failure else {}),
    }
