"""The name under which `sfpp_client` was documented first; it stays."""

from sfpp_client import *  # noqa: F403
