"""What docs/bundles.md says of the service: each setting, path, incident and figure is there.

That it does what is said there is tests/e2e/test_bundles.py's and tests/stores/test_bundles.py's.
"""

import re
from pathlib import Path
from typing import Final

from typer.main import get_command

from authz.cli import app
from authz.core.incident import Kind
from authz.settings import described
from authz.stores.bundles import PAIR_S
from tests.deploy.render import CHART, KUBERNETES
from tests.edges.conformity import document

TEXT: Final = (Path(__file__).parents[1] / "docs/bundles.md").read_text()
SECTION: Final = TEXT.partition("\n## In the sidecar\n")[2].partition("\n## ")[0]
WORDS: Final = re.findall(r"`([^`\n]+)`", SECTION)


def test_its_settings_are_settings() -> None:
    named = {word for word in WORDS if re.fullmatch(r"[A-Z]+(_[A-Z]+)+", word)}
    assert len(named) > 4
    known = {variable.name for variable in described()}
    assert named <= known
    assert {name for name in known if "BUNDLE" in name or "SIGNED" in name} <= named


def test_its_paths_and_headers_are_answered() -> None:
    paths = document()["paths"]
    named = [word.split(" ") for word in WORDS if re.fullmatch(r"[A-Z]+ /\S+", word)]
    assert len(named) == 3
    for method, path in named:
        assert method.lower() in paths[path]
    headers = paths["/admin/policies/bundle"]["get"]["responses"]["200"]["headers"]
    assert {word for word in WORDS if word.startswith("X-")} <= headers.keys()


def test_its_incidents_and_its_figure_are_those_of_the_code() -> None:
    incidents = {word for word in WORDS if word.startswith("bundle_")}
    assert incidents == {Kind.BUNDLE_REFUSED, Kind.BUNDLE_EXPIRED}
    assert PAIR_S == 2
    assert "is given two seconds" in SECTION


def test_its_commands_are_commands() -> None:
    named = [word.split(" ")[1:] for word in WORDS if word.startswith("authz ")]
    assert named
    for words in named:
        at = get_command(app)
        for step in (word for word in words if word.islower()):
            at = at.commands[step]  # type: ignore[attr-defined]


def test_what_it_says_of_kubernetes_is_there() -> None:
    assert (KUBERNETES / "components/signed-policies").is_dir()
    assert (KUBERNETES / "overlays/signed").is_dir()
    assert "policyBundle:" in (CHART / "values.yaml").read_text()
