"""Whoever changes the policies, as a process of its own: the load must not be late for its sake.

    python -m bench.publisher DIRECTORY COUNT EDITION ...

It makes a ConfigMap-like volume of DIRECTORY, with COUNT policies in the first edition. Then each
line on stdin names the edition to publish; it answers with the times (seconds since the epoch) at
which it began to write and had swapped. It ends when stdin is closed.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import policies
from bench.policies import CALLER, Document, Volume

#: What the probe's policy says about it, by edition.
PROBE = {"A": "allow", "B": "deny"}


def documents(count: int, edition: str) -> Iterator[Document]:
    """A set for the reload: something always allowed, something always denied, and the probe."""
    yield from policies.documents(count - 1, edition=edition)
    yield {
        "name": "probe",
        "version": "1.0",
        "appliesTo": {key: list(names) for key, names in CALLER.items()},
        "rules": [
            {"id": "always", "effect": "allow", "actions": ["read:always/*"]},
            {"id": "never", "effect": "deny", "actions": ["delete:never/*"]},
            {"id": "probe", "effect": PROBE[edition], "actions": ["read:probe/*"]},
        ],
        "defaultEffect": "deny",
    }


def main() -> None:
    """Publish."""
    directory, count, *editions = sys.argv[1:]
    volume = Volume(Path(directory))
    texts = {edition: policies.texts(documents(int(count), edition)) for edition in editions}
    volume.publish(texts[editions[0]])
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.time()
        staged = volume.stage(texts[line.strip()])
        swapped = time.time()
        volume.swap(staged)
        print(began, swapped, flush=True)


if __name__ == "__main__":
    main()
