"""Errors of this disk, told as the command line tells its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.cli.errors import LocalFileError

_SHOWN = 10
_MAX_CONFIG_CHARS = 1 << 20
YAML = (".yml", ".yaml")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a LocalFileError."""
    try:
        yield
    except OSError as error:
        raise LocalFileError(f"{path} cannot be read: {error.strerror or error}") from error


def read_object(file: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a file's bytes and the JSON object they are. Raises LocalFileError."""
    with reading(file):
        raw = file.read_bytes()
    if not raw.strip():
        raise LocalFileError(f"{file} is empty: expected a JSON object. Was it downloaded whole?")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise LocalFileError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise LocalFileError(f"{file} holds a JSON {type(found).__name__}; expected an object")
    return raw, found


def read_config(file: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a config as the JSON that is sent, and the object; YAML becomes JSON. Raises LocalFileError."""
    if file.suffix not in YAML:
        return read_object(file)
    with reading(file):
        return parse_yaml(file.read_bytes(), str(file))


def parse_yaml(raw: bytes, name: str) -> tuple[bytes, dict[str, Any]]:
    """Return YAML as JSON, and the object. Raises LocalFileError."""
    import yaml

    try:
        found = yaml.safe_load(raw)
        written = _as_json(found, name)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise LocalFileError(f"{name} is not YAML of plain values: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise LocalFileError(f"{name} holds a YAML {type(found).__name__}; expected an object")
    return written, found


def _as_json(found: Any, name: str) -> bytes:
    """A few lines of YAML can name each other until they spell more JSON than there is memory."""
    written: list[str] = []
    num_chars = 0
    for piece in json.JSONEncoder(allow_nan=False).iterencode(found):
        num_chars += len(piece)
        if num_chars > _MAX_CONFIG_CHARS:
            raise LocalFileError(f"{name} spells over {_MAX_CONFIG_CHARS} characters: it is not a checkpoint's config")
        written.append(piece)
    return "".join(written).encode()


def listing(names: list[str]) -> str:
    """List names for a message: the first few."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more or "nothing"
