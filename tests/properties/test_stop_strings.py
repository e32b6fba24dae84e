"""However a text is cut into deltas, the shown text is the naive reference's, and shown as early as it can be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.stops import StopScanner

_LETTERS = st.sampled_from("abc")
_STOPS = st.lists(st.text(_LETTERS, min_size=1, max_size=5), max_size=4)


def naive(text: str, stops: list[str]) -> str:
    """Cut at the first end of any stop string, where the longest of those that end there begins."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


@settings(deadline=None)
@given(st.lists(st.text(_LETTERS, max_size=4), max_size=12), _STOPS)
def test_any_cutting_into_deltas_gives_the_reference(deltas: list[str], stops: list[str]) -> None:
    scanner = StopScanner(stops)
    shown = "".join(map(scanner.push, deltas)) + scanner.finish()
    assert shown == naive("".join(deltas), stops)
    assert (scanner.matched is not None) == any(stop in "".join(deltas) for stop in stops)


@settings(deadline=None)
@given(st.text(_LETTERS, max_size=20), _STOPS)
def test_only_what_may_begin_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    scanner = StopScanner(stops)
    shown = scanner.push(text)
    if scanner.matched is None:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)
