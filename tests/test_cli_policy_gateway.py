"""`authz policy` of POLICIES_DIR and of the service that follows it: both answer alike."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from authz.cli import app
from tests.serving import SECRET, TOKEN, Service, serving
from tests.test_cli_policy_documents import MANY, ONE, Done, new


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(one=ONE, many=MANY) as running:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("MESHGUARD_ADMIN_TOKEN", TOKEN)
        monkeypatch.setenv("POLICIES_DIR", str(running.policies))
        monkeypatch.setenv("AUDIT_DB_PATH", str(running.database))
        monkeypatch.setenv("JWT_SECRET", SECRET)
        for name in ("MESHGUARD_GATEWAY_URL", "MESHGUARD_URL", "OUTPUT_FORMAT"):
            monkeypatch.delenv(name, raising=False)
        running.ask(
            "POST", "/admin/agents", headers={"Authorization": f"Bearer {TOKEN}"},
            json={"id": "ann", "name": "Ann", "trustTier": "trusted", "tags": ["docs"]},
        )  # fmt: skip
        yield running


def policy(*arguments: object) -> Done:
    done = CliRunner().invoke(app, ["policy", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def test_both_answer_alike(service: Service, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\n")
    (tmp_path / "good.yaml").write_text(f"{ONE}---\n{MANY}")
    for command in (
        ("list",),
        ("show", "reader"),
        ("show", "second"),
        ("show", "floors", "--kind", "PrivilegeFloors"),
        ("show", "reader", "--json"),
        ("allowed", "ann"),
        ("allowed", "bob", "--all", "--json"),
        ("allowed", "ann", "--tier", "basic"),
        ("validate", "bad.yaml"),
        ("validate", "good.yaml"),
        ("test", "bob", "go:x"),
        # By its record, which has a tag.
        ("test", "ann", "read:x"),
        ("test", "ann", "read:x", "--tag", "other"),
        ("test", "--agent", "bob", "--action", "no"),
        ("test", "bob", "read:x", "--tag", "docs", "--tier", "trusted", "--policy", "good.yaml"),
        ("versions",),
    ):
        here = policy(*command)
        there = policy(*command, "--gateway", service.url)
        assert there == here, command


def test_only_here_it_is_known_where_the_lines_of_a_trace_stand(service: Service) -> None:
    call = ("test", "--agent", "bob", "--action", "go:x", "--verbose")
    here = policy(*call).out.replace(f" ({service.policies}/many.yaml:2)", "").splitlines()
    there = policy(*call, "--gateway", service.url).out.splitlines()
    others = here.index("Do not apply to this agent:")
    assert there == [line for line in here[:others] if line]


def test_documents_are_put_in_place_and_removed(service: Service, tmp_path: Path) -> None:
    where = ("--gateway", service.url)
    (tmp_path / "new.yaml").write_text(f"{new('second')}---\n{new('third')}")
    assert service.check("bob", "new:x") == 403
    done = policy("apply", "new.yaml", "--dry-run", *where)
    assert [line.split(" (")[0] for line in done.out.splitlines()] == [
        "second: would be replaced", "third: would be created",
    ]  # fmt: skip
    done = policy("apply", "new.yaml", *where)
    assert (done.code, done.out.splitlines()) == (
        0, ["second: replaced (many.yaml)", "third: created (third.yaml)"],
    )  # fmt: skip
    # It is in force when that is answered.
    assert service.check("bob", "new:x") == 200
    assert policy("apply", "new.yaml", *where).out.count("unchanged") == 2
    assert policy("apply", "new.yaml").out.count("unchanged") == 2
    for name in ("third", "second"):
        assert policy("delete", name, *where).code == 0
    assert service.check("bob", "new:x") == 403
    assert policy("delete", "third", *where).code == 1


def test_versions_are_pinned(service: Service, tmp_path: Path) -> None:
    where = ("--gateway", service.url)
    assert "is in force, until `authz policy unpin`" in policy("pin", *where).out
    (tmp_path / "new.yaml").write_text(new("third"))
    assert "pinned" in policy("apply", "new.yaml", *where).out
    assert service.check("bob", "new:x") == 403
    assert "of the files is in force" in policy("unpin", *where).out
    assert service.check("bob", "new:x") == 200
