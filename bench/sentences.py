"""Real sentences and a real backbone: the demo's own, unless others are named."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from server.demo import vader
from server.demo.backbones import BackboneName, prepare


def backbone_directory(named: Path | None, default: BackboneName, cache: Path) -> Path:
    """Return the directory of `named`, or the demo's backbone, fetching it the first time."""
    if named is not None:
        return named
    with _progress() as progress:
        return prepare(default, cache, progress)


def sentences(file: Path | None, num_sentences: int, cache: Path) -> list[str]:
    """Return the first lines of `file`, or the demo's movie review snippets, fetching them the first time."""
    if file is not None:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    else:
        with _progress() as progress:
            lines = [row.text for row in vader.load(cache, progress) if row.source == "movie"]
    found = [line.strip() for line in lines if line.strip()][:num_sentences]
    if len(found) < num_sentences:
        raise SystemExit(f"{file or 'the demo data'} has {len(found)} sentences; {num_sentences} are needed")
    return found


def _progress() -> Progress:
    # Standard output is for what was measured: with --json, for a machine.
    return Progress(console=Console(stderr=True), transient=True)
