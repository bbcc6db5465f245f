"""What the parts of a plot share: colours, type, and the size of a text before there is a picture."""

from __future__ import annotations

from typing import Any, Final

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

DPI: Final = 100

# Okabe and Ito's colours, which all kinds of colour vision tell apart; purple is theirs, dark enough for white type.
BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#8a3f6c"
INK: Final = "#1b1f24"
GREY: Final = "#66707a"
LIGHT: Final = "#d9dee3"

TITLE_POINTS: Final = 13.0
HEADING_POINTS: Final = 9.5
BODY_POINTS: Final = 8.5

_POINTS_PER_INCH: Final = 72


def font(points: float, *, bold: bool = False) -> FontProperties:
    """Matplotlib's own typeface, whatever another program made the default."""
    return FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=points)


def type_of(points: float, *, bold: bool = False, color: str = INK) -> dict[str, Any]:
    """Keywords for a text. Dollar signs are dollar signs: names of files and words of judges are no formulas."""
    return {"fontproperties": font(points, bold=bold), "color": color, "parse_math": False}


def text_width(text: str, points: float, *, bold: bool = False) -> float:
    """Width of a line of text in pixels."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, font(points, bold=bold), ismath=False)
    return width * DPI / _POINTS_PER_INCH


def shortened(text: str, max_px: float, points: float, *, bold: bool = False) -> str:
    """`text`, or its beginning and end with an ellipsis between them, so that it fits into a width."""
    keep = len(text)
    short = text
    while keep > 2 and text_width(short, points, bold=bold) > max_px:
        keep -= 1
        short = f"{text[: (keep + 1) // 2]}\u2026{text[len(text) - keep // 2 :]}"
    return short
