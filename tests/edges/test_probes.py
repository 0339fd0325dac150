"""What `/health` says of policies: which files are not in force as they are."""

from pathlib import Path

from authz.edges.http.probes import MAX_NAMED, bad_files
from authz.stores.policies import PolicyDirectory

GOOD = """name: {name}
version: "1"
appliesTo: {{tags: [a]}}
rules: [{{effect: allow, actions: [x]}}]
defaultEffect: deny
"""


def test_the_files_with_errors_and_those_kept_from_before_are_named(tmp_path: Path) -> None:
    directory = PolicyDirectory(tmp_path)
    for name in ("crm", "other"):
        (tmp_path / f"{name}.yaml").write_text(GOOD.format(name=name))
    assert bad_files(directory.read()) == []
    (tmp_path / "crm.yaml").write_text("name: crm\nrules: 7\n")
    (tmp_path / "floors.yaml").write_text("kind: Floors\nname: x\n")
    assert bad_files(directory.read()) == ["2 errors in crm.yaml, floors.yaml", "1 stale: crm.yaml"]


def test_a_handful_of_files_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    for number in range(MAX_NAMED + 3):
        (tmp_path / f"{number}.yaml").write_text("[]")
    [said] = bad_files(PolicyDirectory(tmp_path).read())
    assert said == "8 errors in 0.yaml, 1.yaml, 2.yaml, 3.yaml, 4.yaml and 3 more"
