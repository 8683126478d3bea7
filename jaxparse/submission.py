"""The zip for a face parsing challenge: packing one, and listing its faults.

    python -m jaxparse.submission check FILE.zip --images DIR [--format server|codabench]
    python -m jaxparse.submission pack MASKS_DIR --images DIR --output FILE.zip [--format ...]
    python -m jaxparse.submission solution --weights FILE_OR_RUN --images DIR --output FILE.zip

The formats are described in scoring/submissions.py.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("submission")

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro

from jaxparse import cli
from jaxparse.data.folders import find_images
from jaxparse.parsing.parser import NO_TEST_TIME, TestTime
from jaxparse.parsing.solution import (
    PARAMETER_LIMIT,
    require_few_parameters,
    run_solution,
    write_solution,
)
from jaxparse.scoring.submissions import (
    Format,
    fault_lines,
    inspect_submission,
    mask_names,
    require_output,
    require_sizes,
    write_submission,
)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        print("warning:", warning, file=sys.stderr)


def check(file: Path, /, *, images: Path, format: Format = "server") -> int:
    """Lists everything in a zip of masks that the challenge's server would refuse.

    Args:
        file: The zip.
        images: Folder of the test images.
        format: server, one folder of masks; codabench, masks/ and in the test phase solution/.

    Returns 1 if there is a fault, else 0.
    """
    inspection = inspect_submission(file, images, format)
    _warn(inspection.warnings)
    good = f"{file}: {cli.counted(inspection.count, 'mask')}, no faults"
    print("\n".join(fault_lines(inspection.faults)) or good)
    return 1 if inspection.faults else 0


def pack(masks: Path, /, *, images: Path, output: Path, format: Format = "server") -> None:
    """Packs masks of any tool, named STEM.png, for the challenge's server, and checks the zip.

    If there is a fault, nothing is written.

    Args:
        masks: Folder of the masks.
        images: Folder of the test images.
        output: The zip to write.
        format: server, one folder of masks; codabench, masks/.
    """
    _warn(write_submission(masks, images, output, format))
    print(f"{output}: {cli.counted(len(mask_names(images)), 'mask')}, no faults")


def solution(
    *,
    weights: str,
    images: Path,
    output: Path,
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = NO_TEST_TIME,
    parameter_limit: int = PARAMETER_LIMIT,
) -> None:
    """Writes the zip of CodaBench's test phase: masks/, and in solution/ what makes them again.

    The masks are those that solution/run.py writes, on the CPU.

    Args:
        weights: A weights file (.safetensors), the folder of a run (its best weights), or a
            repository of the Hugging Face hub (user/name).
        images: Folder of the test images.
        output: The zip to write.
        parameter_limit: The network must have fewer trainable parameters.
    """
    require_output(output)
    require_few_parameters(weights, parameter_limit)
    require_sizes(find_images([images]))
    with TemporaryDirectory() as folder:
        code, masks = Path(folder) / "solution", Path(folder) / "masks"
        write_solution(code, weights, test_time)
        pictures = {masks / name: image for name, image in mask_names(images).items()}
        made, first = run_solution(code, pictures), cli.COMPILING
        written = cli.track(made, len(pictures), "predicting", first=first)
        count = len(list(written))
        _warn(write_submission(masks, images, output, "codabench", code))
    print(f"{output}: {cli.counted(count, 'mask')} and the solution, no faults")


def main() -> int:
    """Command line: `check`, `pack` or `solution`."""
    commands = {"check": check, "pack": pack, "solution": solution}
    return tyro.extras.subcommand_cli_from_dict(commands, prog=cli.prog("submission"))
