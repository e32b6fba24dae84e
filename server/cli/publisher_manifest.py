"""The manifest that `push` sends: a file, and the options that win over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from server.cli.errors import LocalFileError


def read_manifest(file: Path | None, options: dict[str, Any]) -> bytes | None:
    """Return the manifest as JSON, or None when nothing was said. Raises LocalFileError."""
    said = {name: value for name, value in options.items() if value is not None}
    manifest = (_read_file(file) if file else {}) | said
    return json.dumps(manifest, ensure_ascii=False).encode() if manifest else None


def _read_file(file: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(file.read_bytes())
    except OSError as error:
        raise LocalFileError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LocalFileError(f"{file} is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise LocalFileError(f"{file} holds a JSON {type(manifest).__name__}; a manifest is an object")
    return manifest


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
