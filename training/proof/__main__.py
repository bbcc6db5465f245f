"""`python -m training.proof`, from the repository's root: bring docs/proof.md up to date with runs and evaluations."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cogapp import Cog

from . import runs
from .findings import FOLDER
from .updates import EVALUATION, plot_updates

PAGE = Path("docs/proof.md")
PICTURES = Path("docs/media/proof")
DRAWN_BY_EVALUATIONS = {
    "main/stability.png": "stability.png",
    "main/drift.png": "drift.png",
    "main/truth.png": "truth.png",
    "main/sheet_000.png": "films_bouncing.png",
    "main/sheet_002.png": "films_gliding.png",
    "again/stability.png": "again_stability.png",
    "again/sheet_000.png": "again_films.png",
}
"""Pictures of evaluations, and their names on the page."""


def main() -> int:
    """Note the runs, draw what was evaluated, and fill in the tables; exit status as cog's."""
    runs.write()
    PICTURES.mkdir(parents=True, exist_ok=True)
    for drawn, shown in DRAWN_BY_EVALUATIONS.items():
        picture = runs.RUNS / f"evaluation_{drawn}"
        if picture.is_file():
            shutil.copyfile(picture, PICTURES / shown)
    if (FOLDER / f"{EVALUATION}.json").is_file():
        plot_updates(PICTURES / "updates.png")
    return Cog().main(["cog", "-r", "-P", "-I", ".", str(PAGE)])


if __name__ == "__main__":
    sys.exit(main())
