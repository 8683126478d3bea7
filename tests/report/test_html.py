import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from jaxparse.report.html import Html, element, join, picture, table


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "1 < 2")
    assert inner == "<b>1 &lt; 2</b>"
    assert element("p", "a & ", inner, class_='"x"') == (
        '<p class="&quot;x&quot;">a &amp; <b>1 &lt; 2</b></p>'
    )
    assert element("img", src="y") == '<img src="y">'
    assert join(["<", Html("<br>")]) == "&lt;<br>"


def test_cells_of_a_table_are_text_or_whole_cells() -> None:
    own = element("td", "2", class_="good")
    made = table("sizes", ["name", "size"], [["<a>", "1"], ["<td b", own]], ["all", "<td 3"])
    assert re.findall("<th scope=.row.>(.*?)</th>(<td.*?)</tr>", made) == [
        ("&lt;a&gt;", "<td>1</td>"),
        ("&lt;td b", '<td class="good">2</td>'),
        ("all", "<td>&lt;td 3</td>"),
    ]


@pytest.mark.parametrize("lossless", [True, False])
def test_pictures_are_embedded(lossless: bool) -> None:
    pixels = np.full((4, 6, 3), (200, 10, 90), np.uint8)
    html = picture(Image.fromarray(pixels), "a face", lossless)
    kind, content = re.search('src="data:image/(.*?);base64,(.*?)"', html).groups()
    shown = Image.open(BytesIO(b64decode(content)))
    assert kind == shown.format.lower() == ("png" if lossless else "jpeg")
    assert 'alt="a face"' in html and 'width="6" height="4"' in html
    if lossless:
        np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), pixels)
