"""Whatever a template holds, writing it and reading it again changes nothing."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prompt_store.errors import ManifestError
from prompt_store.template import SPECIAL_NAMES, Field, Literal, Part, Soft, Special, Template, parse_template

_texts = st.text(st.sampled_from("\\<>{}ab :\nsoftmask5é"), min_size=1, max_size=12) | st.text(min_size=1, max_size=8)
_parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(Soft, st.integers(1, 300)),
    st.builds(Special, st.sampled_from(SPECIAL_NAMES)),
    st.builds(Literal, _texts),
    st.builds(Field, st.sampled_from(["text", "a", "_b1"])),
)


@settings(deadline=None)
@given(st.lists(_parts, max_size=8))
def test_writing_and_reading_a_template_is_the_identity(parts: list[Part]) -> None:
    assume(any(isinstance(part, Field) for part in parts))
    pairs = pairwise(parts)
    assume(not any(isinstance(a, Literal) and isinstance(b, Literal) for a, b in pairs))
    template = Template(tuple(parts))
    assert parse_template(str(template)) == template


@settings(deadline=None)
@given(st.text(st.sampled_from("\\<>{}ab:\nsoftmaskep58"), max_size=40))
def test_any_text_parses_or_is_refused_by_name(text: str) -> None:
    try:
        template = parse_template(text)
    except ManifestError:
        return
    assert parse_template(str(template)) == template
