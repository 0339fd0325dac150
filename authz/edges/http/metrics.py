"""`GET /metrics`: what the chain remembers, as Prometheus text (METRICS_ENABLED).

- What is counted is copied on the event loop's thread, which alone may read the ledger, and counted
  and written out in another.
- Names of agents are theirs to choose, so the series that have one are bounded: `MAX_SERIES`, and
  how many are left out is a figure too.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.core import latches
from authz.core.incident import Kind
from authz.edges.http.records import STATES
from authz.edges.http.refusals import refusals
from authz.edges.incidents import Incidents
from authz.operations import Operations, Spent

#: Series of wallets. A sidecar has one agent; whoever scrapes a gateway of thousands wants sums.
MAX_SERIES: Final = 1000


def router(operations: Operations, incidents: Incidents) -> APIRouter:
    """The route; open, as scrapers expect it."""
    routes = APIRouter()

    @routes.get("/metrics")
    async def metrics() -> Response:
        with refusals():
            operations.refresh()
        state, now = operations.state, operations.steady()
        keys = list(itertools.islice(state.wallets.entries, MAX_SERIES))
        wallets = operations.spent(keys)
        hidden = len(state.wallets.entries) - len(keys)
        fuses, actions = list(state.fuses.values()), list(state.pending.values())
        happened = dict(incidents.counts)

        def written() -> bytes:
            opened = sum(latches.standing(latch, now) == "open" for latch in fuses)
            states = Counter(action.state_at(now) for action in actions)
            return generate_latest(_Figures(wallets, hidden, opened, states, happened))

        return Response(
            await asyncio.to_thread(written), headers={"content-type": CONTENT_TYPE_LATEST}
        )

    return routes


class _Figures(Collector):
    """What one scrape is told."""

    def __init__(
        self,
        wallets: Sequence[Spent],
        hidden: int,
        opened: int,
        states: Mapping[str, int],
        incidents: Mapping[Kind, int],
    ) -> None:
        """
        Args:
            hidden: balances that are not among `wallets`.
            opened: delegations whose fuse is open.
            states: pending actions by their state.
            incidents: how often each kind has happened since the start.
        """
        self._wallets = wallets
        self._hidden = hidden
        self._opened = opened
        self._states = states
        self._incidents = incidents

    def collect(self) -> Iterator[Metric]:
        """The figures as families of series."""
        remaining = GaugeMetricFamily(
            "meshguard_risk_wallet_remaining",
            "Risk points that an agent has left, where it has spent any",
            labels=("wallet", "agent"),
        )
        for spent in self._wallets:
            if spent.remaining is not None:
                remaining.add_metric((spent.wallet, spent.agent_id), spent.remaining)
        yield remaining
        yield GaugeMetricFamily(
            "meshguard_risk_wallet_hidden",
            "Balances without a series of their own, since there are too many",
            value=self._hidden,
        )
        yield GaugeMetricFamily(
            "meshguard_delegation_fuses_open",
            "Delegations that are shut because they failed too often",
            value=self._opened,
        )
        actions = GaugeMetricFamily(
            "meshguard_pending_actions", "Pending actions that are kept", labels=("state",)
        )
        for state in STATES:
            actions.add_metric((state,), self._states.get(state, 0))
        yield actions
        happened = CounterMetricFamily(
            "meshguard_incidents", "What has happened to the sidecar itself", labels=("kind",)
        )
        for kind in Kind:
            happened.add_metric((kind,), self._incidents.get(kind, 0))
        yield happened
