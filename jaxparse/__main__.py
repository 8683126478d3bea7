"""The console command: `jaxparse NAME ...` runs jaxparse.NAME, as `python -m jaxparse.NAME` does.

A command is imported only when it runs, so that the list of commands appears at once.
"""

import importlib
import os
import signal
import sys
from functools import partial
from importlib import util
from types import FrameType
from typing import NoReturn

# In the order of a project: data, training, use.
COMMANDS = {
    "prepare": "convert CelebAMask-HQ, LaPa or Helen to a folder to train on",
    "synthetic": "write a data folder of drawn faces and their masks",
    "classes": "print a table of classes, or that of a network",
    "data": "check a data folder: counts, sizes, classes, every bad file",
    "convert_weights": "convert weights of mmsegmentation, timm and others, or back",
    "preview": "draw training pictures and masks as the network will see them, augmented",
    "plan": "compute the memory that a training run needs on a GPU, which need not be there",
    "train": "train a network, or resume a run",
    "plot": "draw the curves of runs",
    "average": "average the weights of a run's last evaluations",
    "predict": "write the masks of pictures",
    "web": "serve a page to try networks on photographs, to this machine",
    "evaluate": "score a network, or a folder of masks, against true masks",
    "report": "write one HTML page on a network: scores, errors, suspect masks",
    "export": "write a network as one file for onnxruntime, TensorFlow Lite or JAX",
    "push": "upload weights, with a model card, to the Hugging Face hub",
    "submission": "write or check the zip for a challenge: masks, code and weights",
    "benchmark": "time training and inference on this machine",
}

USAGE = """\
usage: jaxparse COMMAND [FLAGS]

Face parsing in JAX: train, evaluate and run networks that label every pixel of a face.

{commands}

Start with `jaxparse train --exp quickstart`: it needs no files.
Flags of a command: `jaxparse COMMAND --help`. Version: `jaxparse --version`."""


def usage() -> str:
    """What `jaxparse --help` prints: one line for each command."""
    width = max(map(len, COMMANDS))
    lines = (f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items())
    return USAGE.format(commands="\n".join(lines))


def unknown(name: str) -> str:
    """One line on a command that does not exist."""
    import difflib  # here: until `start` Ctrl-C shows a trace

    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    guess = f"; did you mean {nearest[0]}?" if nearest else "."
    return f"error: there is no command {name}{guess} Commands: {', '.join(COMMANDS)}"


def run_command(name: str) -> int | None:
    """Runs jaxparse.NAME with the flags in sys.argv and returns its exit code."""
    module = f"jaxparse.{name}"
    is_folder = util.find_spec(module).submodule_search_locations is not None
    # Imported, not run as __main__: tyro reads the flags' descriptions from the module's source.
    command = importlib.import_module(f"{module}.__main__" if is_folder else module)
    if signal.getsignal(signal.SIGINT) is interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return command.main()


def interrupted(number: int, frame: FrameType | None) -> None:
    """Ends the process while a command is imported: nothing is lost yet.

    Libraries swallow a KeyboardInterrupt that is raised in their imports, or show it twice.
    """
    os.write(2, b"interrupted\n")
    os._exit(130)  # as cli.INTERRUPTED


def start(name: str) -> NoReturn:
    """Runs a command to its end: what `python -m jaxparse.NAME` does before it imports anything."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's & ignores it
        signal.signal(signal.SIGINT, interrupted)
    # Before libraries in C++ are loaded: XLA asks for bug reports on slow compilations, TensorFlow
    # tells how it was built. What goes wrong is raised as well; MTCNN takes as long without oneDNN.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from jaxparse import cli  # here: rich takes 0.1 s, which the list of commands can do without

    cli.run(partial(run_command, name))


def main() -> int:
    """Runs the command that the first word names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print(usage())
        return 0
    if name == "--version":
        from importlib import metadata  # here: it takes 30 ms

        print(f"jaxparse {metadata.version('jaxparse')}")
        return 0
    if name not in COMMANDS:
        print(unknown(name), file=sys.stderr)
        return 2
    sys.argv = [f"jaxparse {name}", *sys.argv[2:]]  # cli.prog reads the name from here
    start(name)


if __name__ == "__main__":
    sys.exit(main())
