"""`python -m sfpp_core.stability VIDEO_OR_FOLDER...`; see its --help, or docs/stability.md."""

import signal
import sys

from .batch.cli import main

if __name__ == "__main__":
    # A shell starts its background jobs deaf to interrupts; this one wants to be stopped there too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
