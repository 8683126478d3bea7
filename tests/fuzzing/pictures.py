"""Kinds of damaged pictures, masks and parts of CelebAMask-HQ."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from jaxparse.classes import CELEBAMASK, convert_label, load_classes
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.folders import find_pairs
from jaxparse.data.images import open_picture, read_header, read_image
from jaxparse.data.masks import read_label, write_mask
from jaxparse.data.releases.celebamask import read_part, read_picture
from jaxparse.data.sources import FolderSource
from jaxparse.scoring.folders import score_folders
from tests.fuzzing.damage import BYTES, CHUNKS, Damage
from tests.fuzzing.judge import Kind

SIZE = 64


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def only_png(name: str) -> Damage:
    """The damage to chunks, of other files to bytes."""

    def damage(rng: random.Random, data: bytes, other: bytes) -> bytes:
        is_png = data.startswith(b"\x89PNG")
        return (CHUNKS[name] if is_png else BYTES["header field"])(rng, data, other)

    return damage


CHUNKS_OF_PNG = {name: only_png(name) for name in CHUNKS}


def read_whole(path: Path) -> tuple[object, ...]:
    """All that commands take from a picture."""
    header, pixels = read_header(path), np.asarray(read_image(path))
    with open_picture(path) as picture:
        return header.size, header.orientation, picture.mode, pixels


def pictures(folder: Path) -> Kind:
    """Of every format that is read, in several modes."""
    image = Image.fromarray(draw_face(0, 0, SIZE)[0])
    turned = Image.Exif()
    turned[0x112] = 6
    grey16 = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    files = {
        "a.jpg": encoded(image, "JPEG", exif=turned.tobytes()),
        "progressive.jpg": encoded(image, "JPEG", progressive=True, quality=95),
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "a.png": encoded(image, "PNG", exif=turned.tobytes()),
        "grey.png": encoded(image.convert("LA"), "PNG"),
        "deep.png": encoded(grey16, "PNG"),
        "palette.png": encoded(image.quantize(16), "PNG", transparency=3),
        "a.webp": encoded(image, "WEBP", exif=turned.tobytes()),
        "lossless.webp": encoded(image.convert("RGBA"), "WEBP", lossless=True),
        "a.tif": encoded(image, "TIFF"),
        "lzw.tif": encoded(grey16, "TIFF", compression="tiff_lzw"),
        "jpeg.tif": encoded(image, "TIFF", compression="jpeg"),
        "float.tif": encoded(image.convert("I"), "TIFF", compression="tiff_adobe_deflate"),
        "a.bmp": encoded(image, "BMP"),
        "palette.bmp": encoded(image.quantize(16), "BMP"),
        "a.gif": encoded(image.quantize(64), "GIF", save_all=True, append_images=[image]),
        "a.ppm": encoded(image, "PPM"),
        "a.mpo": encoded(image, "MPO", save_all=True, append_images=[image]),
    }
    if "AVIF" in Image.SAVE:
        files["a.avif"] = encoded(image, "AVIF")
    return Kind(files, BYTES | CHUNKS_OF_PNG, read_whole)


def mask_files(folder: Path) -> dict[str, bytes]:
    """A mask as this package writes it, in another order, and as other tools write it."""
    label = draw_face(0, 1, SIZE)[1]
    label[:3] = 255
    write_mask(folder / "made.png", label)
    zllrunning = load_classes("zllrunning")
    there = convert_label(label, CELEBAMASK, zllrunning)
    write_mask(folder / "zllrunning.png", there, zllrunning)
    colours = Image.open(folder / "made.png").convert("RGB").crop((0, 3, SIZE, SIZE))
    palette = Image.fromarray(np.minimum(label, 15))
    palette.putpalette(bytes(range(48)))
    return {
        "made.png": (folder / "made.png").read_bytes(),
        "zllrunning.png": (folder / "zllrunning.png").read_bytes(),
        "grey.png": encoded(Image.fromarray(label), "PNG"),
        "small.png": encoded(palette, "PNG", bits=4),
        "colours.png": encoded(colours, "PNG", compress_level=1),
    }


def read_mask(path: Path) -> np.ndarray:
    label = read_label(
        path, labels_are=load_classes("zllrunning") if path.stem == "zllrunning" else None
    )
    read_header(path, "mask")
    return label


def masks(folder: Path) -> Kind:
    """PNG: bytes, and chunks with right checksums."""
    return Kind(mask_files(folder), BYTES | CHUNKS, read_mask, sums=True)


def masks_without_sums(folder: Path) -> Kind:
    """BMP and TIFF, as other tools write masks."""
    mask = Image.fromarray(draw_face(0, 1, SIZE)[1])
    files = {
        "a.bmp": encoded(mask, "BMP"),
        "a.tif": encoded(mask, "TIFF", compression="tiff_lzw"),
        "raw.tif": encoded(mask, "TIFF"),
    }
    return Kind(files, BYTES, read_mask)


def pairs(folder: Path) -> Kind:
    """A picture and its mask, found and read as training does."""
    image, label = draw_face(0, 3, SIZE)
    files = {
        "val/images/a.jpg": encoded(Image.fromarray(image), "JPEG"),
        "val/masks/a.png": encoded(Image.fromarray(label), "PNG"),
    }

    def read(path: Path) -> dict[str, object]:
        return FolderSource(find_pairs(folder, "val"), 32, resize_label=True)[0]

    return Kind(files, BYTES | CHUNKS_OF_PNG, read)


def scored_masks(folder: Path) -> Kind:
    """Two folders to score, one prediction damaged."""
    files = mask_files(folder / "labels")
    for name in ("zllrunning", "made"):
        (folder / "labels" / f"{name}.png").unlink()
    (folder / "labels" / "grey.png").write_bytes(files["grey.png"])
    original = {"predictions/grey.png": encoded(Image.fromarray(draw_face(0, 1, SIZE)[1]), "PNG")}

    def read(path: Path) -> object:
        counts = score_folders(path.parent, folder / "labels")
        return {name: tuple(count) for name, count in counts.items()}

    return Kind(original, BYTES | CHUNKS, read, sums=True)


def parts(folder: Path) -> Kind:
    """The release's masks of one part."""
    skin = Image.fromarray(np.uint8(255) * (draw_face(0, 2, 512)[1] == 1))
    files = {
        "0/00000_skin.png": encoded(skin, "PNG"),
        "0/00001_skin.png": encoded(skin.convert("RGB"), "PNG"),
    }
    return Kind(files, BYTES | CHUNKS, read_part, sums=True)


def release_pictures(folder: Path) -> Kind:
    """The release's pictures."""
    image = Image.fromarray(draw_face(0, 2, 1024)[0])
    return Kind(
        {"0.jpg": encoded(image, "JPEG")}, BYTES, lambda path: np.asarray(read_picture(path))
    )
