"""Where things lie below a disk store's root. The only place that joins the root with anything."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from prompt_store.refs import Version, parse_version

NAMES_FILE = "names.sqlite"
LOCK_FILE = "lock"

_PART = re.compile(r"[a-z0-9]+(?:\.[a-z0-9]+)*")


def inside(root: Path, *parts: str) -> Path:
    """Join `root` with parts that are plain by construction; a name from outside must never get this far."""
    for part in parts:
        if not _PART.fullmatch(part):
            raise ValueError(f"{part!r} may not become part of a path")
    return root.joinpath(*parts)


def blob_parts(tenant: str, version: Version) -> tuple[str, str, str, str]:
    """Return the parts of the path of some bytes: digests only, never a name that somebody chose.

    Raises InvalidNameError.
    """
    digest = parse_version(version).removeprefix("sha256:")
    return "blobs", hashlib.sha256(tenant.encode("utf-8", "surrogatepass")).hexdigest()[:32], digest[:2], digest
