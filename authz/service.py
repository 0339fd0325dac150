"""The service, as `authz serve` runs it, and as `authz run` starts it: without the command line.

- Importing the command line takes a tenth of a second of processor time and 5 MB, of which a
  service that the supervisor starts would use nothing. `__main__.py` sends that one here.
- What keeps it from starting is a sentence, and a code of `exits.py`.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from authz import logs
from authz.core.text import visible
from authz.exits import Exit
from authz.run_dir import StartError

if TYPE_CHECKING:
    from authz.settings import Settings


def main(ready_fd: str) -> int:
    """Serve with the settings of the environment; returns the exit code.

    Args:
        ready_fd: the descriptor to write a byte to when serving.
    """
    ignore_hangups()
    # Only here and below: most of a start is importing, and a SIGHUP may come meanwhile.
    from authz.settings import Settings, SettingsError  # noqa: PLC0415

    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        _say(error.problems)
        return Exit.SETTINGS
    return run(settings, int(ready_fd))


def run(settings: "Settings", ready_fd: int = -1) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    import uvloop  # noqa: PLC0415

    from authz.settings.typos import typos  # noqa: PLC0415
    from authz.wiring import serve  # noqa: PLC0415

    logs.configure(settings.log_level, settings.log_format, "authz")
    for sentence in typos(os.environ):
        logging.getLogger("authz.settings").warning("%s", visible(sentence))

    def on_ready() -> None:
        if ready_fd >= 0:
            os.write(ready_fd, b"1")
            os.close(ready_fd)

    try:
        uvloop.run(serve(settings, on_ready=on_ready))
    except StartError as error:
        _say([str(error)])
        return error.code
    return Exit.STOPPED


def ignore_hangups() -> None:
    """SIGHUP means "reload" later on; until there is something to reload it must not end us."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _say(sentences: Iterable[str]) -> None:
    sys.stderr.writelines(f"authz: {visible(sentence)}\n" for sentence in sentences)
