"""The zip of masks for a face parsing challenge: packing one, and listing its faults.

    python -m jaxparse.submission check FILE.zip --images DIR [--format server|codabench]
    python -m jaxparse.submission pack MASKS_DIR --images DIR --output FILE.zip [--format ...]

The formats are described in scoring/submissions.py.
"""

import sys
from pathlib import Path

from jaxparse import cli
from jaxparse.scoring.submissions import (
    Format,
    fault_lines,
    inspect_submission,
    mask_names,
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
    good = f"{file}: {inspection.count} masks, no faults"
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
    print(f"{output}: {len(mask_names(images))} masks, no faults")


def main() -> int:
    """Command line: `check` or `pack`."""
    import tyro

    commands = {"check": check, "pack": pack}
    return tyro.extras.subcommand_cli_from_dict(commands, prog=cli.prog("submission"))


if __name__ == "__main__":
    cli.run(main)
