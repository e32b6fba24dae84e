"""The demo's data: a release like vaderSentiment's, split so that no held-out text is trained on."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest

from server.demo.vader import RatedText, balanced, read, split, split_tags

FILES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "product": "amazonReviewSnippets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for source, name in FILES.items():
            lines = [f"{i}\t{(-1) ** i * 2.5}\t{source}   text number {i}, long enough" for i in range(400)]
            body = "\r\n".join([*lines, "400\t2.0\ttoo short", "401\t0.1\ta text that nobody feels about"]).encode()
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    path = tmp_path / "release.zip"
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    return path


def test_reads_every_source_and_drops_what_says_nothing(release: Path) -> None:
    rows = read(release)
    assert {row.source for row in rows} == set(FILES)
    assert RatedText("movie", 2.5, "movie text number 0, long enough") in rows
    assert not any(row.text == "too short" for row in rows)


def test_holds_out_500_rows_that_training_never_sees(release: Path) -> None:
    data = split(read(release), "source")
    assert len(data.held_out) == 500
    assert not {row.text for row in data.held_out} & {row.text for row in data.train}


def test_splits_alike_however_the_rows_come(release: Path) -> None:
    rows = read(release)
    assert split(rows, "sentiment") == split(tuple(reversed(rows)), "sentiment")


def test_sentiment_takes_clear_reviews_alone(release: Path) -> None:
    data = split(read(release), "sentiment")
    texts = [row.text for row in (*data.train, *data.held_out)]
    assert all(text.startswith(("movie", "product")) for text in texts)


def test_tags_hold_out_what_source_does(release: Path) -> None:
    rows = read(release)
    tags = split_tags(rows)
    unseen = {row.text for row in split(rows, "source").held_out}
    assert {row.text for row in tags.held_out} <= unseen
    assert not {row.text for row in tags.train} & unseen
    assert all(re.fullmatch(r"sentiment: (posi|nega)tive; source: \w+", row.label) for row in tags.held_out)


def test_balance_caps_each_label(release: Path) -> None:
    kept = balanced(split(read(release), "source").train, 7)
    assert sorted(row.label for row in kept) == sorted(list(FILES) * 7)
