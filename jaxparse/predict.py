"""Pictures and clips -> masks at their own sizes, as palette PNG.

    python -m jaxparse.predict FILE_OR_DIR... --output DIR
    python -m jaxparse.predict clip.mp4 --output DIR [--frames]
    python -m jaxparse.predict FILE_OR_DIR... --weights FILE_OR_RUN --output DIR [--overlay]
    python -m jaxparse.predict TEST_IMAGES --weights FILE_OR_RUN --submission test_mask.zip

Threads read ahead and write behind.
"""

if __name__ == "__main__":
    from jaxparse.__main__ import start

    start("predict")

import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import tyro
from PIL import Image

from jaxparse import cli
from jaxparse.classes import CELEBAMASK, Classes
from jaxparse.data.folders import (
    IMAGE_SUFFIXES,
    find_images,
    find_tree,
    other_files,
    sub_folders,
)
from jaxparse.data.layouts import listed
from jaxparse.devices import use_compilation_cache
from jaxparse.files import read_ahead, require_writable_folder
from jaxparse.parsing.clips import require_clip_flags, write_frames, write_tracks
from jaxparse.parsing.outputs import (
    DESCRIPTION,
    Writer,
    all_written,
    files_of,
    make_tracks,
    make_writers,
    region_renders,
    require_free,
)
from jaxparse.parsing.overlay import OPACITY
from jaxparse.parsing.parser import NO_TEST_TIME, Parser, TestTime
from jaxparse.parsing.regions import PLAIN, Edge, parse_region, require_classes
from jaxparse.parsing.results import NoFaceError, Parsing, Picture
from jaxparse.parsing.video import SUFFIXES, Clip, is_clip
from jaxparse.scoring.submissions import Format, require_output, require_sizes, write_submission
from jaxparse.weights.find import load_network

TONE_MAPPING = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv420p"
)
NOT_FILLED = "the mask cannot be of a face that fills the picture"
FACES = "for whole photographs give --faces"
SHIPPED_LINE = "no --weights: the small network of jaxparse, for non-commercial use"


def predict_files(
    parser: Parser,
    stems: Mapping[Path, Path],
    writers: dict[str, Writer],
    num_workers: int,
) -> Iterator[ValueError | str]:
    """Writes the files of every picture; yields, per picture, its error or what is in doubt.

    Errors are yielded at once and may overtake pictures that are still in a batch.
    """
    faults: deque[ValueError] = deque()

    def good() -> Iterator[Picture]:
        for path, picture in read_ahead(parser.prepare, stems, num_workers):
            if isinstance(picture, ValueError):
                is_known = path.suffix.lower() in IMAGE_SUFFIXES
                clips = "" if is_known else f"; clips end in {', '.join(SUFFIXES)}"
                faults.append(ValueError(f"{picture}{clips}"))
            else:
                yield picture

    def write(parsing: Parsing) -> str:
        stem = stems[Path(parsing.source)]
        for ending, writer in writers.items():
            if ending == DESCRIPTION or not parsing.is_faceless:
                writer(stem.with_name(f"{stem.name}{ending}"), parsing)
        if parsing.is_faceless:
            raise NoFaceError(f"no face is found in {parsing.source}: it gets no mask")
        return parsing.doubt and f"{parsing.source}: {NOT_FILLED} ({parsing.doubt}); {FACES}"

    for _, fault in read_ahead(write, parser.parse(good()), num_workers):
        while faults:
            yield faults.popleft()
        yield fault
    yield from faults


def write_masks(
    parser: Parser, stems: Mapping[Path, Path], writers: dict[str, Writer], num_workers: int
) -> tuple[int, int]:
    """`predict_files` with a progress bar and a line for each picture without a mask, or in doubt.

    Returns how many could not be read, and in how many no face was found.
    """
    written = predict_files(parser, stems, writers, num_workers)
    bad = faceless = 0
    for fault in cli.track(written, len(stems), "predicting", first=cli.COMPILING):
        faceless += isinstance(fault, NoFaceError)
        bad += isinstance(fault, ValueError) and not isinstance(fault, NoFaceError)
        if fault:
            print(fault, file=sys.stderr)
    return bad, faceless


def write_clips(
    stems: Mapping[Path, Path], start: Callable[[Clip, Path], Iterator[Parsing]]
) -> tuple[int, int]:
    """Writes the files of every clip, frame by frame as `start` does.

    Returns how many could not be read, and in how many no face was found.
    """
    bad = faceless = 0
    for path, stem in stems.items():
        try:
            clip, begun = Clip(path), monotonic()
            parsings = cli.track(start(clip, stem), clip.expected, path.name, first=cli.COMPILING)
            frames = [(parsing.is_faceless, parsing.doubt) for parsing in parsings]
        except ValueError as error:
            faceless += isinstance(error, NoFaceError)
            bad += not isinstance(error, NoFaceError)
            print(error, file=sys.stderr)
            continue
        line = f"{path}: {cli.counted(len(frames), 'frame')} at {float(clip.rate):.2f} a second, "
        line += f"parsed {len(frames) / (monotonic() - begun):.1f}"
        without = sum(is_faceless for is_faceless, _ in frames)
        print(line + (f", no face found in {without}" if without else ""))
        for line in clip_lines(clip, [doubt for _, doubt in frames]):
            print(line, file=sys.stderr)
    return bad, faceless


def clip_lines(clip: Clip, doubts: Sequence[str]) -> Iterator[str]:
    """What a user should know of a clip; `doubts` are those of its frames."""
    doubtful = [doubt for doubt in doubts if doubt]
    if 2 * len(doubtful) > len(doubts):
        frames = cli.counted(len(doubtful), "frame")
        yield f"{clip.path}: in {frames} {NOT_FILLED} ({doubtful[0]}); {FACES}"
    if clip.is_hdr:
        words = "ffmpeg", "-i", str(clip.path), "-vf", TONE_MAPPING, f"{clip.path.stem}_sdr.mp4"
        yield f"{clip.path} is HDR, which networks see pale; convert it: {shlex.join(words)}"


def set_size_limit(megapixels: float) -> None:
    """Of the pictures that Pillow opens. Raises ValueError unless it is above 0."""
    if not 0 < megapixels < inf:
        raise ValueError(f"--size-limit is {megapixels}; give megapixels above 0")
    Image.MAX_IMAGE_PIXELS = int(megapixels * 1e6 / 2)  # Pillow refuses twice as many


def others_of(paths: Sequence[Path], output: Path, recursive: bool) -> list[Path]:
    """What the folders among `paths`, `recursive` or not, hold that is not taken."""
    if not recursive:
        return other_files(paths)
    folders = [each for path in paths if path.is_dir() for each in sub_folders(path, output)]
    return [path for path in other_files(folders) if not path.is_dir()]


def summary(output: Path, total: int, skipped: int, bad: int, faceless: int) -> str:
    """How many masks were written, and how many not."""
    line = f"{cli.counted(total - skipped - bad - faceless, 'mask')} in {output}"
    line += f", {skipped} were there" if skipped else ""
    line += f", {bad} of {total} skipped" if bad else ""
    return line + (f", no face found in {faceless} of {total}" if faceless else "")


def predict(
    input: tyro.conf.Positional[list[Path]],
    weights: str | None = None,
    output: Path | None = None,
    exp: str | None = None,
    overlay: bool = False,
    opacity: float = OPACITY,
    logits: bool = False,
    faces: bool = False,
    each_face: bool = False,
    classes: Classes | None = None,
    submission: Path | None = None,
    format: Format = "server",
    test_time: tyro.conf.OmitArgPrefixes[TestTime] = NO_TEST_TIME,
    region: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    edge: tyro.conf.OmitArgPrefixes[Edge] = PLAIN,
    cutout: bool = False,
    frames: bool = False,
    smooth: float = 0,
    recursive: bool = False,
    skip_existing: bool = False,
    size_limit: float | None = None,
    batch_size: int = 4,
    num_workers: int = 4,
) -> int:
    """Writes a mask STEM.png, with the classes as values, for every picture STEM.jpg.

    For a clip STEM.mp4 it is STEM.mov, without loss, at the clip's times.

    Args:
        input: Pictures, folders of pictures, and clips (.mp4, .mov, .mkv, ...); also as --input.
        weights: A weights file (.safetensors), the folder of a run (its best weights), or a
            repository of the Hugging Face hub (user/name); default: the network that comes with
            jaxparse.
        output: Folder to write to; not needed with --submission.
        exp: Experiment whose settings replace those stored with the weights.
        overlay: Also write STEM_overlay.png, the picture blended with its mask, with a legend.
        opacity: By how much the mask's colours hide the picture there, from 0 (contours alone) to
            1.
        logits: Also write STEM.npy, float32 [h, w, C] at the network's resolution, of its classes.
        faces: The pictures are whole photographs: find their faces, mask each, put the masks back,
            and write STEM.json with boxes, points and scores.
        each_face: As --faces, and write into a folder STEM_faces, for face I, its aligned crop
            I.jpg and the crop's mask I.png.
        classes: Table of the masks' classes, which the network's can become by merging; default:
            the network's.
        submission: Zip of the masks to write, and check, for a challenge's server.
        format: Layout of that zip. `server`: masks in one folder; `codabench`: in a folder masks.
        region: Also write STEM_NAME.png, the probability of one class or the sum of several, in
            8-bit grey: --region hair --region skin,nose=face gives STEM_hair.png, STEM_face.png.
        cutout: Also write STEM_NAME_cutout.png, the picture with the region as its alpha channel.
        frames: Of clips, write the files of every frame, and their times, to a folder STEM.
        smooth: Of clips, the share of the frames before in each frame's probabilities, from 0 to
            below 1: 0.5 steadies edges that flicker, and lets them lag by a frame.
        recursive: Also take pictures in sub-folders, which --output gets as well.
        skip_existing: Leave out pictures and clips whose files are all there.
        size_limit: Megapixels above which a picture is refused, since a small file can claim a size
            that no memory holds; default: Pillow's limit, 179.
        batch_size: Pictures per call of the network.
        num_workers: Threads that read pictures, and as many that write.

    Returns 1 if a picture could not be read, or no face was found in any of them, else 0.
    """
    faces = faces or each_face
    if logits and faces:
        raise ValueError("--logits are of the whole picture; leave out --logits or --faces")
    if submission and (faces or classes or recursive):
        raise ValueError(
            "--submission needs the classes celebamask of one folder of pictures that a face "
            "fills; leave out --classes, --recursive and --faces"
        )
    if smooth and faces:
        raise ValueError("--smooth is of frames that a face fills; leave out --smooth or --faces")
    if not (output or submission):
        raise ValueError("give --output FOLDER for the masks, or --submission FILE.zip")
    if size_limit is not None:
        set_size_limit(size_limit)
    regions = tuple(map(parse_region, region))
    if not 0 <= opacity <= 1 or (opacity != OPACITY and not overlay):
        raise ValueError(f"--opacity is {opacity}; give 0 to 1, beside --overlay")
    if not regions and (cutout or edge != PLAIN):
        raise ValueError("--hard, --grow, --feather and --cutout are of regions; give --region")
    places = find_tree(input, output) if recursive else dict.fromkeys(find_images(input), Path())
    if not places:
        raise ValueError("nothing is given; give pictures, folders of pictures, or clips")
    clips = [path for path in places if path in input and is_clip(path)]  # not those in folders
    flags = {"logits": logits, "each-face": each_face}
    require_clip_flags(clips, frames, smooth, submission, **flags)
    if output:
        require_writable_folder(output)
    if submission:
        require_output(submission, "--submission")
        require_sizes(list(places))
    renders = region_renders(regions, edge, cutout)
    visible = opacity if overlay else None
    writers = make_writers(visible, logits, renders, faces, each_face)
    tracks = make_tracks(visible, renders)
    with nullcontext(output) if output else TemporaryDirectory() as folder:
        stems = {path: Path(folder) / place / path.stem for path, place in places.items()}
        endings = [*tracks, DESCRIPTION] if faces else tracks
        files = files_of(stems, writers) | files_of({c: stems[c] for c in clips}, endings)
        if frames:
            files |= {clip: [stems[clip]] for clip in clips}
        require_free(files)
        left = [path for path in files if not (skip_existing and all_written(files[path]))]
        bad = faceless = 0
        if left:
            if weights is None:
                print(SHIPPED_LINE, file=sys.stderr)
            config, *arrays = load_network(weights, exp)
            batch_size = batch_size if clips else min(batch_size, len(left))
            config = replace(config, batch_size=batch_size, num_workers=num_workers)
            classes = CELEBAMASK if submission else classes
            parser = Parser(config, *arrays, test_time, classes, faces)
            require_classes(regions, parser.classes)
            pictures = {path: stems[path] for path in left if path not in clips}
            start = partial(
                write_frames if frames else write_tracks,
                parser,
                outputs=writers if frames else tracks,
                smooth=smooth,
                num_workers=num_workers,
            )
            if pictures:
                bad, faceless = write_masks(parser, pictures, writers, num_workers)
            of_clips = write_clips({path: stems[path] for path in left if path in clips}, start)
            bad, faceless = bad + of_clips[0], faceless + of_clips[1]
        if output:
            print(summary(output, len(files), len(files) - len(left), bad, faceless))
            if others := others_of(input, output, recursive):
                clipped = any(path.suffix.lower() in SUFFIXES for path in others)
                named = "; name clips one by one" if clipped else ""
                print(f"not taken for pictures: {len(others)} ({listed(others)}){named}")
        if submission:
            for warning in write_submission(Path(folder), list(places), submission, format):
                print("warning:", warning, file=sys.stderr)
            print(f"wrote {submission}: {cli.counted(len(places), 'mask')}, checked")
    return 1 if bad or faceless == len(files) else 0


def main() -> int:
    """Command line of `predict`."""
    use_compilation_cache()
    return cli.command(predict, "predict", {"--input": "", "--workdir": "--weights"})
