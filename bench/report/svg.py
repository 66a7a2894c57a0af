"""Matplotlib's figures as inline SVG: strict security policies, both colour schemes, alt texts.

The page's policy allows no style attributes, so they become presentation attributes; ids, which
would meet again on a page, stay only where something refers to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PX_PER_POINT = 1.45
INK = "#010203"  # becomes the colour of the page's text
LOOK: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # the metrics of what comes with matplotlib: the same everywhere
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "text.parse_math": False,  # a name may hold a $
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **{
        f"{name}color": INK
        for name in ("text.", "axes.edge", "axes.label", "axes.title", "xtick.", "ytick.")
    },
}
FONT = re.compile(r"^(?:(?P<weight>bold|\d+) )?(?P<size>[\d.]+px) (?P<family>.+)$")


@contextmanager
def look() -> Iterator[None]:
    """Let matplotlib draw for a page."""
    import matplotlib.style
    import seaborn as sns

    own = {**sns.plotting_context("paper"), **sns.axes_style("ticks"), **LOOK}
    with matplotlib.style.context(["default", own]):
        yield


def inline(figure: Figure, title: str, description: str) -> Markup:
    """Give a figure, drawn under `look`, as an element of a page."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return element(buffer.getvalue(), title, description)


def element(picture: bytes, title: str, description: str) -> Markup:
    """Turn an SVG file of matplotlib's into an element of a page, with an alternative text."""
    text = picture.decode()
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    assert box is not None
    width = round(PX_PER_POINT * float(box[1].split()[2]))
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r' style="([^"]*)"', _attributes, body).replace(INK, "currentColor")
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r"\n\s*", "\n", body).strip()
    alt = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    top = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}" width="{width}"'
    return Markup(f'{top} role="img">{alt}\n{body}')


def _attributes(match: re.Match[str]) -> str:
    pairs = [each.partition(":") for each in match[1].split(";") if each.strip()]
    found: dict[str, str] = {}
    for name, _, value in pairs:
        found |= _font(value.strip()) if name.strip() == "font" else {name.strip(): value.strip()}
    return "".join(f' {name}="{value}"' for name, value in found.items())


def _font(value: str) -> dict[str, str]:
    match = FONT.match(value)
    if match is None:
        return {}
    weight = {"font-weight": match["weight"]} if match["weight"] else {}
    return {"font-size": match["size"], **weight}
