"""Convert Matplotlib figures to inline SVG with alternative text and two colour schemes.

The page's security policy forbids style attributes, so they are converted to presentation
attributes. Unreferenced ids are removed, because ids must be unique on a page.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from bench.figures.style import plot_style
from bench.render import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PX_PER_POINT = 1.45
INK = "#010203"  # replaced by the text colour of the page
LOOK: dict[str, Any] = {
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **{
        f"{name}color": INK
        for name in ("text.", "axes.edge", "axes.label", "axes.title", "xtick.", "ytick.")
    },
}
FONT = re.compile(r"^(?:(?P<weight>bold|\d+) )?(?P<size>[\d.]+px) (?P<family>.+)$")


def look() -> AbstractContextManager[None]:
    """Return a context in which Matplotlib uses the style of the report."""
    return plot_style(LOOK)


def inline(figure: Figure, title: str, description: str) -> Markup:
    """Convert a figure drawn under `look` to an SVG element."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return element(buffer.getvalue(), title, description)


def element(picture: bytes, title: str, description: str) -> Markup:
    """Convert an SVG file written by Matplotlib to an SVG element with alternative text."""
    text = printable(picture.decode())
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box is not None
    width = round(PX_PER_POINT * float(box[1].split()[2]))
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r' style="([^"]*)"', _attributes, body).replace(INK, "currentColor")
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r"\n\s*", "\n", body).strip()
    alt = f"<title>{escape(printable(title))}</title><desc>{escape(printable(description))}</desc>"
    top = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}" width="{width}"'
    return Markup(f'{top} role="img">{alt}\n{body}')


def _attributes(match: re.Match[str]) -> str:
    attributes: dict[str, str] = {}
    for declaration in match[1].split(";"):
        name, _, value = (text.strip() for text in declaration.partition(":"))
        if name == "font":
            attributes |= _font(value)
        elif name:
            attributes[name] = value
    return "".join(f' {name}="{value}"' for name, value in attributes.items())


def _font(value: str) -> dict[str, str]:
    match = FONT.match(value)
    if match is None:
        return {}
    weight = {"font-weight": match["weight"]} if match["weight"] else {}
    return {"font-size": match["size"], **weight}
