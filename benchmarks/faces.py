"""Times the masks of whole photographs: milliseconds to find faces, to cut out, parse and put back.

    python benchmarks/faces.py [--weights FILE] [--flip] [--rounds 5]

Needs `pip install "jaxparse[faces]"`. The photographs are composed of matplotlib's sample picture,
Grace Hopper in the public domain: one face at 0.3 and at 12 megapixels, and twelve small ones.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
from matplotlib import cbook
from PIL import Image

from jaxparse.parsing.alignment import align, crop
from jaxparse.parsing.parser import Parser, TestTime
from jaxparse.weights.files import SHIPPED


def photographs() -> dict[str, np.ndarray]:
    """Name -> uint8 [H, W, 3]."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = Image.open(file).convert("RGB")  # 512 × 600
    group = Image.new("RGB", (1200, 900), (90, 110, 120))
    for index in range(12):
        small = portrait.resize((256, 300))
        group.paste(small, (10 + index % 4 * 300, index // 4 * 300))
    return {
        "512x600, 1 face": np.asarray(portrait),
        "1200x900, 12 faces": np.asarray(group),
        "3200x3750, 1 face": np.asarray(portrait.resize((3200, 3750))),
    }


def milliseconds(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Medians over the rounds, in which the steps take turns, after a first one that compiles."""
    times = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--weights", default=SHIPPED)
    options.add_argument("--flip", action="store_true")
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    parser = Parser.load(args.weights, TestTime(flip=args.flip), faces=True)
    find = parser._detector
    for name, photo in photographs().items():
        found = find(photo)
        parser._detector = lambda image, found=found: found
        prepared = parser.prepare(photo)
        steps = {
            "find": lambda photo=photo: find(photo),
            "cut out": lambda photo=photo, found=found: [
                crop(photo, align(face.points), parser.image_size) for face in found
            ],
            "parse and put back": lambda prepared=prepared: list(parser.parse([prepared])),
        }
        times = milliseconds(steps, args.rounds)
        print(name, f"({len(found)} found):", *(f"{step} {t:.0f} ms" for step, t in times.items()))
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
