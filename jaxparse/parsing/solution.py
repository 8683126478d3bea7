"""The folder solution/ of the newer challenge: code and weights that give the masks again.

The challenge runs `python3 run.py --input PICTURE.jpg --output MASK.png --weights ckpt.pth` and
compares the mask with the submitted one. jaxparse lies beside run.py, so that requirements.txt
needs nothing but package indexes; ckpt.pth is the safetensors file under the name that the
challenge demands.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import jaxparse
from jaxparse.classes import CELEBAMASK
from jaxparse.models.parameters import parameter_counts
from jaxparse.parsing.parser import TestTime
from jaxparse.weights.find import find_weights, load_network

PARAMETER_LIMIT = 1_821_085  # the challenge allows fewer
REQUIREMENTS = ("flax", "jax", "numpy", "pillow", "rich", "safetensors")  # of the Parser

RUN = '''\
"""Writes the masks of face pictures: PNGs of class indices.

    python3 run.py --input PICTURE.jpg --output MASK.png --weights ckpt.pth
"""

import argparse
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # where the masks were made: a GPU rounds differently

from jaxparse import Parser, TestTime

TEST_TIME = {test_time!r}

if __name__ == "__main__":
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--input", nargs="+", required=True, help="pictures")
    flags.add_argument("--output", nargs="+", required=True, help="as many masks, .png")
    flags.add_argument("--weights", default=Path(__file__).with_name("ckpt.pth"))
    given = flags.parse_args()
    # One picture at a time: in batches the last digits differ.
    parser = Parser.load(given.weights, TEST_TIME, batch_size=1)
    for picture, mask in zip(given.input, given.output, strict=True):
        parser(picture).save(mask)
        print(mask, flush=True)
'''


def require_few_parameters(weights: str | Path, limit: int) -> None:
    """Raises ValueError unless the network has fewer than `limit` trainable parameters.

    Those of the auxiliary head count: it is trained with the rest.
    """
    config, params, _ = load_network(weights)
    if config.classes.names != CELEBAMASK.names:
        raise ValueError(
            f"{weights} has the classes {config.classes} and the challenge's are {CELEBAMASK}'s; "
            "give another network"
        )
    counts = parameter_counts(params)
    total = sum(counts.values())
    if total >= limit:
        parts = ", ".join(f"{part} {count:,}" for part, count in counts.items())
        raise ValueError(
            f"{weights} has {total:,} trainable parameters ({parts}), and the challenge allows "
            f"fewer than {limit:,}: train a smaller network; --parameter-limit sets another limit"
        )


def write_solution(folder: Path, weights: str | Path, test_time: TestTime) -> None:
    """Writes run.py, ckpt.pth, requirements.txt and the package into `folder`, a new one.

    The versions are those of this environment.
    """
    package = Path(jaxparse.__file__).parent
    left_out = shutil.ignore_patterns("__pycache__", "*.safetensors")  # only ckpt.pth has weights
    shutil.copytree(package, folder / "jaxparse", ignore=left_out)
    shutil.copy(find_weights(weights), folder / "ckpt.pth")
    (folder / "run.py").write_text(RUN.format(test_time=test_time))
    lines = (f"{name}=={metadata.version(name)}\n" for name in REQUIREMENTS)
    (folder / "requirements.txt").write_text("".join(lines))


def run_solution(folder: Path, masks: Mapping[Path, Path]) -> Iterator[Path]:
    """Runs the folder's run.py, in a process of its own: mask to write -> picture.

    Yields each mask when it is written. Raises ValueError if run.py fails; its error is on stderr.
    """
    flags = "--input", *map(str, masks.values()), "--output", *map(str, masks)
    command = (sys.executable, "-B", str(folder / "run.py"), *flags)  # -B: no __pycache__
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield from (Path(line.rstrip("\n")) for line in process.stdout)
    if process.returncode:
        raise ValueError(f"run.py ended with exit code {process.returncode}; its error is above")
