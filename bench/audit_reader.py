"""Whoever reads the audit trail, as a process of its own: the load must not be late for its sake.

    python -m bench.audit_reader walk|export|analytics URL ADMIN_TOKEN

It prints `reading` once the first answer has begun, and reads without a pause until stdin has a
line or ends. Then it prints as JSON how often it came to the end of the trail, how many rows it got
on the way, and how many answers were not what they should be.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Final

import httpx

#: No agent of the trail; the whole table is looked at for it.
NOBODY: Final = "nobody"
#: Seconds that one answer may take.
TIMEOUT_S: Final = 60.0
REPORTS: Final = ("overview", "timeseries", "agents", "policies", "latency-heatmap")


class Failed(Exception):
    """An answer is not what it should be."""


def walk(client: httpx.Client) -> Iterator[int]:
    """Every page of a query that nothing fits; yields the rows of each, and ends with the trail."""
    after = ""
    while True:
        asked = {"agentId": NOBODY, "limit": "1000", **({"after": after} if after else {})}
        answer = client.get("/admin/audit", params=asked)
        if answer.status_code != 200:
            raise Failed(answer.text)
        said = answer.json()
        yield len(said["entries"])
        after = said.get("next", "")
        if not after:
            return


def export(client: httpx.Client) -> Iterator[int]:
    """The whole trail as JSON lines; yields the lines of each piece."""
    with client.stream("GET", "/admin/audit/export", params={"format": "jsonl"}) as answer:
        if answer.status_code != 200:
            raise Failed(str(answer.status_code))
        for piece in answer.iter_bytes():
            yield piece.count(b"\n")


def analytics(client: httpx.Client) -> Iterator[int]:
    """Each report over the whole trail; yields nothing but that it goes on."""
    for name in REPORTS:
        answer = client.get(f"/admin/analytics/{name}", params={"period": "30d"})
        if answer.status_code != 200:
            raise Failed(answer.text)
        yield 0


KINDS: Final[dict[str, Callable[[httpx.Client], Iterator[int]]]] = {
    "walk": walk,
    "export": export,
    "analytics": analytics,
}


def main() -> None:
    """Read."""
    kind, url, token = sys.argv[1:]
    stop = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=listen, daemon=True).start()
    counted = {"ended": 0, "rows": 0, "failed": 0}
    begun = False
    with httpx.Client(base_url=url, headers={"X-Admin-Token": token}, timeout=TIMEOUT_S) as client:
        while not stop.is_set():
            try:
                for rows in KINDS[kind](client):
                    counted["rows"] += rows
                    if not begun:
                        begun = True
                        print("reading", flush=True)
                    if stop.is_set():
                        break
                else:
                    counted["ended"] += 1
            except (httpx.HTTPError, Failed, ValueError, KeyError) as error:
                counted["failed"] += 1
                print(f"{kind}: {error}", file=sys.stderr)
                if not begun:
                    raise SystemExit(1) from None
    print(json.dumps(counted), flush=True)


if __name__ == "__main__":
    main()
