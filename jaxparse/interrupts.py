"""Ctrl-C ends a command with one word and exit code 130, whatever it is doing.

While a command starts, libraries swallow a KeyboardInterrupt that is raised in their imports, or
show it twice.
"""

import os
import signal
import sys
import threading
from types import FrameType

INTERRUPTED = 130  # a shell's exit code for a program that Ctrl-C ended


def exit_at_once() -> None:
    """From now on Ctrl-C ends the process, until `raise_again`: nothing is lost while it starts."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's & ignores it
        signal.signal(signal.SIGINT, _exit)


def raise_again() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as usual, and is not lost where none can be.

    JAX runs code when garbage is collected; Python prints an exception that is raised there and
    goes on. Ctrl-C is then sent once more.
    """
    if signal.getsignal(signal.SIGINT) is not _exit:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    show = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:  # a name for type checkers only
        if unraisable.exc_type is not KeyboardInterrupt:
            show(unraisable)
            return
        # Later: at once it would be raised in here.
        again = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook


def _exit(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
