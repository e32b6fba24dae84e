"""What names bytes: one digest, one spelling. Knows no tensors, so that stores need none."""

from __future__ import annotations

import hashlib

from prompt_store.refs import Version


def version_of(raw: bytes) -> Version:
    """Return the digest that names these canonical bytes."""
    return Version("sha256:" + hashlib.sha256(raw).hexdigest())
