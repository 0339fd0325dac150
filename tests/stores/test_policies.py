"""Policy files on disk: sorted, recursive, dots skipped, and nothing in there can crash us."""

import os
from pathlib import Path

import pytest

from authz.core.policy_doc import MAX_FILE
from authz.stores import policies

POLICY = """\
name: {name}
version: "1"
appliesTo: {{tags: [a]}}
rules: [{{effect: allow, actions: ["*"]}}]
defaultEffect: deny
"""


def _write(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(POLICY.format(name=name))


def _names(directory: Path) -> list[str]:
    return [policy.name for policy in policies.load(directory).snapshot.policies]


def test_yaml_files_are_found_at_any_depth_in_sorted_order(tmp_path: Path) -> None:
    _write(tmp_path / "b.yaml", "b")
    _write(tmp_path / "a" / "z.yml", "z")
    _write(tmp_path / "c.txt", "c")
    _write(tmp_path / "d.YAML", "d")
    assert _names(tmp_path) == ["z", "b"]


def test_names_with_a_dot_in_front_are_skipped(tmp_path: Path) -> None:
    # As a ConfigMap is mounted: the files are links into a directory whose name has dots.
    version = tmp_path / "..2026_11_22"
    _write(version / "a.yaml", "a")
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    _write(tmp_path / ".hidden.yaml", "hidden")
    loaded = policies.load(tmp_path)
    assert [policy.name for policy in loaded.snapshot.policies] == ["a"]
    assert loaded.problems == ()


def test_the_first_of_two_policies_with_one_name_counts(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "same")
    _write(tmp_path / "b.yaml", "same")
    loaded = policies.load(tmp_path)
    assert loaded.snapshot.size == 1
    [problem] = loaded.errors
    assert str(problem) == (
        f"{tmp_path}/b.yaml:1:1: error: the policy name `same` is taken by {tmp_path}/a.yaml;"
        " this one is not loaded"
    )


@pytest.mark.parametrize("make", ["missing", "file"])
def test_an_unreadable_directory_is_a_problem_and_no_policies(tmp_path: Path, make: str) -> None:
    directory = tmp_path / "policies"
    if make == "file":
        directory.touch()
    loaded = policies.load(directory)
    assert loaded.snapshot.size == 0
    [problem] = loaded.errors
    assert problem.file == str(directory)
    assert problem.message.startswith("cannot be read: ")


def test_links_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "a")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.yaml").symlink_to("itself.yaml")
    loaded = policies.load(tmp_path)
    assert [policy.name for policy in loaded.snapshot.policies] == ["a"]


def test_what_is_no_regular_file_is_skipped(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "a")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "link.yaml").symlink_to("pipe.yaml")
    loaded = policies.load(tmp_path)
    assert [policy.name for policy in loaded.snapshot.policies] == ["a"]
    assert [problem.message for problem in loaded.errors] == ["cannot be read: not a regular file"]


def test_a_dangling_link_is_a_problem(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "a")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    loaded = policies.load(tmp_path)
    assert loaded.snapshot.size == 1
    assert [problem.message for problem in loaded.errors] == [
        "cannot be read: No such file or directory"
    ]


@pytest.mark.parametrize("scope", ["{}", "{tags: []}", "{agentIds: [x], tags: []}"])
def test_a_policy_for_nobody_does_not_count_as_loaded(tmp_path: Path, scope: str) -> None:
    (tmp_path / "a.yaml").write_text(POLICY.format(name="a").replace("{tags: [a]}", scope))
    loaded = policies.load(tmp_path)
    assert loaded.snapshot.size == 0
    assert len(loaded.problems) == 1


def test_a_huge_file_is_a_problem(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "a")
    (tmp_path / "huge.yaml").write_bytes(b"# " + b"x" * MAX_FILE)
    loaded = policies.load(tmp_path)
    assert [problem.message for problem in loaded.errors] == [
        f"the file is larger than {MAX_FILE} bytes"
    ]


def test_the_sample_policies_have_nothing_to_complain_about() -> None:
    loaded = policies.load(Path(__file__).parents[2] / "policies")
    assert loaded.problems == ()
    assert loaded.snapshot.size == 3
