"""The house keeps its order: imports run one way, and the core touches no world."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from authz.core.stages import CHAIN, EXECUTION_GATE

PACKAGE: Final = Path(__file__).parents[1] / "authz"

#: What each part may import of ours (DESIGN §3). A part may always import itself.
MAY_IMPORT: Final[dict[str, set[str]]] = {
    "core": set(),
    "gate": {"core"},
    "stores": {"bundles", "cgroups", "core", "ownership"},
    "operations": {"core", "stores"},
    "memory": {"core", "operations", "settings", "stores"},
    "edges": {"bundles", "cgroups", "core", "gate", "operations", "stores"},
    "reference": {"core", "edges"},
    "logs": {"core"},
    "capture_rules": set(),
    "probe": set(),
    "exits": set(),
    "bundles": {"core"},
    "cgroups": set(),
    "ownership": set(),
    "run_dir": {"exits", "ownership"},
    "settings": {"core"},
    "dev_secrets": {"settings"},
    "envoy_config": {"core", "settings"},
    "tls_files": {"edges", "settings"},
    "tcp_table": set(),
    "unix_http": set(),
    "supervisor": {"cgroups", "core", "exits", "logs", "run_dir", "tcp_table", "unix_http"},
    "launch": {"envoy_config", "exits", "run_dir", "settings", "supervisor", "tls_files"},
    "wiring": {
        "core", "edges", "envoy_config", "exits", "gate", "logs", "memory", "operations",
        "run_dir", "settings", "stores", "sync", "tls_files", "unix_http",
    },
    "cli": {
        "bundles", "capture_rules", "cgroups", "core", "dev_secrets", "edges", "envoy_config",
        "exits", "launch", "logs", "memory", "operations", "ownership", "probe", "run_dir",
        "service", "settings", "stores", "supervisor", "sync", "tcp_table", "tls_files",
        "unix_http", "wiring",
    },
    "sync": {"bundles", "cgroups", "core", "edges", "logs", "ownership", "settings", "stores"},
    "service": {"core", "exits", "logs", "run_dir", "settings", "wiring"},
    "__main__": {"cli", "probe", "service"},
    "__init__": set(),
}  # fmt: skip

#: The standard library's and others' modules through which the core could reach the world.
WORLD: Final = {
    "asyncio", "grpc", "http", "httpx", "io", "logging", "multiprocessing", "os", "pathlib",
    "peewee", "random", "secrets", "select", "shutil", "signal", "socket", "sqlite3", "ssl",
    "subprocess", "sys", "tempfile", "threading", "time", "urllib.request", "uuid", "uvicorn",
}  # fmt: skip


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_part_of_the_house_is_listed() -> None:
    assert {part for part, _ in _modules()} == set(MAY_IMPORT)


@pytest.mark.parametrize(("part", "path"), list(_modules()), ids=lambda v: getattr(v, "name", v))
def test_imports_run_one_way(part: str, path: Path) -> None:
    for name in _imports(path):
        names = name.split(".")
        if names[0] != "authz" or names[1] == "__version__":
            continue
        assert names[1] in MAY_IMPORT[part] | {part}, f"{path}: {part} imports {name}"


def test_the_core_touches_no_world() -> None:
    for part, path in _modules():
        if part != "core":
            continue
        for name in _imports(path):
            steps = name.split(".")
            prefixes = {".".join(steps[: count + 1]) for count in range(len(steps))}
            assert not prefixes & WORLD, f"{path} imports {name}"
        # `print`, `open` and the clock by another door.
        calls = {
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        }
        allowed = {"print"} if path.name == "__main__.py" else set()
        assert not calls & {"open", "now", "utcnow", "today", "input"}, path
        assert not (calls & {"print"}) - allowed, path


def test_only_two_files_know_protobuf() -> None:
    knowing = {
        path.name
        for part, path in _modules()
        if part in ("core", "gate") and any("protobuf" in n or "_pb2" in n for n in _imports(path))
    }
    assert knowing == {"call.py", "reply.py", "wire_pb2.py"}


def test_the_chain_is_a_printable_tuple_in_the_seeds_order() -> None:
    seeds = [
        "auth", "delegation-fuse", "policy", "privilege", "provenance-gate", "risk-wallet",
    ]  # fmt: skip
    names = [stage.name for stage in CHAIN]
    assert [name for name in names if name in seeds] == seeds
    assert [stage.name for stage in EXECUTION_GATE] == ["intent", "action-token", "policy"]
    place = CHAIN.index(EXECUTION_GATE[0])
    assert CHAIN[place : place + 3] == EXECUTION_GATE


def test_the_package_docstring_is_six_lines_and_it_imports_nothing() -> None:
    source = (PACKAGE / "__init__.py").read_text()
    assert list(_imports(PACKAGE / "__init__.py")) == []
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring is not None
    assert len(docstring.splitlines()) <= 6
