"""Colours of classes that have none of their own: PASCAL VOC's of their index.

labelme, CVAT, mmsegmentation and Pillow's examples show class i of any table in colour i of that
palette (Everingham et al. 2010, "The PASCAL Visual Object Classes Challenge"), so that such masks
mean the same by colour and by index.
"""

from collections.abc import Iterator
from colorsys import hsv_to_rgb
from itertools import count

Colour = tuple[int, int, int]  # RGB, 0..255
WHITE = (255, 255, 255)  # the colour of ignored pixels


def _pascal(index: int) -> Colour:
    """The bits of the index, dealt out from the highest down."""
    bits = [[index >> (3 * place + channel) & 1 for place in range(3)] for channel in range(3)]
    red, green, blue = (sum(bit << (7 - place) for place, bit in enumerate(row)) for row in bits)
    return red, green, blue


PASCAL = tuple(map(_pascal, range(256)))


def further_colours() -> Iterator[Colour]:
    """Colours without end, none white and none PASCAL's: a hue each, the golden section apart."""
    for number in count():
        share = hsv_to_rgb(number * 0.618034 % 1, 0.4 + number % 7 / 12, 0.5 + number % 5 / 10)
        red, green, blue = (round(250 * each) for each in share)
        if (red, green, blue) not in PASCAL:
            yield red, green, blue
