"""Policy files on disk: sorted, recursive, dots skipped, and nothing in there can crash us.

Read again, nothing that was in force is lost to what cannot be read, and nothing is put in force
that was never there at one time.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from authz.core.policy_file import MAX_FILE, Parsed, parse_file
from authz.stores import parsing, policies
from authz.stores.policies import Loaded, PolicyDirectory

POLICY = """\
name: {name}
version: "{version}"
appliesTo: {{tags: [a]}}
rules: [{{effect: allow, actions: ["*"]}}]
defaultEffect: deny
"""


def _write(path: Path, name: str, version: str = "1") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(POLICY.format(name=name, version=version))


def _of(loaded: Loaded) -> list[str]:
    return [policy.name for policy in loaded.snapshot.policies]


def _names(directory: Path) -> list[str]:
    return _of(policies.load(directory))


def _versions(loaded: Loaded) -> dict[str, str]:
    """Each policy's version by its name."""
    return {policy.name: policy.document.version for policy in loaded.snapshot.policies}


def _link(link: Path, target: str | Path) -> None:
    """Make a link, or swap it for another in one step, as a ConfigMap mount does."""
    new = link.with_name("..new-link")
    new.symlink_to(target)
    new.replace(link)


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
    _write(tmp_path / ".git" / "kept.yaml", "kept by git")
    (tmp_path / ".#a.yaml").symlink_to("somebody@host.1234")  # an editor's lock
    loaded = policies.load(tmp_path)
    assert _of(loaded) == ["a"]
    assert loaded.problems == ()


def test_a_name_that_is_not_utf_8_is_a_name(tmp_path: Path) -> None:
    _write(tmp_path / os.fsdecode(b"\xff\xfe.yaml"), "a")
    assert _names(tmp_path) == ["a"]


def test_the_first_of_two_policies_with_one_name_counts(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "same", "a")
    _write(tmp_path / "b.yaml", "same", "b")
    loaded = policies.load(tmp_path)
    assert _versions(loaded) == {"same": "a"}
    [problem] = loaded.errors
    assert str(problem) == (
        f"{tmp_path}/b.yaml:1:1: error: the policy name `same` is taken by {tmp_path}/a.yaml:1;"
        " this one is not loaded [duplicate-name]"
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


def test_a_link_back_up_is_exactly_one_problem(tmp_path: Path) -> None:
    _write(tmp_path / "deep" / "down" / "a.yaml", "a")
    (tmp_path / "deep" / "down" / "loop").symlink_to(tmp_path)
    loaded = policies.load(tmp_path)
    assert _of(loaded) == ["a"]
    assert [str(problem) for problem in loaded.problems] == [
        f"{tmp_path}/deep/down/loop:1:1: error: a link back to a directory that it is in;"
        " not followed"
    ]


def test_a_link_to_itself_is_exactly_one_problem(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "a")
    (tmp_path / "itself.yaml").symlink_to("itself.yaml")
    loaded = policies.load(tmp_path)
    assert _of(loaded) == ["a"]
    assert [str(problem) for problem in loaded.problems] == [
        f"{tmp_path}/itself.yaml:1:1: error: cannot be read: Too many levels of symbolic links"
    ]


def test_directories_may_be_nested_only_so_deep(tmp_path: Path) -> None:
    level = tmp_path
    for number in range(policies.MAX_LEVELS + 1):
        _write(level / "a.yaml", f"level-{number}")
        level /= "d"
    _write(level / "a.yaml", "too deep")
    loaded = policies.load(tmp_path)
    assert loaded.snapshot.size == policies.MAX_LEVELS + 1
    assert [problem.message for problem in loaded.problems] == [
        "nested deeper than 16 directories; not read"
    ]


def test_directories_that_link_to_each_other_are_not_walked_in_every_order(tmp_path: Path) -> None:
    names = [f"d{number}" for number in range(6)]
    for name in names:
        (tmp_path / name).mkdir()
        for other in names:
            if other != name:
                (tmp_path / name / other).symlink_to(tmp_path / other)
        _write(tmp_path / name / "a.yaml", name)
    listing = policies.list_files(tmp_path)
    assert len(listing.directories) == 1 + len(names)
    assert len(listing.files) == len(names)
    # Every other way to one of them is a problem, once.
    assert len(listing.problems) == 5 * len(names)
    assert _names(tmp_path) == names


def test_a_directory_that_two_ways_lead_to_is_read_once(tmp_path: Path) -> None:
    _write(tmp_path / "b" / "x.yaml", "x")
    (tmp_path / "a").symlink_to("b")
    reader = PolicyDirectory(tmp_path)
    loaded = reader.read()
    assert loaded.paths == (tmp_path / "a" / "x.yaml",)
    assert [str(problem) for problem in loaded.problems] == [
        f"{tmp_path}/b:1:1: error: the same directory as {tmp_path}/a; not read twice"
    ]
    # Without the link its files have another path, and say the same.
    (tmp_path / "a").unlink()
    again = reader.read()
    assert again.paths == (tmp_path / "b" / "x.yaml",)
    assert (again.snapshot.version, again.problems) == (loaded.snapshot.version, ())


def test_a_file_that_is_deleted_goes_by_whichever_path_it_was_known(tmp_path: Path) -> None:
    _write(tmp_path / "b" / "x.yaml", "x")
    _write(tmp_path / "b" / "y.yaml", "y")
    reader = PolicyDirectory(tmp_path)
    assert _of(reader.read()) == ["x", "y"]
    (tmp_path / "a").symlink_to("b")  # now they are read as `a/x.yaml` and `a/y.yaml`
    assert sorted(_of(reader.read())) == ["x", "y"]
    (tmp_path / "b" / "x.yaml").unlink()
    loaded = reader.read()
    assert (_of(loaded), loaded.stale) == (["y"], ())


def test_more_files_than_anybody_has_are_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "MAX_FILES", 3)
    for name in "abcde":
        _write(tmp_path / f"{name}.yaml", name)
    loaded = policies.load(tmp_path)
    assert _of(loaded) == ["a", "b", "c"]
    assert [str(problem) for problem in loaded.problems] == [
        f"{tmp_path}/d.yaml:1:1: error: more than 3 files; not read from here on"
    ]


def test_what_is_no_regular_file_is_a_problem(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "a")
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "directory.yaml").mkdir()  # a directory, whatever it is called
    (tmp_path / "link.yaml").symlink_to("pipe.yaml")
    (tmp_path / "null.yaml").symlink_to("/dev/null")
    loaded = policies.load(tmp_path)
    assert _of(loaded) == ["a"]
    assert [(Path(p.file).name, p.message) for p in loaded.errors] == [
        (name, "cannot be read: not a regular file")
        for name in ("link.yaml", "null.yaml", "pipe.yaml")
    ]


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
    (tmp_path / "a.yaml").write_text(
        POLICY.format(name="a", version="1").replace("{tags: [a]}", scope)
    )
    loaded = policies.load(tmp_path)
    assert loaded.snapshot.size == 0
    assert len(loaded.problems) == 1


@pytest.mark.parametrize("size", [MAX_FILE + 1, 10 << 20])
def test_a_huge_file_is_a_problem(tmp_path: Path, size: int) -> None:
    _write(tmp_path / "a.yaml", "a")
    (tmp_path / "huge.yaml").write_bytes(b"# " + b"x" * (size - 2))
    loaded = policies.load(tmp_path)
    assert _of(loaded) == ["a"]
    assert [problem.message for problem in loaded.errors] == [
        f"the file is larger than {MAX_FILE} bytes"
    ]


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    text = POLICY.format(name="a", version="1")
    (tmp_path / "a.yaml").write_text(text + "#" * (MAX_FILE - len(text)))
    assert _names(tmp_path) == ["a"]


def test_the_sample_policies_have_nothing_to_complain_about() -> None:
    loaded = policies.load(Path(__file__).parents[2] / "policies")
    assert loaded.problems == ()
    assert loaded.snapshot.size == 3


# Read again.


def _bad(path: Path) -> None:
    path.write_text("name: [")


def _empty(path: Path) -> None:
    path.write_text("")


def _huge(path: Path) -> None:
    path.write_bytes(b"# " + b"x" * (10 << 20))


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_bad, "not YAML: "),
        (_empty, "the file is empty; a policy needs a name"),
        (_huge, "the file is larger than 1048576 bytes"),
        (_dangling, "cannot be read: No such file or directory"),
        (_fifo, "cannot be read: not a regular file"),
        (_loop, "cannot be read: Too many levels of symbolic links"),
        (_directory, "is a directory now; its last good version stays"),
    ],
)
def test_a_file_that_turns_bad_keeps_its_last_good_version(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    file = tmp_path / "a.yaml"
    _write(file, "a")
    _write(tmp_path / "b.yaml", "b")
    reader = PolicyDirectory(tmp_path)
    before = reader.read()
    assert before.stale == ()
    spoil(file)
    for _ in range(2):  # and again, when nothing has changed since
        after = reader.read()
        assert after.snapshot.version == before.snapshot.version
        assert after.stale == (str(file),)
        assert {problem.file for problem in after.errors} == {str(file)}
        assert any(problem.message.startswith(message) for problem in after.errors)
        assert after.files == 2


@pytest.mark.parametrize("how", ["the same again", "something new"])
def test_a_stale_file_that_is_mended_is_taken(tmp_path: Path, how: str) -> None:
    file = tmp_path / "a.yaml"
    _write(file, "a", "1")
    reader = PolicyDirectory(tmp_path)
    reader.read()
    _bad(file)
    assert reader.read().stale
    version = "1" if how == "the same again" else "2"
    _write(file, "a", version)
    loaded = reader.read()
    assert _versions(loaded) == {"a": version}
    assert (loaded.stale, loaded.problems) == ((), ())


def test_a_stale_file_keeps_its_documents_of_every_kind(tmp_path: Path) -> None:
    file = tmp_path / "wallet.yaml"
    file.write_text("kind: RiskWallet\nname: w\ncapacity: 10\nwindow: 1h\n")
    reader = PolicyDirectory(tmp_path)
    before = reader.read()
    assert [document.name for document in before.snapshot.chain] == ["w"]
    for broken in ("kind: RiskWallet\nname: w\ncapacity: ten\n", "kind: RiskWalet\nname: w\n"):
        file.write_text(broken)
        after = reader.read()
        assert after.snapshot.version == before.snapshot.version
        assert after.stale == (str(file),)
        assert after.errors
    file.unlink()
    assert reader.read().snapshot.chain == ()


def test_a_file_is_stale_by_its_last_good_version_not_its_first(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    reader = PolicyDirectory(tmp_path)
    for version in ("1", "2"):
        _write(file, "a", version)
        reader.read()
        _bad(file)
        assert _versions(reader.read()) == {"a": version}
    _empty(file)
    assert _versions(reader.read()) == {"a": "2"}


def test_a_file_that_was_never_good_is_not_stale(tmp_path: Path) -> None:
    _bad(tmp_path / "a.yaml")
    reader = PolicyDirectory(tmp_path)
    for _ in range(2):
        loaded = reader.read()
        assert (loaded.snapshot.size, loaded.stale, len(loaded.errors)) == (0, (), 1)


def test_a_warning_does_not_make_a_file_stale(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    _write(file, "a", "1")
    reader = PolicyDirectory(tmp_path)
    reader.read()
    _write(file, "a", "2")
    with file.open("a") as stream:
        stream.write("unheard_of: 1\n")
    loaded = reader.read()
    assert _versions(loaded) == {"a": "2"}
    assert (loaded.stale, len(loaded.problems)) == ((), 1)


def test_a_deleted_file_goes_stale_or_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / f"{name}.yaml", name)
    reader = PolicyDirectory(tmp_path)
    reader.read()
    _bad(tmp_path / "a.yaml")
    assert _of(reader.read()) == ["a", "b"]
    (tmp_path / "a.yaml").unlink()
    loaded = reader.read()
    assert (_of(loaded), loaded.stale, loaded.problems) == (["b"], (), ())
    (tmp_path / "b.yaml").unlink()
    assert _of(reader.read()) == []


def test_a_directory_that_is_deleted_goes_with_its_files(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "a")
    _write(tmp_path / "team" / "b.yaml", "b")
    reader = PolicyDirectory(tmp_path)
    assert _of(reader.read()) == ["a", "b"]
    shutil.rmtree(tmp_path / "team")
    loaded = reader.read()
    assert (_of(loaded), loaded.stale) == (["a"], ())


@pytest.mark.parametrize("how", ["gone", "a file", "a link to itself", "a dangling link"])
def test_all_files_of_a_directory_that_cannot_be_listed_stay(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "policies"
    _write(directory / "a.yaml", "a")
    _write(directory / "team" / "b.yaml", "b")
    reader = PolicyDirectory(directory)
    before = reader.read()
    directory.rename(tmp_path / "elsewhere")
    if how == "a file":
        directory.touch()
    elif how != "gone":
        directory.symlink_to("policies" if how == "a link to itself" else "nowhere")
    for _ in range(2):
        loaded = reader.read()
        assert loaded.snapshot.version == before.snapshot.version
        assert loaded.stale == (f"{directory}/a.yaml", f"{directory}/team/b.yaml")
        assert [problem.file for problem in loaded.errors] == [str(directory), *loaded.stale]
    if how != "gone":
        directory.unlink()
    # It comes back without one of them.
    _write(directory / "a.yaml", "a", "2")
    loaded = reader.read()
    assert (_versions(loaded), loaded.stale, loaded.problems) == ({"a": "2"}, (), ())


@pytest.mark.parametrize("target", ["team", "nowhere", "."])
def test_files_below_a_link_that_leads_nowhere_stay(tmp_path: Path, target: str) -> None:
    directory = tmp_path / "policies"
    _write(directory / "a.yaml", "a")
    _write(directory / "teammates.yaml", "c")
    _write(tmp_path / "shared" / "b.yaml", "b")
    (directory / "team").symlink_to(tmp_path / "shared")
    reader = PolicyDirectory(directory)
    assert _of(reader.read()) == ["a", "b", "c"]
    _link(directory / "team", target)
    (directory / "teammates.yaml").unlink()  # only its name is alike
    loaded = reader.read()
    assert _of(loaded) == ["a", "b"]
    assert loaded.stale == (f"{directory}/team/b.yaml",)
    assert loaded.stale[0] in {problem.file for problem in loaded.errors}
    # Once it is gone they have been deleted.
    (directory / "team").unlink()
    loaded = reader.read()
    assert (_of(loaded), loaded.problems) == (["a"], ())


def test_what_a_file_has_now_comes_before_what_another_had(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "moved", "old")
    reader = PolicyDirectory(tmp_path)
    reader.read()
    _bad(tmp_path / "a.yaml")
    _write(tmp_path / "b.yaml", "moved", "new")
    loaded = reader.read()
    assert _versions(loaded) == {"moved": "new"}
    assert loaded.stale == (f"{tmp_path}/a.yaml",)


def test_what_has_not_changed_is_not_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counting(data: bytes, file: str) -> Parsed:
        parsed.append(Path(file).name)
        return parse_file(data, file)

    monkeypatch.setattr(parsing, "parse_file", counting)
    for name in ("a", "b"):
        _write(tmp_path / f"{name}.yaml", name)
    reader = PolicyDirectory(tmp_path)
    reader.read()
    assert parsed == ["a.yaml", "b.yaml"]
    os.utime(tmp_path / "a.yaml", (1, 1))  # touched, and what it says is the same
    reader.read()
    assert parsed == ["a.yaml", "b.yaml"]
    _write(tmp_path / "b.yaml", "b", "2")
    reader.read()
    assert parsed == ["a.yaml", "b.yaml", "b.yaml"]


# Read while it changes.


def _before_each(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], None], then: Callable[[], None]
) -> None:
    """Have something happen just before and after each file is read."""
    real = policies.read_file

    def read(path: Path, limit: int) -> tuple[bytes, tuple[int, int, int]]:
        act(path)
        try:
            return real(path, limit)
        finally:
            then()

    monkeypatch.setattr(policies, "REREAD_AFTER_S", 0)
    monkeypatch.setattr(policies, "read_file", read)


def _two_releases(directory: Path) -> Callable[[str], None]:
    """A ConfigMap mount of two policies, and what swaps its versions `1` and `2`."""
    for version in "12":
        for name in "ab":
            _write(directory / f"..{version}" / f"{name}.yaml", name, version)
    for name in "ab":
        (directory / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")

    def swap(version: str) -> None:
        _link(directory / "..data", f"..{version}")

    swap("1")
    return swap


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_a_swap_in_the_middle_of_reading_starts_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    swap = _two_releases(tmp_path)
    left = ["2", "1", "2", "1"][:times]

    def act(path: Path) -> None:
        if path.name == "b.yaml" and left:
            swap(left.pop(0))

    _before_each(monkeypatch, act, lambda: None)
    versions = _versions(PolicyDirectory(tmp_path).read())
    assert left == []
    assert versions == dict.fromkeys("ab", "2" if times % 2 else "1")


@pytest.mark.parametrize("known", [True, False])
def test_a_file_that_never_stops_changing_is_not_taken_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    for name in ("a", "b"):
        _write(tmp_path / f"{name}.yaml", name, "0")
    reader = PolicyDirectory(tmp_path)
    if known:
        reader.read()
    _write(tmp_path / "b.yaml", "b", "1")
    count = 0

    def act(path: Path) -> None:
        nonlocal count
        if path.name == "a.yaml":
            count += 1
            _write(path, "a", "x" * count)

    with monkeypatch.context() as patched:
        _before_each(patched, act, lambda: None)
        loaded = reader.read()
    assert count == policies.MAX_READINGS
    assert _versions(loaded) == ({"a": "0", "b": "1"} if known else {"b": "1"})
    assert loaded.stale == ((f"{tmp_path}/a.yaml",) if known else ())
    assert [str(problem) for problem in loaded.errors] == [
        f"{tmp_path}/a.yaml:1:1: error: keeps changing while it is read; not taken"
    ]
    # Once it stops it is.
    loaded = reader.read()
    assert (_versions(loaded), loaded.problems) == ({"a": "x" * count, "b": "1"}, ())


def test_a_file_that_is_being_written_is_left_as_it_was(tmp_path: Path) -> None:
    directory = tmp_path / "policies"
    _write(directory / "a.yaml", "a", "1")
    _write(tmp_path / "outside" / "b.yaml", "b", "1")
    (directory / "b.yaml").symlink_to("../outside/b.yaml")
    reader = PolicyDirectory(directory)
    reader.read()
    written = [directory / "a.yaml", tmp_path / "outside" / "b.yaml", directory / "new.yaml"]
    for path in written:
        _write(path, path.stem, "2")
    loaded = reader.read({path.resolve() for path in written})
    assert _versions(loaded) == {"a": "1", "b": "1"}
    assert loaded.stale == (f"{directory}/a.yaml", f"{directory}/b.yaml")
    assert {problem.message for problem in loaded.errors} == {"is being written; not read yet"}
    assert len(loaded.errors) == 3
    loaded = reader.read()
    assert _versions(loaded) == {"a": "2", "b": "2", "new": "2"}
    assert (loaded.stale, loaded.problems) == ((), ())


def test_a_swap_there_and_back_in_the_middle_of_reading_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = _two_releases(tmp_path)
    left = ["2"]

    def act(path: Path) -> None:
        if path.name == "b.yaml" and left:
            swap(left.pop())

    _before_each(monkeypatch, act, lambda: swap("1"))
    assert _versions(PolicyDirectory(tmp_path).read()) == {"a": "1", "b": "1"}


@pytest.mark.parametrize("how", ["deleted", "created", "renamed", "emptied"])
def test_a_file_that_changes_in_the_middle_of_reading_starts_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for name in ("a", "b", "c"):
        _write(tmp_path / f"{name}.yaml", name)

    left = [how]

    def act(path: Path) -> None:
        if path.name != "c.yaml" or not left:
            return
        match left.pop():
            case "deleted":
                (tmp_path / "a.yaml").unlink()
            case "created":
                _write(tmp_path / "A.yaml", "A")
            case "renamed":
                (tmp_path / "a.yaml").rename(tmp_path / "d.yaml")
            case _:
                os.truncate(tmp_path / "a.yaml", 0)

    _before_each(monkeypatch, act, lambda: None)
    loaded = PolicyDirectory(tmp_path).read()
    expected = {"deleted": "bc", "created": "Aabc", "renamed": "bca", "emptied": "bc"}[how]
    assert _of(loaded) == list(expected)
    assert [p.message for p in loaded.errors] == (
        ["the file is empty; a policy needs a name"] if how == "emptied" else []
    )


def test_a_file_that_vanishes_before_it_is_read_is_deleted_not_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        _write(tmp_path / f"{name}.yaml", name)
    reader = PolicyDirectory(tmp_path)
    reader.read()
    _before_each(
        monkeypatch, lambda path: path.unlink(missing_ok=path.name == "a.yaml"), lambda: None
    )
    # Each reading deletes what it is about to read.
    loaded = reader.read()
    assert (_of(loaded), loaded.stale, loaded.problems) == ([], (), ())
