"""Sentences with their entities: WNUT17, Emerging and Rare Entities (CC BY 4.0, Derczynski et al. 2017).

Training takes the training file, measuring the authors' own development file (YouTube comments). Both lie in the
authors' repository on GitHub, pinned by commit and digest; without GitHub they may be put into the cache by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.progress import Progress

from server.demo.fetch import FetchError

TYPES = ("corporation", "creative-work", "group", "location", "person", "product")
TAGS = ("O", *(f"{place}-{kind}" for kind in TYPES for place in "BI"))

Sentence = tuple[tuple[str, str], ...]  # words with their tags

_COMMIT = "a12ed2349a0b1916b6389a4ecc2e2ddb737e51f8"
_URL = f"https://raw.githubusercontent.com/leondz/emerging_entities_17/{_COMMIT}"
_TRAIN, _HELD_OUT = "wnut17train.conll", "emerging.dev.conll"
_DIGESTS = {
    _TRAIN: "731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5",
    _HELD_OUT: "e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8",
}
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Entities:
    """Sentences to train on and sentences to measure on."""

    train: tuple[Sentence, ...]
    held_out: tuple[Sentence, ...]


def text_of(sentence: Sentence) -> str:
    """Return what a request sends: the words joined by one space."""
    return " ".join(word for word, _ in sentence)


def load(cache: Path, progress: Progress) -> Entities:
    """Return both files' sentences, fetching them into `cache` the first time. Raises FetchError."""
    raws = [_fetch(name, cache / "downloads", progress) for name in _DIGESTS]
    return Entities(*(tuple(read(raw.decode("utf-8"))) for raw in raws))


def _fetch(name: str, folder: Path, progress: Progress) -> bytes:
    """Return the file, from `folder` if it lies there already."""
    path = folder / name
    if path.is_file():
        return _checked(path.read_bytes(), name, path)
    bar = progress.add_task(f"fetch {name}", total=1)
    raw = _checked(_download(f"{_URL}/{name}", folder), name, f"{_URL}/{name}")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    progress.update(bar, completed=1)
    return raw


def _download(url: str, folder: Path) -> bytes:
    try:
        return httpx.get(url, timeout=_TIMEOUT_S, follow_redirects=True).raise_for_status().content
    except httpx.HTTPError as error:
        raise FetchError(
            f"{url} could not be fetched ({error}). Where GitHub cannot be reached, put {' and '.join(_DIGESTS)} from "
            f"another copy of that repository into {folder}"
        ) from error


def _checked(raw: bytes, name: str, source: object) -> bytes:
    if _digest(raw) != _DIGESTS[name]:
        raise FetchError(f"{source} has SHA-256 {_digest(raw)}, expected {_DIGESTS[name]}: not the pinned file")
    return raw


def read(text: str) -> Iterator[Sentence]:
    """Yield the sentences of `word<TAB>tag` lines; a line without a word ends one."""
    pairs: list[tuple[str, str]] = []
    for line in (*text.split("\n"), ""):
        word, _, tag = line.partition("\t")
        if word:
            pairs.append((word, tag))
        elif pairs:
            yield tuple(pairs)
            pairs = []


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
