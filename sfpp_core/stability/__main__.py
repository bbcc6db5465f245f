"""`python -m sfpp_core.stability VIDEO_OR_FOLDER...`; see its --help, or docs/stability.md."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
