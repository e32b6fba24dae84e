"""Stop strings at the edges that matter."""

from __future__ import annotations

import pytest

from server.text.stops import StopScanner


@pytest.mark.parametrize(
    ("stops", "deltas", "shown", "matched"),
    [
        (["\n\n"], ["a\n", "\nb"], ["a", ""], "\n\n"),
        (["END"], ["one E", "ND two"], ["one ", ""], "END"),
        (["END"], ["one E", "at"], ["one ", "Eat"], None),
        (["aab"], ["aa", "ab"], ["", "a"], "aab"),
        (["abcd", "bc"], ["abcd"], ["a"], "bc"),
        (["abc", "bc"], ["xabc"], ["x"], "abc"),
        ([], ["a", "b"], ["a", "b"], None),
        ([""], ["a"], ["a"], None),
    ],
)
def test_what_is_shown_after_each_delta(
    stops: list[str], deltas: list[str], shown: list[str], matched: str | None
) -> None:
    scanner = StopScanner(stops)
    assert [scanner.push(delta) for delta in deltas] == shown
    assert scanner.matched == matched


def test_what_was_held_is_shown_when_the_text_ends() -> None:
    scanner = StopScanner(["###"])
    assert scanner.push("a##") == "a"
    assert scanner.finish() == "##"
    assert scanner.finish() == ""


def test_nothing_is_shown_after_a_match() -> None:
    scanner = StopScanner(["."])
    assert scanner.push("a.b") == "a"
    assert scanner.push("c") == ""
    assert scanner.finish() == ""
