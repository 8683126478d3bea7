"""The zip of masks that a challenge's server takes, written and checked.

    python -m jaxparse.submission pack MASKS --images TEST_IMAGES --output test_mask.zip
    python -m jaxparse.submission check test_mask.zip --images TEST_IMAGES

Servers score what they can read and say little about the rest, so everything that they would
refuse, or score as nonsense, is refused here.
"""

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import tyro
from PIL import Image

from jaxparse import cli
from jaxparse.classes import NUM_CLASSES
from jaxparse.files import atomic_path
from jaxparse.folders import find_images
from jaxparse.images import READ_ERRORS

# server: one folder of any name, that of CelebAMask-HQ's challenge; codabench: a folder `masks`.
Format = Literal["server", "codabench"]

SIZE = (512, 512)  # width and height
SHOWN = 20  # faults that are listed
STRAYS = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")  # left by file managers
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what every unzip knows
ENCRYPTED = 1  # bit of a member's flags
COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}  # PNG, 11.2.1
WRITTEN = (1980, 1, 1, 0, 0, 0)  # of every member, so that equal masks give equal zips


def check_submission(path: Path, images: list[Path], format: Format = "server") -> list[str]:
    """A line on everything in the zip that the server would refuse, each naming the file.

    `images` are the test pictures, each of which needs a mask of its name. Reads every pixel, in
    threads.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return list(_faults(archive, {image.stem: image for image in images}, format))
    except (zipfile.BadZipFile, OSError) as error:
        return [f"{path} is no zip file ({error}); write it anew"]


def _faults(archive: zipfile.ZipFile, images: Mapping[str, Path], format: Format) -> Iterator[str]:
    members = [info for info in archive.infolist() if not _is_plain_folder(info)]
    folders = Counter(PurePosixPath(info.filename).parts[0] for info in members)
    folder = "masks" if format == "codabench" else max(folders, key=folders.get, default="masks")
    seen: set[str] = set()
    masks = []
    for info in members:
        if fault := _name_fault(info, folder, images, seen):
            yield f"{info.filename} {fault}"
        else:
            masks.append(info)
        seen.add(info.filename)
    with ThreadPoolExecutor() as pool:
        for info, fault in zip(masks, pool.map(lambda i: _mask_fault(archive, i), masks)):  # noqa: B905
            if fault:
                yield f"{info.filename} {fault}"
    for stem in sorted(images.keys() - {PurePosixPath(info.filename).stem for info in masks}):
        yield f"{folder}/{stem}.png is missing; {images[stem]} needs a mask"


def _is_plain_folder(info: zipfile.ZipInfo) -> bool:
    """An entry for the folder itself: `zip -r` writes one."""
    parts = PurePosixPath(info.filename).parts
    return info.is_dir() and len(parts) == 1 and parts[0] not in STRAYS


def _name_fault(
    info: zipfile.ZipInfo, folder: str, images: Mapping[str, Path], seen: set[str]
) -> str | None:
    """What is wrong with a member, its pixels apart."""
    path = PurePosixPath(info.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
        return f"is no path within a folder; expected {folder}/NAME.png"
    if any(part in STRAYS or part.startswith(".") for part in path.parts):
        return "is a stray file of the system that zipped; zip without it"
    if info.filename in seen:
        return "is in the zip twice; keep one"
    if len(path.parts) != 2 or info.is_dir():
        where = "lies outside of any folder" if len(path.parts) == 1 else "lies in nested folders"
        return f"{where}; expected {folder}/NAME.png"
    if path.parts[0] != folder:
        return f"lies in a folder of its own; expected all masks in {folder}/"
    if path.suffix != ".png":
        return f"does not end in .png; expected {folder}/{path.stem}.png"
    if path.stem not in images:
        alike = [stem for stem in images if stem.lstrip("0") == path.stem.lstrip("0")]
        hint = f"it should be {alike[0]}.png" if alike else "remove it"
        return f"belongs to no test picture; {hint}"
    if info.flag_bits & ENCRYPTED:
        return "is encrypted; zip without a password"
    if info.compress_type not in COMPRESSIONS:
        return "is compressed otherwise than stored or deflated; zip it anew"
    return None


def _mask_fault(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str | None:
    """What is wrong with a mask's content."""
    try:
        content = archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"is damaged ({error}); zip it anew"
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 26:
        return "is no PNG; write the mask as an 8-bit PNG"
    # Pillow widens fewer bits without a word.
    depth, kind = content[24], COLOUR_TYPES.get(content[25], "unknown")
    if kind not in ("grey", "palette") or depth != 8:
        return f"is {kind} of {depth} bits; expected 8 bits, greyscale or palette, class indices"
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
    except READ_ERRORS as error:
        return f"cannot be read ({error}); write it anew"
    if picture.size != SIZE:
        sizes = ("x".join(map(str, size)) for size in (picture.size, SIZE))
        return "is {}; expected {} (width x height)".format(*sizes)
    highest = int(np.asarray(picture).max())
    if highest >= NUM_CLASSES:
        return f"holds {highest}, outside 0..{NUM_CLASSES - 1}; give every pixel a class"
    return None


def require_none(path: Path, faults: list[str]) -> None:
    """Raises ValueError with the first faults, if there are any."""
    if faults:
        more = f" (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        shown = "; ".join(faults[:SHOWN])
        raise ValueError(f"{path} would be refused: {shown}{more}")


def write_submission(
    masks: Path, images: list[Path], output: Path, format: Format = "server"
) -> None:
    """Packs STEM.png of the folder `masks` for every test picture, as it is, and checks the zip.

    Raises ValueError, and writes nothing, if the server would refuse it.
    """
    folder = "masks" if format == "codabench" else output.stem
    names = sorted(f"{image.stem}.png" for image in images)
    if missing := [name for name in names if not (masks / name).is_file()]:
        raise ValueError(f"{masks} lacks {missing[0]} and {len(missing) - 1} other masks of images")
    with atomic_path(output) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in names:
                archive.writestr(
                    zipfile.ZipInfo(f"{folder}/{name}", WRITTEN), (masks / name).read_bytes()
                )
        require_none(output, check_submission(temporary, images, format))


def check(file: tyro.conf.Positional[Path], images: Path, format: Format = "server") -> int:
    """Lists what a server would refuse in a zip of masks.

    Args:
        file: The zip.
        images: Folder of the test pictures.
        format: `server`: masks in one folder; `codabench`: in a folder called masks.
    """
    pictures = find_images([images])
    faults = check_submission(file, pictures, format)
    for fault in faults[:SHOWN]:
        print(fault)
    if len(faults) > SHOWN:
        print(f"and {len(faults) - SHOWN} more")
    if not faults:
        print(f"{file} is good: {len(pictures)} masks")
    return 1 if faults else 0


def pack(
    masks: tyro.conf.Positional[Path], images: Path, output: Path, format: Format = "server"
) -> None:
    """Zips the masks of any tool for a server, and checks the zip.

    Args:
        masks: Folder of masks, NAME.png for every test picture NAME.jpg.
        images: Folder of the test pictures.
        output: The zip to write.
        format: `server`: masks in one folder; `codabench`: in a folder called masks.
    """
    pictures = find_images([images])
    write_submission(masks, pictures, output, format)
    print(f"wrote {output}: {len(pictures)} masks, checked")


def main() -> int | None:
    """Command line: `check` and `pack`."""
    commands = {"check": check, "pack": pack}
    return tyro.extras.subcommand_cli_from_dict(commands, prog="python -m jaxparse.submission")


if __name__ == "__main__":
    cli.run(main)
