"""Pictures of masks: coloured, blended with the photograph, with a legend, in a grid."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from jaxparse.classes import IGNORE_LABEL, Classes

WHITE = 255
OPACITY = 0.4  # of the colours on a picture
CONTOUR = 400  # the shorter side of a picture whose contours are a pixel wide
ERROR = (255, 64, 160)  # a pink that no class has and that stands out from dark grey
LEGEND_LINES = 20  # that fit beside the picture: room for all classes of celebamask
MIN_LINE = 18  # pixels; smaller text cannot be read


def palette(classes: Classes) -> np.ndarray:
    """The colour of every value of a mask, uint8 [256, 3]; white for 255, the ignored pixels."""
    colours = np.full((IGNORE_LABEL + 1, 3), WHITE, np.uint8)
    colours[: len(classes)] = classes.palette
    return colours


def colourise(label: np.ndarray, classes: Classes) -> np.ndarray:
    """A mask uint8 [H, W] -> its colours, uint8 [H, W, 3]; ignored pixels are white."""
    return palette(classes)[label]


def painted(classes: Classes) -> np.ndarray:
    """Which values of a mask are painted on a picture, bool [256]: all but the background."""
    values = np.ones(IGNORE_LABEL + 1, bool)
    values[classes.background] = classes.background == IGNORE_LABEL
    return values


def blend(
    image: np.ndarray,
    label: np.ndarray,
    classes: Classes,
    opacity: float = OPACITY,
    shown: np.ndarray | None = None,
) -> np.ndarray:
    """The picture uint8 [H, W, 3] under the colours of its mask [H, W], and white contours.

    The colours hide the picture by `opacity`, 0..1. Where the mask's value is not `shown`, bool
    [256], by default where it is background, the picture stays as it is.
    """
    shown = painted(classes) if shown is None else shown
    picture, colours = Image.fromarray(image), Image.fromarray(label)
    where = colours.point((WHITE * shown).tolist())
    colours.putpalette(palette(classes).tobytes())
    picture.paste(Image.blend(picture, colours.convert("RGB"), opacity), mask=where)
    blended = np.array(picture)
    blended[_contours(label, shown[label])] = WHITE
    return blended


def _contours(label: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Where lines between classes are, bool [H, W]: on shown pixels, so that none is hidden."""
    width = max(1, round(min(label.shape) / CONTOUR))
    lines = np.zeros(label.shape, bool)
    for axis in (0, 1):
        first, second = (slice(None, -width), slice(width, None))
        if axis:
            first, second = (slice(None), first), (slice(None), second)
        differ = label[first] != label[second]
        lines[first] |= differ
        lines[second] |= differ & ~shown[first]
    return lines & shown


def mark_errors(image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The picture uint8 [H, W, 3] in dark grey, pixels that differ from the label in `ERROR`.

    Pixels with label 255 are never marked.
    """
    marked = np.repeat(image.mean(-1, keepdims=True) / 2, 3, axis=-1).astype(np.uint8)
    marked[(prediction != label) & (label != IGNORE_LABEL)] = ERROR
    return marked


def legend(indices: Iterable[int], height: int, classes: Classes) -> np.ndarray:
    """A white strip, uint8 [≥ height, W, 3]: per class its colour, index and name.

    The text grows with `height`; where it is too small for readable lines, the strip is taller.
    """
    indices = list(indices)
    line = max(MIN_LINE, height // LEGEND_LINES)
    font = ImageFont.load_default(0.7 * line)
    texts = [f"{index} {classes.names[index]}" for index in indices]
    width = 2 * line + int(max(map(font.getlength, texts), default=0))
    strip = Image.new("RGB", (width, max(height, line * len(indices))), "white")
    draw = ImageDraw.Draw(strip)
    for row, (index, text) in enumerate(zip(indices, texts, strict=True)):
        top, gap = row * line, line // 6
        swatch = (gap, top + gap, line - gap, top + line - gap)
        draw.rectangle(swatch, fill=classes.colours[index], outline="black")
        draw.text((line + gap, top + line / 2), text, fill="black", font=font, anchor="lm")
    return np.asarray(strip)


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Two pictures side by side, tops aligned, white below the shorter: uint8 [H, W1 + W2, 3]."""
    height = max(len(left), len(right))
    padded = [
        np.pad(x, ((0, height - len(x)), (0, 0), (0, 0)), constant_values=WHITE)
        for x in (left, right)
    ]
    return np.concatenate(padded, axis=1)


def overlay(
    image: np.ndarray, label: np.ndarray, classes: Classes, opacity: float = OPACITY
) -> np.ndarray:
    """Picture uint8 [H, W, 3] blended with its mask [H, W], and a legend on its right.

    The legend lists the classes that occur and are painted. The picture keeps its size, top left.
    """
    listed = [index for index in occurring([label]) if painted(classes)[index]]
    return beside(blend(image, label, classes, opacity), legend(listed, len(image), classes))


def occurring(labels: Iterable[np.ndarray]) -> list[int]:
    """The classes with at least one pixel in any of the masks, ascending, without 255."""
    counts = sum(np.bincount(label.ravel(), minlength=IGNORE_LABEL + 1) for label in labels)
    return np.flatnonzero(counts[:IGNORE_LABEL]).tolist()


def contact_sheet(
    columns: Mapping[str, Sequence[np.ndarray]], side: int, classes: Classes
) -> np.ndarray:
    """A grid with column titles: uint8 pictures [H, W, 3] and masks [H, W], one row per picture.

    `columns`: title -> pictures or masks, equally many in each. All are fitted into squares of
    `side` pixels, masks coloured. On the right is a legend of the classes in the masks.
    """
    titles = [title_line(title, side) for title in columns]
    rows = [np.concatenate(titles, axis=1)]
    for cells in zip(*columns.values(), strict=True):
        rows.append(np.concatenate([fit(cell, side, classes) for cell in cells], axis=1))
    grid = np.concatenate(rows)
    masks = [cell for column in columns.values() for cell in column if cell.ndim == 2]
    return beside(grid, legend(occurring(masks), side, classes)) if masks else grid


def title_line(text: str, width: int) -> np.ndarray:
    """White, uint8 [MIN_LINE, width, 3], with the text in the middle."""
    strip = Image.new("RGB", (width, MIN_LINE), "white")
    font = ImageFont.load_default(0.7 * MIN_LINE)
    ImageDraw.Draw(strip).text((width / 2, MIN_LINE / 2), text, "black", font, anchor="mm")
    return np.asarray(strip)


def fit(cell: np.ndarray, side: int, classes: Classes) -> np.ndarray:
    """The picture or coloured mask, resized into uint8 [side, side, 3] and padded with white."""
    is_mask = cell.ndim == 2
    picture = Image.fromarray(colourise(cell, classes) if is_mask else cell)
    method = Image.Resampling.NEAREST if is_mask else Image.Resampling.BILINEAR
    return np.asarray(ImageOps.pad(picture, (side, side), method, color="white"))
