"""The manifests as the real kustomize and helm render them; `python -m tests.deploy.render` writes
them into deploy/rendered.

- One file an overlay, one file a chart's set of values, so that a change of a template shows in a
  review as what it changes in a cluster.
- Rendered without a cluster and without anything of the user's: helm's own directories are empty.
"""

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
KUBERNETES: Final = ROOT / "deploy/kubernetes"
CHART: Final = ROOT / "deploy/helm/authz-sidecar"
RENDERED: Final = ROOT / "deploy/rendered"

#: The oldest Kubernetes that the chart is for; what it renders must not depend on the helm at hand.
OLDEST: Final = "1.29.0"

_NOTE: Final = "# Made by `make manifests` from {}.\n"


class ToolMissing(Exception):
    """A program is not installed; the message says which, and what to do."""


def program(name: str) -> str:
    """The path of `helm` or `kubectl`: the pinned one, else the one of the PATH.

    Raises:
        ToolMissing: there is neither.
    """
    pinned = ROOT / ".venv/bin" / name
    ours = pinned.exists() and (platform.system(), platform.machine()) == ("Linux", "x86_64")
    found = str(pinned) if ours else shutil.which(name)
    if found is None:
        raise ToolMissing(f"{name} is not installed: make manifests")
    return found


def require(name: str) -> str:
    """For a test: `program`. Without it the test is skipped; with REQUIRE_TOOLS it fails."""
    try:
        return program(name)
    except ToolMissing as missing:
        if os.environ.get("REQUIRE_TOOLS"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))


def overlays() -> list[str]:
    """Every overlay by name."""
    return sorted(path.name for path in (KUBERNETES / "overlays").iterdir())


#: What every set of values comes on top of.
EXAMPLE: Final = CHART / "examples/code-review-values.yaml"


def value_files() -> list[Path]:
    """Every set of values that the chart is rendered with, on top of the example."""
    return sorted((CHART / "ci").glob("*-values.yaml"))


def kustomize(directory: Path) -> str:
    """What `kubectl kustomize` makes of a directory.

    Raises:
        ToolMissing: kubectl is not there.
        CalledProcessError: it refuses.
    """
    return _run([program("kubectl"), "kustomize", str(directory)])


def helm(*arguments: str) -> str:
    """What helm prints.

    Raises:
        ToolMissing: helm is not there.
        CalledProcessError: it refuses; `stderr` says why.
    """
    return _run([program("helm"), *arguments])


def template(*arguments: str) -> str:
    """The chart with some values, as `helm template` renders it."""
    return helm(
        "template", "code-reviewer", str(CHART), "--kube-version", OLDEST, "--namespace", "agents",
        *arguments,
    )  # fmt: skip


def files() -> dict[Path, str]:
    """Every file of deploy/rendered with the text it must have."""
    made = {}
    for name in overlays():
        source = KUBERNETES / "overlays" / name
        made[RENDERED / f"kustomize-{name}.yaml"] = _noted(source, kustomize(source))
    for values in value_files():
        name = values.name.removesuffix("-values.yaml")
        made[RENDERED / f"helm-{name}.yaml"] = _noted(
            values, template("--values", str(EXAMPLE), "--values", str(values))
        )
    return made


def _noted(source: Path, text: str) -> str:
    return _NOTE.format(source.relative_to(ROOT)) + text


def _run(command: list[str]) -> str:
    with tempfile.TemporaryDirectory() as home:
        directories = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME", "HOME")
        done = subprocess.run(
            command,
            env={"PATH": os.environ.get("PATH", ""), **dict.fromkeys(directories, home)},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    return done.stdout


if __name__ == "__main__":
    RENDERED.mkdir(exist_ok=True)
    fresh = files()
    for path in RENDERED.iterdir():
        if path not in fresh:
            path.unlink()
    for path, text in fresh.items():
        path.write_text(text)
