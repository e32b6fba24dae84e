"""`softmux version`."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version


def version() -> None:
    """Print the version of softmux that is installed here."""
    sys.stdout.write(f"softmux {installed_version('softmux')}\n")
