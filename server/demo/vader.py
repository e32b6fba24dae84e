"""The demo's data: the ground truth inside the source release of vaderSentiment 0.5 (MIT, C.J. Hutto), split once.

Three tasks: `sentiment` of movie and product reviews, `source` of any text, `tags` with both as a line of text.
Held-out rows never reach training.
"""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from server.demo.fetch import Release, fetch

ClassTask = Literal["sentiment", "source"]

RELEASE = Release(
    distribution="vaderSentiment",
    version="0.5",
    file_name="vaderSentiment-0.5.zip",
    sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    size_bytes=2_448_964,
)
NUM_HELD_OUT: dict[ClassTask, int] = {"sentiment": 250, "source": 125}  # rows of each label, 500 in all

_INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
}
_LENGTHS = range(20, 201)  # characters: shorter says nothing, longer is rare
_CLEAR_MEAN = 1.0  # raters' mean, -4 to 4: below this even people disagree


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One row: what a request sends, and the answer people gave."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Split:
    """Rows to train on and rows to measure on; no text is in both."""

    train: tuple[LabelledText, ...]
    held_out: tuple[LabelledText, ...]


@dataclass(frozen=True, slots=True)
class RatedText:
    """One line of the release: where it was found, and the raters' mean sentiment."""

    source: str
    mean: float
    text: str

    @property
    def sentiment(self) -> str:
        """The sign of the raters' mean, as a label."""
        return "positive" if self.mean > 0 else "negative"

    @property
    def is_clear(self) -> bool:
        """Whether the raters agreed on a sentiment."""
        return abs(self.mean) >= _CLEAR_MEAN

    @property
    def tags(self) -> str:
        """Both answers as the line that the task `tags` writes."""
        return f"sentiment: {self.sentiment}; source: {self.source}"


def load(cache: Path, progress: Progress) -> tuple[RatedText, ...]:
    """Return every usable line, fetching the release into `cache` the first time. Raises FetchError."""
    return read(fetch(RELEASE, cache / "downloads", progress))


def read(release: Path) -> tuple[RatedText, ...]:
    """Return every usable line of the release, in its order."""
    with zipfile.ZipFile(release) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(_INNER))) as inner:
        return tuple(row for source, file in _FILES.items() for row in _lines(inner, source, file))


def split(rows: Iterable[RatedText], task: ClassTask) -> Split:
    """Cut the task's rows with a fixed seed: the same rows on every machine."""
    shuffler = random.Random(0)
    train: list[LabelledText] = []
    held_out: list[LabelledText] = []
    for label, texts in sorted(_texts_by_label(rows, task).items()):
        ordered = sorted(texts)
        shuffler.shuffle(ordered)
        cut = NUM_HELD_OUT[task]
        held_out += [LabelledText(text, label) for text in ordered[:cut]]
        train += [LabelledText(text, label) for text in ordered[cut:]]
    unseen = {row.text for row in held_out}
    train = [row for row in train if row.text not in unseen]
    shuffler.shuffle(train)
    shuffler.shuffle(held_out)
    return Split(tuple(train), tuple(held_out))


def split_tags(rows: Sequence[RatedText]) -> Split:
    """Cut rows of a clear sentiment, labelled with their tags; `source` holds out the same texts."""
    unseen = {row.text for row in split(rows, "source").held_out}
    off_limits = unseen | {row.text for row in split(rows, "sentiment").held_out}
    tagged = sorted({row.text: row.tags for row in rows if row.is_clear}.items())
    random.Random(0).shuffle(tagged)
    return Split(
        train=tuple(LabelledText(text, tags) for text, tags in tagged if text not in off_limits),
        held_out=tuple(LabelledText(text, tags) for text, tags in tagged if text in unseen),
    )


def balanced(rows: Iterable[LabelledText], per_label: int) -> list[LabelledText]:
    """Return at most `per_label` rows of each label, in their order."""
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        taken[row.label] += 1
        if taken[row.label] <= per_label:
            kept.append(row)
    return kept


def _texts_by_label(rows: Iterable[RatedText], task: ClassTask) -> dict[str, set[str]]:
    texts: dict[str, set[str]] = {}
    for row in rows:
        if task == "source":
            texts.setdefault(row.source, set()).add(row.text)
        elif row.source in ("movie", "product") and row.is_clear:
            texts.setdefault(row.sentiment, set()).add(row.text)
    return texts


def _lines(archive: tarfile.TarFile, source: str, file: str) -> Iterator[RatedText]:
    member = archive.extractfile(f"hutto_ICWSM_2014/{file}")
    assert member is not None, f"{file} is a plain file in the pinned release"
    for line in member.read().decode("utf-8", "replace").splitlines():
        _, mean, raw = line.split("\t", 2)
        text = " ".join(raw.split())
        if len(text) in _LENGTHS and "\ufffd" not in text:
            yield RatedText(source, float(mean), text)
