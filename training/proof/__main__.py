"""`python -m training.proof`, from the repository's root: bring docs/proof.md up to date with runs and evaluations."""

from __future__ import annotations

import sys
from pathlib import Path

from cogapp import Cog

from . import runs
from .updates import plot_updates

PAGE = Path("docs/proof.md")
PICTURES = Path("docs/media/proof")


def main() -> int:
    """Note the runs, draw, and fill in the tables; exit status as cog's."""
    runs.write()
    PICTURES.mkdir(parents=True, exist_ok=True)
    plot_updates(PICTURES / "updates.png")
    return Cog().main(["cog", "-r", "-P", "-I", ".", str(PAGE)])


if __name__ == "__main__":
    sys.exit(main())
