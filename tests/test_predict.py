import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxparse import cli, predict
from jaxparse.classes import PALETTE
from jaxparse.data.drawn.picture import draw_face
from jaxparse.data.images import read_label, write_image
from jaxparse.parsing import parser
from jaxparse.parsing.overlay import blend
from jaxparse.scoring.submissions import check_submission
from tests.conftest import Nano
from tests.refusal import refuses


@pytest.fixture
def command(nano: Nano, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line; all runs share one compiled network."""
    monkeypatch.setattr(parser, "make_logits_step", lambda config: lambda p, b, x: nano.network(x))

    def run(*flags: object) -> int:
        flags = ("--exp", nano.experiment, "--weights", nano.weights, *flags)
        monkeypatch.setattr(sys, "argv", ["predict", *map(str, flags)])
        with pytest.raises(SystemExit) as caught:
            cli.run(predict.main)
        return caught.value.code

    return run


def draw(path: Path, index: int, size: tuple[int, int]) -> Path:
    """Writes a drawn face stretched to (height, width)."""
    face = Image.fromarray(draw_face(0, index, 64)[0]).resize(size[::-1])
    write_image(path, np.asarray(face))
    return path


def resized(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w, C] -> [*size, C] pixel by pixel, in float64: torch's align_corners=False."""
    result = np.empty((*size, logits.shape[2]))

    def neighbours(i: int, in_size: int, out_size: int) -> tuple[int, int, float]:
        centre = min(max((i + 0.5) * in_size / out_size - 0.5, 0), in_size - 1)
        low = int(centre)
        return low, min(low + 1, in_size - 1), centre - low

    for y in range(size[0]):
        top, bottom, down = neighbours(y, logits.shape[0], size[0])
        line = (1 - down) * logits[top].astype(float) + down * logits[bottom]
        for x in range(size[1]):
            left, right, across = neighbours(x, logits.shape[1], size[1])
            result[y, x] = (1 - across) * line[left] + across * line[right]
    return result


def require_highest(label: np.ndarray, logits: np.ndarray) -> None:
    """Every pixel has the class of the highest logit [H, W, C], but for rounding."""
    chosen = np.take_along_axis(logits, label[..., None].astype(int), 2)[..., 0]
    assert (logits.max(2) - chosen).max() <= 1e-5 * np.abs(logits).max()
    assert (label == logits.argmax(2)).mean() > 0.999


def test_masks_and_logits_of_all_kinds_of_pictures(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"odd": (37, 91), "wide": (40, 300), "face": (64, 64), "tall": (120, 50), "dot": (1, 1)}
    photos, output = tmp_path / "photos", tmp_path / "masks"
    for index, (name, size) in enumerate(sizes.items()):
        draw(photos / f"{name}.png", index, size)
    turned = Image.open(draw(tmp_path / "upright.png", 9, (80, 60)))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90°: stored lying, seen upright
    turned.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    sizes |= {"upright": (80, 60), "turned": (80, 60)}
    inputs = (photos, tmp_path / "upright.png", tmp_path / "turned.png")
    assert command("--input", *inputs, "--output", output, "--logits") == 0
    assert f"7 masks in {output}" in capsys.readouterr().out
    seen = set()
    for name, size in sizes.items():
        mask, logits = Image.open(output / f"{name}.png"), np.load(output / f"{name}.npy")
        label = np.asarray(mask)
        assert mask.mode == "P" and label.shape == size
        assert logits.shape == (16, 16, 19) and logits.dtype == np.float32
        require_highest(label, resized(logits, size))
        seen |= set(np.unique(label).tolist())
    assert len(seen) >= 4  # the noise is not one class everywhere
    assert len(list(output.iterdir())) == 2 * len(sizes)
    np.testing.assert_array_equal(*(Image.open(output / f"{n}.png") for n in ("upright", "turned")))


def test_a_picture_has_the_same_mask_alone_and_in_a_batch(
    command: Callable[..., int], nano: Nano, tmp_path: Path
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (64, 64)) for i in range(5)]
    assert command("--input", *paths, "--output", tmp_path / "out", "--logits") == 0
    for path in paths:
        image = np.asarray(Image.open(path))
        alone = nano.network(np.stack([image] * 4))[0]
        np.testing.assert_allclose(np.load(tmp_path / "out" / f"{path.stem}.npy"), alone, atol=1e-4)


def test_bad_files_are_reported_and_skipped(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    for index in range(5):
        draw(folder / f"{index}.png", index, (64, 64))
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:2000])
    (folder / "6.jpg").write_text("no picture")
    assert command("--input", folder, "--output", output) == 1
    assert sorted(path.name for path in output.iterdir()) == ["0.png", "2.png", "3.png", "4.png"]
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if "cannot read image" in line]
    assert len(lines) == 2
    assert str(folder / "1.png") in lines[0] and str(folder / "6.jpg") in lines[1]
    assert printed.out.strip() == f"4 masks in {output}, 2 of 6 pictures skipped"


def test_overlay_is_written_beside_the_mask(command: Callable[..., int], tmp_path: Path) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (50, 70)) for i in range(4)]
    assert command("--input", tmp_path / "in", "--output", tmp_path / "out", "--overlay") == 0
    for path in paths:
        mask = np.asarray(Image.open(tmp_path / "out" / path.name))
        overlay = np.asarray(Image.open(tmp_path / "out" / f"{path.stem}_overlay.png"))
        np.testing.assert_array_equal(overlay[:50, :70], blend(np.asarray(Image.open(path)), mask))
        assert overlay.shape[1] > 70


def test_equal_stems_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.png"]
    with refuses(paths[0], paths[1], "x.png"):
        predict.require_free(paths, tmp_path / "out", [".png"])


def test_the_overlay_of_one_and_the_mask_of_another_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "x.jpg", tmp_path / "x_overlay.jpg"]
    predict.require_free(paths, tmp_path / "out", [".png"])
    with refuses("x_overlay.png"):
        predict.require_free(paths, tmp_path / "out", [".png", "_overlay.png"])


def test_the_folder_of_an_input_is_no_output(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = draw(tmp_path / "in" / "face.png", 0, (8, 8))
    before = path.read_bytes()
    linked = tmp_path / "links" / "face.png"
    linked.parent.mkdir()
    linked.symlink_to(path)
    for source in (path, path.parent, linked):
        assert command("--input", source, "--output", tmp_path / "x" / ".." / "in") == 1
        assert "is the folder of the input" in capsys.readouterr().err
    assert path.read_bytes() == before
    predict.require_free([path], path.parent / "masks", [".png"])  # a folder in it is none


def test_files_given_twice_are_predicted_once(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (8, 8)) for i in range(4)]
    assert command("--input", paths[1], tmp_path / "in", "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("4 masks in ")


def test_no_input_is_one_line(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nothing"
    assert command("--input", missing, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: there is no {missing}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--input"], "--input"),
        (["--batch-size", 0], "batch_size is 0; it must be at least 1"),
        (["--num-workers", 0], "num_workers is 0; it must be at least 1"),
        (["--window", 64, "--logits"], "--window"),
        (["--submission", "x.zip", "--label-order", "facer"], "a submission numbers the classes"),
        (["--workdir", "runs/x"], "there is no file or run runs/x"),
    ],
)
def test_bad_flags_are_one_line(
    command: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list,
    words: str,
) -> None:
    path = draw(tmp_path / "in" / "face.png", 0, (8, 8))
    assert command("--input", path, "--output", tmp_path / "out", *flags) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_flip_and_label_order_reach_the_masks(
    command: Callable[..., int], nano: Nano, tmp_path: Path
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (50, 70)) for i in range(4)]
    flags = ("--input", tmp_path / "in", "--flip", "--label-order", "zllrunning")
    assert command(*flags, "--output", tmp_path / "out") == 0
    arrays = nano.params, nano.batch_stats
    flipping = parser.Parser(nano.config, *arrays, parser.TestTime(flip=True))
    for path, result in zip(paths, flipping(paths), strict=True):
        written = read_label(tmp_path / "out" / path.name, "zllrunning")
        np.testing.assert_array_equal(written, result.mask)
    indices = np.asarray(Image.open(tmp_path / "out" / path.name))
    assert (indices != result.mask).any()
    colours = np.asarray(Image.open(tmp_path / "out" / path.name).convert("RGB"))
    np.testing.assert_array_equal(colours, PALETTE[result.mask])  # whatever the order


def test_submission_is_written_and_checked(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [draw(tmp_path / "in" / f"{i}.png", i, (512, 512)) for i in range(4)]
    zipped = tmp_path / "out" / "test_mask.zip"
    assert command("--input", tmp_path / "in", "--submission", zipped) == 0
    assert capsys.readouterr().out == f"wrote {zipped}: 4 masks, checked\n"
    assert check_submission(zipped, paths, "server") == []
    flags = ("--output", tmp_path / "masks", "--submission", zipped, "--format", "codabench")
    assert command("--input", tmp_path / "in", *flags) == 0
    assert check_submission(zipped, paths, "codabench") == []
    content = zipped.read_bytes()
    draw(paths[2], 2, (64, 64))
    assert command("--input", tmp_path / "in", "--submission", zipped) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {zipped} is not written")
    assert "test_mask/2.png: is 64x64, expected 512x512" in error
    assert zipped.read_bytes() == content  # the one before is kept
