"""WNUT17's files: read as their authors mean them, taken from a given folder, and refused where they are not theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.progress import Progress

from server.demo import wnut17
from server.demo.fetch import FetchError

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "wnut17"
LINES = "Empire\tB-location\nState\tI-location\n!\tO\n\t\n\n\u2028\tO\nBilly\tB-person"


def test_a_line_without_a_word_ends_a_sentence() -> None:
    empire = (("Empire", "B-location"), ("State", "I-location"), ("!", "O"))
    assert list(wnut17.read(LINES)) == [empire, (("\u2028", "O"), ("Billy", "B-person"))]
    assert wnut17.text_of(empire) == "Empire State !"


def test_another_file_is_refused_with_both_digests(tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "wnut17train.conll").write_text(LINES, encoding="utf-8")
    with pytest.raises(FetchError, match=r"SHA-256 \w{64}, expected 731820e1\w+: not the pinned file"):
        wnut17.load(tmp_path, Progress(disable=True))


def test_where_the_network_ends_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(FetchError, match=rf"could not be fetched .* put wnut17train\.conll .* into {tmp_path}"):
        wnut17.load(tmp_path, Progress(disable=True))


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data set is not beside the checkout, at {SHARED}")
def test_the_published_files_are_taken(tmp_path: Path) -> None:
    (tmp_path / "downloads").symlink_to(SHARED)
    data = wnut17.load(tmp_path, Progress(disable=True))
    assert (len(data.train), len(data.held_out)) == (3394, 1009)
    assert {tag for sentence in (*data.train, *data.held_out) for _, tag in sentence} == set(wnut17.TAGS)
