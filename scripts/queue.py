"""The name under which `python -m sfpp_client.queue` was documented first; it stays."""

from __future__ import annotations

import sys

from sfpp_client.queue.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
