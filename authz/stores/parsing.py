"""Parsing many policy files beside a service that has requests to answer.

Python runs one thread of a process at a time, so a thread that parses a thousand files makes every
answer wait, again and again. A process of its own does not. It is started for the purpose, at a
lower priority, and ends with it; few files are not worth one.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Final

from authz import cgroups
from authz.core.policy_file import Parsed, parse_file

log = logging.getLogger(__name__)

#: Files up to which parsing here, a millisecond each, is quicker than starting a process.
FEW: Final = 20
#: Bytes of files up to which that is so.
LITTLE: Final = 32 * 1024
#: Files in one answer of the process: taking it apart is done here, in about a millisecond.
AT_ONCE: Final = 5
#: How much the process stands back for others (nice(2)).
NICENESS: Final = 10

Item = tuple[bytes, str]


def parse_here(items: Iterable[Item]) -> Iterator[Parsed]:
    """Parse files, given as bytes and name, in order."""
    return (parse_file(data, file) for data, file in items)


class ParserProcess:
    """Parses in another process where there is much to parse. One thread at a time may ask."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def parse(self, items: Sequence[Item]) -> Iterator[Parsed]:
        """Parse files, given as bytes and name, in order."""
        done = 0
        if len(items) > FEW or sum(len(data) for data, _ in items) > LITTLE:
            # Not a fork: the service has threads, and connections that are its own.
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), _stand_back)
            try:
                for parsed in self._pool.map(_parse, items, chunksize=AT_ONCE):
                    done += 1
                    yield parsed
            except (BrokenProcessPool, OSError) as error:
                log.warning("policies are parsed in the service: no process for it: %s", error)
            finally:
                self.stop(wait=True)
        yield from parse_here(items[done:])

    def stop(self, *, wait: bool = False) -> None:
        """Give up what is not done yet."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=wait, cancel_futures=True)


def _stand_back() -> None:
    os.nice(NICENESS)
    # Without it the files are parsed in the service, which has its own memory already.
    cgroups.give_way()


def _parse(item: Item) -> Parsed:
    return parse_file(*item)


def parse_aside(items: Sequence[Item]) -> Iterator[Parsed]:
    """Parse files for somebody who asks, in a process of their own where that takes long."""
    return ParserProcess().parse(items)
