"""A matplotlib figure as an inline SVG that takes its text colour and typeface from the page around it."""

import html
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ka2l.common import atomic_files

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Replaced by currentColor in the SVG.
INK = "#010203"
# Mid-tones: legible on white and on near-black, and distinguishable with every kind of colour vision.
KNOWN = "#4f8fb8"
UNKNOWN = "#d9692b"

# In px of the viewBox, as the font sizes below.
WIDTH, HEIGHT = 420.0, 265.0

_RC = {
    # Text stays text: small, searchable, in the page's typeface.
    "svg.fonttype": "none",
    # The same figure gives the same bytes.
    "svg.hashsalt": "ka2l",
    "text.parse_math": False,
    "font.size": 11.5,
    "axes.labelsize": 11.5,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.8,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "patch.linewidth": 0.0,
}


def drawn(name: str, label: str, paint: "Callable[[Figure], None]", height: float = HEIGHT) -> str:
    """Paint a figure and return it as SVG.

    Args:
        name: prefix of every id, unique on the page.
        label: what the figure shows, for screen readers.
        paint: draws on the empty figure.
        height: in px, at a width of 420 px.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    _painted(paint, height, buffer, format="svg", transparent=True, metadata=nothing)
    return inline(buffer.getvalue(), name, label)


def save(path: Path, paint: "Callable[[Figure], None]", height: float = HEIGHT) -> None:
    """Paint a figure into a file, black on white: an .svg, or a .png of twice the resolution."""
    kind = path.suffix.lower().removeprefix(".")
    nothing = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with atomic_files.atomic(path) as temporary:
        _painted(paint, height, temporary, format=kind, facecolor="white", metadata=nothing, dpi=144)


def _painted(paint: "Callable[[Figure], None]", height: float, target: Any, **how: Any) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")}
    # The defaults, so that the user's matplotlibrc has no effect.
    settings: Any = {**defaults, **_RC}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        figure.savefig(target, **how)


def inline(document: str, name: str, label: str) -> str:
    """Turn an SVG document into an element of an HTML page: no prolog, ids with a prefix, the page's colour and
    font.
    """
    body = document[document.index("<svg") :]
    tag, body = body.split(">", 1)
    tag = re.sub(r'\s(?:width|height)="[^"]*"', "", tag)
    for noise in (r"<metadata>.*?</metadata>", r"<!--.*?-->", r"<defs>\s*<style.*?</style>\s*</defs>"):
        body = re.sub(noise, "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r'\sid="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="|url\()#', rf"\g<1>#{name}-", body)
    body = re.sub(r"font: (?:(\d+) )?([\d.]+px)[^;\"]*", _font, body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"\n\s*", "\n", body.replace(INK, "currentColor"))
    return f'{tag} role="img" aria-label="{html.escape(label)}">{body.rstrip()}'


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}"
