"""Wallets and fuses (`edges/http/records.py`)."""

from typing import Annotated, Final, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from authz.reference.operation import CLOSED, IN_PATHS, Operation, Time


@with_config(CLOSED)
class Wallet(TypedDict):
    """What an agent has spent of a wallet, risk points."""

    wallet: str
    agentId: str
    spent: int
    capacity: NotRequired[
        Annotated[int, Field(description="Absent where no document of this name is in force.")]
    ]
    remaining: NotRequired[int]


@with_config(CLOSED)
class WalletPage(TypedDict):
    """Wallets by agent; a page may be longer than `limit`, to end with an agent's last one."""

    wallets: list[Wallet]
    next: NotRequired[Annotated[str, Field(description="Send it as `after` for more.")]]


@with_config(CLOSED)
class ResetWallet(Wallet):
    """The wallet, and what it was given back."""

    givenBack: int


@with_config(CLOSED)
class Fuse(TypedDict):
    """How often a delegation has failed."""

    relationshipId: str
    agentId: Annotated[str, Field(description="Whose requests failed.")]
    rootAgentId: Annotated[str, Field(description="For whom it acted in the end.")]
    state: Literal["open", "closed"]
    recentFailures: int
    timesOpened: int
    openedAt: NotRequired[Time]
    openUntil: NotRequired[Time]


@with_config(CLOSED)
class FusePage(TypedDict):
    """Fuses, the one that failed last first."""

    fuses: list[Fuse]
    next: NotRequired[Annotated[str, Field(description="Send it as `after` for more.")]]


@with_config(CLOSED)
class ResetFuse(TypedDict):
    """A fuse that is as new."""

    relationshipId: str
    state: Literal["closed"]


_WALLET: Final = {
    "wallet": "points",
    "agentId": "worker",
    "spent": 30,
    "capacity": 100,
    "remaining": 70,
}
_FUSE: Final = {
    "relationshipId": IN_PATHS["relationship_id"],
    "agentId": "worker",
    "rootAgentId": "planner",
    "state": "open",
    "recentFailures": 0,
    "timesOpened": 1,
    "openedAt": "2026-01-31T12:00:00.000000Z",
    "openUntil": "2026-01-31T12:01:00.000000Z",
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/admin/wallets",
        "listWallets",
        "List what agents have spent",
        "Wallets and fuses",
        WalletPage,
        {"wallets": [_WALLET]},
        asks={"wallet": "Of the wallet of this name alone."},
    ),
    Operation(
        "POST",
        "/admin/wallets/{wallet}/{agent_id}/reset",
        "resetWallet",
        "Give an agent back what it has spent",
        "Wallets and fuses",
        ResetWallet,
        {**_WALLET, "spent": 0, "remaining": 100, "givenBack": 30},
        errors=(401, 404, 503),
        refuses={404: "agent reviewer has spent nothing of wallet points"},
        asks={"wallet": "The wallet's name."},
    ),
    Operation(
        "GET",
        "/admin/fuses",
        "listFuses",
        "List delegations that have failed",
        "Wallets and fuses",
        FusePage,
        {"fuses": [_FUSE]},
        words={"state": ("open", "closed")},
        asks={"state": "In this state alone; what is `open` lets nothing through."},
    ),
    Operation(
        "POST",
        "/admin/fuses/{relationship_id}/reset",
        "resetFuse",
        "Close the fuse of a delegation",
        "Wallets and fuses",
        ResetFuse,
        {"relationshipId": IN_PATHS["relationship_id"], "state": "closed"},
        errors=(401, 404, 503),
        refuses={
            404: f"relationship {IN_PATHS['relationship_id']} has no fuse that could be reset"
        },
    ),
)
