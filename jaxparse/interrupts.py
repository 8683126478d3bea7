"""Ctrl-C while a command starts: one word and exit code 130, whatever is being imported.

Some libraries swallow a KeyboardInterrupt that is raised while they are imported, others show it
twice.
"""

import os
import signal
from types import FrameType

INTERRUPTED = 130  # a shell's exit code for a program that Ctrl-C ended


def exit_at_once() -> None:
    """From now on Ctrl-C ends the process, until `raise_again`: nothing is lost while it starts."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's & ignores it
        signal.signal(signal.SIGINT, _exit)


def raise_again() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as usual."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
