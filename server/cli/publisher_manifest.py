"""The manifest that `push` sends: a file, and the options that win over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from server.cli.checkpoints.reading import read_object
from server.cli.options import parse_pairs


def read_manifest(file: Path | None, pairs: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Return what the publisher says: the file, over it `--set` pairs, over both the options. Raises LocalFileError."""
    manifest = read_object(file)[1] if file else {}
    for path, value in parse_pairs(pairs, "--set").items():
        manifest = _with_field(manifest, path.split("."), value)
    return manifest | {name: value for name, value in options.items() if value is not None}


def _with_field(manifest: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return `manifest` with the field at `a.b.c` set."""
    name, *rest = path
    if not name:
        raise typer.BadParameter("a field has no name between its dots, e.g. generation.stop=...", param_hint="--set")
    if not rest:
        return manifest | {name: value}
    inner = manifest.get(name)
    return manifest | {name: _with_field(inner if isinstance(inner, dict) else {}, rest, value)}


def parse_template(text: str | None) -> str | None:
    """Return a template as a shell can write it: `\\n` is a new line."""
    return text.replace("\\n", "\n") if text else None


def parse_labels(text: str | None) -> list[str] | None:
    """Read `a,b,c`."""
    return [label.strip() for label in text.split(",")] if text else None


def parse_label_words(text: str | None) -> dict[str, list[str]] | None:
    """Read `{"good": "great", "bad": ["bad", "awful"]}`: a word or a list for each label. Raises BadParameter."""
    if not text:
        return None
    try:
        words = json.loads(text)
        return {label: [value] if isinstance(value, str) else list(value) for label, value in words.items()}
    except (ValueError, AttributeError, TypeError) as error:
        example = '\'{"good": " great", "bad": [" bad", " awful"]}\''
        raise typer.BadParameter(f"{text!r} is not JSON like {example}", param_hint="--label-words") from error
