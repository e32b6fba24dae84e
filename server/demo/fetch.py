"""Fetch a pinned release with pip and check its digest. Knows no model and no data set.

pip is asked because it honours the user's own index, proxy and cache settings.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, TaskID

POLL_S = 0.2
CHUNK_BYTES = 1 << 20


class FetchError(RuntimeError):
    """A release could not be fetched, or is not the file that was pinned."""


@dataclass(frozen=True, slots=True)
class Release:
    """One file of one release on a package index, pinned by its digest."""

    distribution: str
    version: str
    file_name: str
    sha256: str
    size_bytes: int

    @property
    def requirement(self) -> str:
        """The line that names this release to pip."""
        return f"{self.distribution}=={self.version}"


def fetch(release: Release, folder: Path, progress: Progress) -> Path:
    """Download `release` into `folder` and return its path.

    Only a file with the pinned SHA-256 is returned; one that lies there already is taken without asking the network.
    Raises FetchError.
    """
    path = folder / release.file_name
    if path.is_file() and _digest(path) == release.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    bar = progress.add_task(f"fetch {release.requirement}", total=release.size_bytes)
    _download(release, folder, progress, bar)
    if not path.is_file():
        raise FetchError(f"pip brought no {release.file_name} for {release.requirement}: is that release still there?")
    found = _digest(path)
    if found != release.sha256:
        path.unlink()
        raise FetchError(f"{release.file_name} has SHA-256 {found}, expected {release.sha256}: not the pinned file")
    progress.update(bar, completed=release.size_bytes)
    return path


def _download(release: Release, folder: Path, progress: Progress, bar: TaskID) -> None:
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as scratch,
        tempfile.TemporaryFile("w+", encoding="utf-8") as log,
    ):
        pins = Path(scratch) / "requirements.txt"
        pins.write_text(f"{release.requirement} --hash=sha256:{release.sha256}\n", encoding="utf-8")
        environment = {**os.environ, "TMPDIR": scratch}
        command = _pip_command(pins, folder)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            _watch(process, Path(scratch), progress, bar)
        finally:
            process.kill()  # only bites when the user interrupted us
            process.wait()
        log.seek(0)
        if process.returncode != 0:
            raise FetchError(f"pip could not download {release.requirement}:\n{log.read()[-2000:]}")


def _pip_command(pins: Path, folder: Path) -> list[str]:
    # The hash is given to pip too: for a source release it is checked before pip reads its metadata.
    options = ["--no-deps", "--require-hashes", "--progress-bar", "off", "--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), "--requirement", str(pins)]


def _watch(process: subprocess.Popen[bytes], scratch: Path, progress: Progress, bar: TaskID) -> None:
    """Move the bar until pip ends. pip's own bar is not for machines, so the growing file in its TMPDIR tells."""
    while process.poll() is None:
        progress.update(bar, completed=max((_size(path) for path in scratch.rglob("*")), default=0))
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:  # pip moved it between the two looks
        return 0


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
