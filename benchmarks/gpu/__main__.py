"""What jaxparse does on a GPU, in one command: exactness, speed beside PyTorch, runs, faults.

    python -m benchmarks.gpu --output gpu.json [--parts exact,speed] [--minutes 24] [--quick]

In the checkout's folder. Needs jax, flax, optax, orbax-checkpoint, safetensors, pillow; grain for
the parts `train`, `resume` and `faults`; torch and transformers for `torch`. Every case runs in a
process of its own, and its figures are in the file as soon as it ends. The same command then
measures what the file lacks, cases that failed or had no time left: so the work may be cut into
several calls.
"""

import argparse
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
from rich.console import Console

from benchmarks.gpu import exact, kernels, runs, speed
from benchmarks.gpu.cases import Case, Figures, Results, as_text, run, table

# Part -> its share of the time, in the order in which they run.
SHARES = {
    "exact": 4,
    "compile": 7,
    "speed": 6,
    "torch": 6,
    "kernels": 1,
    "train": 5,
    "resume": 4,
    "faults": 2,
}
# Parts that time nothing on the device run several cases at once, one for so many cores.
PARALLEL, CORES = ("exact", "compile"), 4
LEAST = 5  # seconds left, or a case is not tried


def machine() -> Figures:
    """The device, its driver and the versions."""
    query = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() if (
        shutil.which("nvidia-smi")
    ) else "none"  # fmt: skip
    device = jax.devices()[0]
    figures = {"device": device.device_kind, "platform": device.platform, "driver": driver}
    for package in ("jax", "flax", "optax", "orbax-checkpoint", "torch", "transformers", "grain"):
        try:
            figures[package] = version(package)
        except PackageNotFoundError:
            figures[package] = "missing"
    return figures | {"python": platform.python_version()}


def cases_of(part: str, args: argparse.Namespace) -> Iterator[Case]:
    """The cases of a part, the more telling ones first."""
    quick, size, peers, data = args.quick, args.image_size, args.shared / "peers", args.data_dir
    return {
        "exact": lambda: exact.cases(quick),
        "compile": lambda: speed.compile_cases(quick, size),
        "speed": lambda: speed.cases(quick, size),
        "torch": lambda: speed.peer_cases(quick, size, peers),
        "kernels": lambda: kernels.cases(quick, size),
        "train": lambda: runs.run_cases(quick, size, data, args.steps),
        "resume": lambda: runs.resume_cases(quick, size),
        "faults": lambda: runs.fault_cases(quick, size),
    }[part]()


def measure_part(
    part: str, cases: list[Case], seconds: float, programs: Path
) -> Iterator[tuple[Case, Figures]]:
    """Each case with its figures, of those that there is time for."""
    end = time.monotonic() + seconds
    environment = {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    workers = 1
    if part in PARALLEL:
        workers = max(1, (os.cpu_count() or 1) // CORES)
        environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # they share the memory

    def attempt(case: Case) -> Figures:
        left = end - time.monotonic()
        if left < LEAST:
            return {"error": "no time left; the same command measures it"}
        return run(case, left, environment)

    with ThreadPoolExecutor(workers) as pool:
        yield from zip(cases, pool.map(attempt, cases), strict=True)


def measure(args: argparse.Namespace, results: Results, console: Console) -> None:
    """Every part in its share of the time that is left; prints a line for each case."""
    end, programs = time.monotonic() + 60 * args.minutes, args.output.resolve().parent / "programs"
    for index, part in enumerate(args.parts):
        shares = [SHARES[name] for name in args.parts[index:]]
        seconds = (end - time.monotonic()) * shares[0] / sum(shares)
        missing = [case for case in cases_of(part, args) if not results.has(part, case.name)]
        for case, figures in measure_part(part, missing, seconds, programs):
            results.put(part, case.name, figures)
            text = "; ".join(f"{k} {as_text(v)}" for k, v in figures.items())
            console.print(f"{part}: {case.name}: {text}", markup=False, highlight=False)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="JSON file")
    parser.add_argument("--parts", default=",".join(SHARES), help="some of: %(default)s")
    parser.add_argument("--minutes", type=float, default=24, help="for all parts (%(default)s)")
    parser.add_argument("--image-size", type=int, help="side in pixels (512; quick: 64)")
    parser.add_argument("--steps", type=int, help="of the run from files (2000; quick: 60)")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="has peers/")
    parser.add_argument("--data-dir", type=Path, help="pictures of the run from files")
    parser.add_argument("--quick", action="store_true", help="small networks, to try the script")
    args = parser.parse_args()
    args.parts = args.parts.split(",")
    if unknown := set(args.parts) - set(SHARES):
        parser.error(f"there are no parts {', '.join(sorted(unknown))}; give some of {[*SHARES]}")
    args.image_size = args.image_size or (64 if args.quick else 512)
    args.steps = args.steps or (60 if args.quick else 2000)
    args.shared = args.shared.resolve()
    args.data_dir = (args.data_dir or args.shared / "data" / "celebamask_mini").resolve()
    return args


def main() -> None:
    args, console = parse(), Console(width=220)
    results = Results(args.output)
    results.put("machine", "this", run(Case("machine", "__main__:machine", {}), 120))
    measure(args, results, console)
    for part, cases in results.parts.items():
        console.print(table(part, cases))
    if ratios := speed.ratios(results.parts):
        console.print(table("jaxparse over torch.compile", ratios))
    console.print(f"figures: {args.output}")


if __name__ == "__main__":
    main()
