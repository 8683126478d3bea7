"""A page of HTML in one file: elements that escape their text, embedded pictures."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

from matplotlib.figure import Figure
from PIL import Image

VOID = ("img", "meta")  # elements without an end tag

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d5dae1;
  --page: #ffffff; --card: #f5f7f9; --bar: #c9dff2; --good: #0a7a45; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b4; --line: #39424f;
  --page: #14181e; --card: #1d232b; --bar: #24445f; --good: #5fd39b; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui,
  sans-serif; }
main { max-width: 72rem; margin: auto; padding: 0 1rem 4rem; }
nav { position: sticky; top: 0; z-index: 2; background: var(--page);
  border-bottom: 1px solid var(--line); }
nav div { max-width: 72rem; margin: auto; padding: 0 1rem; height: 2.6rem; display: flex;
  gap: 1.2rem; align-items: center; overflow-x: auto; white-space: nowrap; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover, nav a:focus { color: var(--ink); text-decoration: underline; }
h1 { margin: 1.6rem 0 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 2.8rem 0 .6rem; font-size: 1.25rem; scroll-margin-top: 3rem; }
h3 { margin: 1.6rem 0 .3rem; font-size: 1rem; overflow-wrap: anywhere; }
p { margin: .3rem 0 .8rem; max-width: 60rem; }
.soft, figcaption, caption { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .7rem; }
.figures div { background: var(--card); border-radius: .5rem; padding: .6rem .8rem; }
.figures b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; max-width: 52rem; }
th, td { padding: .18rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; padding-left: .2rem; }
thead th { position: sticky; top: 2.65rem; background: var(--page); }
tbody th { font-weight: 400; }
tfoot td, tfoot th { font-weight: 600; border-bottom: 0; }
td.bar { background: linear-gradient(var(--bar), var(--bar)) left / var(--share) 70% no-repeat; }
.good { color: var(--good); } .bad { color: var(--bad); }
dl { columns: 19rem; column-gap: 2rem; margin: .4rem 0; }
dl div { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid;
  border-bottom: 1px solid var(--line); padding: .1rem 0; }
dt { color: var(--soft); } dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.changed dd { font-weight: 600; }
.chart { width: 100%; max-width: 62rem; background: #fff; border-radius: .5rem; }
.row { display: grid; grid-template-columns: repeat(4, minmax(0, 240px)); gap: .6rem; }
.row figure { margin: 0; }
.row img { display: block; max-width: 100%; height: auto; border-radius: .25rem; }
figcaption { font-size: .85rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .6rem 0; }
.swatch { display: inline-block; width: .85em; height: .85em; margin-right: .4em;
  border: 1px solid var(--soft); vertical-align: -.08em; }
tbody th, .legend span { white-space: nowrap; }
@media (max-width: 40rem) { table { display: block; overflow-x: auto; }
  caption { max-width: calc(100vw - 3rem); } thead th { position: static; }
  h1, p { overflow-wrap: anywhere; }
  .row { grid-template-columns: repeat(2, minmax(0, 240px)); }
  th, td { padding: .18rem .35rem; font-size: .85rem; } }
"""


class Html(str):
    """Markup, like markupsafe.Markup: what is not Html is text and gets escaped."""


def element(tag: str, /, *content: str, **attributes: str) -> Html:
    """<tag attributes>content</tag>; `class_` is the attribute class."""
    given = "".join(f' {key.rstrip("_")}="{escape(v)}"' for key, v in attributes.items())
    inner = join(content)
    return Html(f"<{tag}{given}>" if tag in VOID else f"<{tag}{given}>{inner}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """The parts one after another; plain strings are escaped."""
    return Html("".join(p if isinstance(p, Html) else escape(p) for p in parts))


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], foot: Sequence[str] = ()
) -> Html:
    """The first of each row is its heading; the others are text, or Html with its own <td>."""

    def line(cells: Sequence[str]) -> Html:
        first, *others = cells
        cells = (cell if isinstance(cell, Html) else element("td", cell) for cell in others)
        return element("tr", element("th", first, scope="row"), *cells)

    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *(element("th", title, scope="col") for title in head))),
        element("tbody", *map(line, rows)),
        element("tfoot", line(foot)) if foot else "",
    )


def chart(figure: Figure, alt: str) -> Html:
    """The figure as SVG."""
    file = BytesIO()
    figure.savefig(file, format="svg")
    return element("img", src=_data_uri("svg+xml", file.getvalue()), alt=alt, class_="chart")


def picture(image: Image.Image, alt: str, lossless: bool) -> Html:
    """The picture as PNG if `lossless` (best for few colours), else as JPEG."""
    file = BytesIO()
    kind = "png" if lossless else "jpeg"
    image.save(file, kind, optimize=True, quality=85)
    size = {"width": str(image.width), "height": str(image.height)}
    return element("img", src=_data_uri(kind, file.getvalue()), alt=alt, **size)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def page(title: str, sections: dict[str, Html], top: Html) -> str:
    """The whole page: `top`, then each section under its heading, with links to the headings."""
    links = [element("a", heading, href=f"#{number}") for number, heading in enumerate(sections, 1)]
    parts = [
        element("section", element("h2", heading, id=str(number)), content)
        for number, (heading, content) in enumerate(sections.items(), 1)
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    body = element(
        "body",
        element("nav", element("div", *links)),
        element("main", element("h1", title), top, *parts),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"
