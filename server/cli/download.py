"""A version's bytes on their way to this disk: verified by their digest, and in place only when they are whole."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from server.cli.checkpoints.reading import reading
from server.cli.client import Client
from server.cli.errors import UnavailableError
from server.cli.transfer import transfer_bar


def save_verified(client: Client, path: str, version: str, file: Path, is_quiet: bool) -> int:
    """Download `path` to `file`, replacing it in one step, and return the number of bytes.

    `file` is left as it was unless the bytes have the digest `version`. Raises UnavailableError, LocalFileError, and
    like `Client.get`.
    """
    with reading(file):
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".part", dir=file.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as opened:
            digest = _receive(client, path, opened, is_quiet)
            if digest != version:
                raise UnavailableError(
                    200, {"type": "wrong_digest", "message": f"{version} was asked for and {digest} came: try again"}
                )
            with reading(file):
                opened.flush()
                os.fsync(opened.fileno())
        with reading(file):
            partial.chmod(0o666 & ~_umask())
            partial.replace(file)
            return file.stat().st_size
    finally:
        partial.unlink(missing_ok=True)


def _receive(client: Client, path: str, file: BinaryIO, is_quiet: bool) -> str:
    digest = hashlib.sha256()
    with transfer_bar("receive the artifact", is_quiet) as bar:

        def take(chunk: bytes) -> None:
            with reading(Path(str(file.name))):
                file.write(chunk)
            digest.update(chunk)
            bar.advance(len(chunk))

        announce: Callable[[int | None], None] = bar.announce
        client.download(path, take, announce)
    return f"sha256:{digest.hexdigest()}"


def _umask() -> int:
    mask = os.umask(0)  # there is no other way to read it
    os.umask(mask)
    return mask
