"""`python -m training.proof`, from the repository's root: bring docs/proof.md up to date with runs and evaluations."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cogapp import Cog

from . import runs
from .updates import plot_updates

PAGE = Path("docs/proof.md")
PICTURES = Path("docs/media/proof")
DRAWN_BY_THE_EVALUATION = {
    "stability.png": "stability.png",
    "drift.png": "drift.png",
    "truth.png": "truth.png",
    "sheet_000.png": "films_bouncing.png",
    "sheet_002.png": "films_gliding.png",
}
"""Pictures of the evaluation `main`, by their names on the page."""


def main() -> int:
    """Note the runs, draw, and fill in the tables; exit status as cog's."""
    runs.write()
    PICTURES.mkdir(parents=True, exist_ok=True)
    for drawn, shown in DRAWN_BY_THE_EVALUATION.items():
        picture = runs.RUNS / "evaluation_main" / drawn
        if picture.is_file():
            shutil.copyfile(picture, PICTURES / shown)
    plot_updates(PICTURES / "updates.png")
    return Cog().main(["cog", "-r", "-P", "-I", ".", str(PAGE)])


if __name__ == "__main__":
    sys.exit(main())
