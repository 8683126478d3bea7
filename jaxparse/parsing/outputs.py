"""What is made of parsings: pixels of masks, overlays, regions and cut-outs, and their files."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from jaxparse.data.images import as_picture, write_image
from jaxparse.files import atomic_path, read_json
from jaxparse.parsing.overlay import blend
from jaxparse.parsing.regions import Edge, Region, cut_out
from jaxparse.parsing.results import Parsing, Photograph
from jaxparse.parsing.video import ALPHA, GREY, H264, MASK, Kind, Pixels

Render: TypeAlias = Callable[[Parsing], np.ndarray]
# What follows STEM in the name, without suffix -> kind of a clip of it, and its pixels.
Renders: TypeAlias = Mapping[str, tuple[Kind, Render]]
# Of a clip STEM.mp4: what follows STEM in the name -> how it is written, and its pixels.
Tracks: TypeAlias = Mapping[str, tuple[Kind, Callable[[Parsing], Pixels]]]

Writer: TypeAlias = Callable[[Path, Parsing], None]
DESCRIPTION = ".json"  # the one file of a photograph without a face


def mask_pixels(parsing: Parsing) -> tuple[np.ndarray, np.ndarray]:
    """The mask, and the colours of its classes as opaque ARGB."""
    palette = np.full((256, 4), 255, np.uint8)
    palette[: len(parsing.classes), 1:] = parsing.classes.palette
    return parsing.mask, palette


def blended_pixels(parsing: Parsing, opacity: float) -> np.ndarray:
    """The picture blended with the mask's colours; no legend, which would change its size."""
    return blend(np.asarray(as_picture(parsing.source)), parsing.mask, parsing.classes, opacity)


def region_pixels(parsing: Parsing, region: Region, edge: Edge) -> np.ndarray:
    """uint8 [H, W]."""
    return parsing.region(region.classes, **asdict(edge))


def cutout_pixels(parsing: Parsing, region: Region, edge: Edge) -> np.ndarray:
    """uint8 [H, W, 4], RGBA; re-reads the picture, so that it need not stay in memory."""
    picture = np.asarray(as_picture(parsing.source))
    return cut_out(picture, region_pixels(parsing, region, edge))


def region_renders(regions: Sequence[Region], edge: Edge, cutout: bool) -> Renders:
    """Of every region, and with `cutout` of the picture cut out by it. Raises ValueError."""
    renders: dict[str, tuple[Kind, Render]] = {}
    for region in regions:
        if f"_{region.name}" in renders:
            raise ValueError(f"--region gives two files the name {region.name}; give others: =NAME")
        renders[f"_{region.name}"] = GREY, partial(region_pixels, region=region, edge=edge)
        if cutout:
            cut = partial(cutout_pixels, region=region, edge=edge)
            renders[f"_{region.name}_cutout"] = ALPHA, cut
    return renders


def write_png(path: Path, parsing: Parsing, render: Render) -> None:
    """Writes the pixels as PNG."""
    with atomic_path(path) as temporary:
        Image.fromarray(render(parsing)).save(temporary)


def write_overlay(path: Path, parsing: Parsing, opacity: float) -> None:
    """Writes the blended picture; re-reads the picture, so that it need not stay in memory."""
    write_image(path, np.asarray(parsing.overlay(opacity)))


def write_logits(path: Path, parsing: Parsing) -> None:
    """Writes the whole picture's logits at the first scale, float32 [h, w, C], as .npy."""
    with atomic_path(path) as temporary:
        np.save(temporary, parsing.levels[0].logits[0])


def write_description(path: Path, photograph: Photograph) -> None:
    """Writes where its faces are, as JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(photograph.describe()) + "\n")


def write_each_face(folder: Path, photograph: Photograph) -> None:
    """Writes aligned crop and mask of face I, I.jpg and I.png, into the folder.

    Those of an earlier run that found more faces are removed.
    """
    faces = photograph.each_face()
    for index, face in enumerate(faces):
        write_image(folder / f"{index}.jpg", face.source)
        face.save(folder / f"{index}.png")
    for path in folder.glob("*"):
        if path.stem.isdigit() and int(path.stem) >= len(faces):
            path.unlink()


def make_writers(
    opacity: float | None, logits: bool, renders: Renders, faces: bool, each_face: bool
) -> dict[str, Writer]:
    """The files written for STEM.jpg: what follows STEM in the name -> its writer.

    An overlay among them, unless `opacity` is None.
    """
    writers: dict[str, Writer] = {".png": lambda path, parsing: parsing.save(path)}
    if opacity is not None:
        writers["_overlay.png"] = partial(write_overlay, opacity=opacity)
    if logits:
        writers[".npy"] = write_logits
    if faces:
        writers[DESCRIPTION] = write_description
    if each_face:
        writers["_faces"] = write_each_face
    for ending, (_, render) in renders.items():
        writers[f"{ending}.png"] = partial(write_png, render=render)
    return writers


def make_tracks(opacity: float | None, renders: Renders) -> Tracks:
    """The files that are written for a clip; an overlay among them, unless `opacity` is None."""
    tracks: dict[str, tuple[Kind, Callable[[Parsing], Pixels]]] = {MASK.suffix: (MASK, mask_pixels)}
    if opacity is not None:
        tracks[f"_overlay{H264.suffix}"] = H264, partial(blended_pixels, opacity=opacity)
    return tracks | {f"{end}{kind.suffix}": (kind, pix) for end, (kind, pix) in renders.items()}


def files_of(stems: Mapping[Path, Path], endings: Iterable[str]) -> dict[Path, list[Path]]:
    """Input -> the files that are written for it; `stems`: input -> their path without endings."""
    endings = list(endings)
    return {
        path: [stem.with_name(f"{stem.name}{ending}") for ending in endings]
        for path, stem in stems.items()
    }


def all_written(files: Sequence[Path]) -> bool:
    """Whether all are there; of a photograph without a face that is its description."""
    descriptions = [file for file in files if file.suffix == DESCRIPTION and file.is_file()]
    faceless = any(read_json(file).get("faces") == [] for file in descriptions)
    return faceless or all(file.exists() for file in files)


def require_free(files: Mapping[Path, Iterable[Path]]) -> None:
    """Raises ValueError if the files written for an input could replace an input or each other."""
    writers: dict[Path, Path] = {}
    for path, written in files.items():
        for file in written:
            if file.parent.resolve() in (path.parent.resolve(), path.resolve().parent):
                raise ValueError(
                    f"--output {file.parent} is the folder of the input {path}, which might be "
                    "overwritten; give another folder"
                )
            if writers.setdefault(file, path) != path:
                raise ValueError(
                    f"{writers[file]} and {path} would both be written to {file}; rename one, or "
                    "give each its own --output"
                )
