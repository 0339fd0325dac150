"""Who is measured on the hot path, each behind an Envoy of the same configuration.

| name           | what answers Envoy                                                        |
|----------------|---------------------------------------------------------------------------|
| `h2c`          | `authz serve`, EXT_AUTHZ_TRANSPORT=h2c                                     |
| `grpc`         | the same gate behind grpc.aio: `authz serve`, EXT_AUTHZ_TRANSPORT=grpc     |
| `grpc_nothing` | grpc.aio that gives a constant answer                                     |
| `ceiling`      | the transport of `h2c` with a gate that gives a constant answer           |
| `opa`          | OPA-Envoy with the same token, policies and headers, and its console log  |
| `policy`       | `h2c`, asked by requests that say as much as those of `chain`             |
| `chain`        | the same with every stage of the chain configured (`chain/`)              |
| `delegated`    | `chain`, asked by an agent that acts for another one, two hops away       |
| `off`          | `h2c`, which tells nothing of what it does                                |
| `metrics`      | the same with METRICS_ENABLED                                             |
| `traces`       | the same with a tenth of all decisions traced, and somebody who takes them |
| `both`         | the same with both                                                        |

Who is not here is left out and said to be: OPA-Envoy joins when OPA_ENVOY_BIN names its binary.
"""

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import yaml

from authz import memory
from authz.core.delegation.issue import Terms
from authz.core.state import State
from authz.settings import EXT_AUTHZ_SOCKET, Settings
from authz.stores.audit_log import AuditLog
from authz.stores.policies import PolicyDirectory
from bench import asked, envoy, processes
from bench.envoy import Envoy
from tests.e2e import sidecar

NAMES: Final = ("h2c", "grpc", "grpc_nothing", "ceiling", "opa")
#: Those with the whole chain, and those with its headers; `hot_path` has none of them.
_CHAINED: Final = ("chain", "delegated")
_SAYING: Final = ("policy", *_CHAINED)
#: Those whose rows are counted.
TELLING: Final = ("off", "metrics", "traces", "both")
_RECORDING: Final = ("h2c", "grpc", *_SAYING, *TELLING)
#: Those that know what to deny.
_DECIDING: Final = (*_RECORDING, "opa")
_TRANSPORT: Final = "EXT_AUTHZ_TRANSPORT"
_OPA: Final = "OPA_ENVOY_BIN"
_OPA_FILES: Final = Path(__file__).with_name("opa")
_CHAIN_FILES: Final = Path(__file__).with_name("chain")


class Contender(NamedTuple):
    """An authorizer that answers, and the Envoy before it."""

    name: str
    pid: int
    envoy: Envoy
    directory: Path
    #: What the request carries.
    headers: Mapping[str, str]

    def verify(self) -> None:
        """Ask it what it has to know."""
        asked.verify(self.envoy.url, self.headers, decides=self.name in _DECIDING)

    @property
    def records(self) -> bool:
        return self.name in _RECORDING

    def rows(self) -> int:
        """The audit rows of proxied requests so far."""
        path = self.directory / "audit.db"
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            [[count]] = db.execute("SELECT count(*) FROM audit WHERE source = 'proxy'")
        return int(count)


def missing(name: str) -> str:
    """Why this one cannot be measured here; empty when it can."""
    if name == "opa":
        binary = os.environ.get(_OPA, "")
        if not binary:
            return f"{_OPA} is not set; point it at an opa-envoy binary to have it join"
        return "" if os.access(binary, os.X_OK) else f"{_OPA}: {binary} is not an executable file"
    return ""


@contextlib.contextmanager
def running(name: str, **more: str) -> Iterator[Contender]:
    """One of them, ready to answer; `more` is of its environment."""
    with sidecar.directory() as directory, contextlib.ExitStack() as stack:
        env = environment(directory, transport=name) | more
        headers = asked.headers()
        if name in _SAYING:
            headers |= asked.CHAIN_HEADERS
        if name in _CHAINED:
            env |= _chained(directory)
        if name == "delegated":
            headers["X-MeshGuard-Delegation"] = _delegated(env)
        (directory / "run").mkdir()
        address = directory / "run" / EXT_AUTHZ_SOCKET
        log = directory / "authorizer.log"
        process = stack.enter_context(
            processes.running(_argv(name, directory, address), log, env=env)
        )
        processes.wait_until(process, address.exists, log)
        before = stack.enter_context(envoy.running(directory, env))
        # A file is there before somebody listens on it.
        processes.wait_until(process, lambda: asked.is_allowed(before.url, headers), log)
        yield Contender(name, process.pid, before, directory, headers)


def environment(directory: Path, *, transport: str) -> dict[str, str]:
    """What `authz serve` and Envoy's configuration are made from."""
    return sidecar.environment(
        directory,
        3100,
        "http://127.0.0.1:9",
        POLICIES_DIR=str(asked.POLICIES),
        DECISION_TIMEOUT_MS="100",
        LOG_LEVEL="warning",
        PYTHONPATH=str(processes.ROOT),
        **{_TRANSPORT: transport if transport in ("h2c", "grpc") else ""},
    )


def _chained(directory: Path) -> dict[str, str]:
    """What the whole chain takes besides: its documents beside the policies, and two variables."""
    policies = directory / "policies"
    shutil.copytree(asked.POLICIES, policies)
    shutil.copytree(_CHAIN_FILES, policies, dirs_exist_ok=True)
    return {
        "POLICIES_DIR": str(policies),
        "INTENT_VERIFICATION": "strict",
        "DESTRUCTIVE_GATE": "true",
    }


def _delegated(env: Mapping[str, str]) -> str:
    """The last of two relationships that lead to the agent that asks."""
    settings = Settings.from_env(env)
    state = State()
    audit = AuditLog(settings.audit_db_path, monotonic=time.monotonic, ledger=state.ledger)
    snapshot = PolicyDirectory(settings.policies_dir).read().snapshot
    delegations, tokens = memory.Delegations(settings), memory.action_tokens(settings)
    with contextlib.closing(audit):
        assert audit.open(), audit.failure
        operations = memory.operations(
            settings,
            state,
            audit,
            delegations,
            tokens,
            snapshot=lambda: snapshot,
            mode=lambda: settings.mode,
            now=time.time,
            steady=time.time,
        )
        above, names = "", ("lead-1", "deputy-1", asked.AGENT)
        for depth, (source, target) in enumerate(itertools.pairwise(names)):
            operations.create_agent(by="bench", agent_id=source, name=source, tags=["code-review"])
            terms = Terms(
                target, ["read:*"], time.time() + asked.TTL_S - depth, max_depth=1 - depth
            )
            above = operations.delegate(terms, source, by="bench", parent=above).id
    return above


def _argv(name: str, directory: Path, address: Path) -> list[str]:
    if name in _RECORDING:
        return [sys.executable, "-m", "authz", "serve"]
    if name == "opa":
        return [
            *(os.environ[_OPA], "run", "--server", "--addr", f"unix://{directory / 'opa.sock'}"),
            *("--config-file", str(_OPA_FILES / "config.yaml")),
            *("--set", f"plugins.envoy_ext_authz_grpc.addr=unix://{address}"),
            *(str(_OPA_FILES / "policy.rego"), str(_opa_data(directory))),
        ]
    kind = {"grpc_nothing": "grpc", "ceiling": "h2c"}[name]
    return [sys.executable, "-m", "bench.nothing", kind, str(address)]


def _opa_data(directory: Path) -> Path:
    """The secret and the policies, as OPA-Envoy reads them."""
    read = [yaml.safe_load(path.read_text()) for path in sorted(asked.POLICIES.glob("*.yaml"))]
    path = directory / "data.json"
    path.write_text(json.dumps({"secret": asked.SECRET, "policies": read}))
    return path
