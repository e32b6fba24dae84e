"""The template language: what parses to what, and what the errors say."""

from __future__ import annotations

import pytest

from prompt_store.errors import ManifestError
from prompt_store.template import Field, Literal, Part, Soft, Special, parse_template


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("{text}", (Field("text"),)),
        (
            "<soft:8>{text}<soft:4> It was <mask>.",
            (Soft(8), Field("text"), Soft(4), Literal(" It was "), Special("mask"), Literal(".")),
        ),
        ("<soft:16>{premise}<sep>{hypothesis}", (Soft(16), Field("premise"), Special("sep"), Field("hypothesis"))),
        ("Tweet:\n{text}\nLabel:", (Literal("Tweet:\n"), Field("text"), Literal("\nLabel:"))),
        (r"a \< b {text}", (Literal("a < b "), Field("text"))),
        (r"\<mask> {text}", (Literal("<mask> "), Field("text"))),
        (r"\\<mask>{text}", (Literal("\\"), Special("mask"), Field("text"))),
        (r"\\\<mask>{text}", (Literal("\\<mask>"), Field("text"))),
        (r"C:\dir {text}", (Literal("C:\\dir "), Field("text"))),
        ("{{json}} {text}", (Literal("{json} "), Field("text"))),
        ("{{{text}}}", (Literal("{"), Field("text"), Literal("}"))),
        ("x > y {text}", (Literal("x > y "), Field("text"))),
        ("<soft:3><soft:2>{a}{b}", (Soft(3), Soft(2), Field("a"), Field("b"))),
    ],
)
def test_a_template_parses_to_its_parts_and_back(text: str, parts: tuple[Part, ...]) -> None:
    template = parse_template(text)
    assert template.parts == parts
    assert parse_template(str(template)) == template


@pytest.mark.parametrize(
    ("text", "where", "advice"),
    [
        ("ab <msk> {text}", "column 4:", r"write \< for a literal '<'"),
        ("{text} a < b", "column 10:", "<soft:N>"),
        ("<soft:0>{text}", "column 1:", "N from 1"),
        ("<soft:99999999999999999999>{text}", "column 1:", "N from 1"),
        ("<soft:9999999>{text}", "column 1:", "N from 1"),
        ("{text", "column 1:", "{{ for a literal '{'"),
        ("{}{text}", "column 1:", "write {name}"),
        ("{te xt}", "column 1:", "letters, digits and _"),
        ("{text} }", "column 8:", "}} for a literal '}'"),
        ("one\ntwo <x>{text}", "line 2, column 5:", "is no slot"),
        ("{input_ids}", "column 1:", "reserved"),
        ("<soft:4> hello", "no field", "{text}"),
        ("", "no field", "{text}"),
    ],
)
def test_a_bad_template_is_refused_at_its_column_with_advice(text: str, where: str, advice: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_template(text)
    assert where in str(caught.value)
    assert advice in str(caught.value)


def test_a_template_knows_its_slots_and_fields() -> None:
    template = parse_template("<soft:3><soft:2>Is {a} like {b}, {a}?<soft:4>")
    assert template.num_soft == 9
    assert template.num_leading_soft == 5
    assert template.fields == ("a", "b")
    assert template.leading == (Soft(3), Soft(2), Literal("Is "))
    assert not template.has_special
    assert parse_template("{a}<sep>").has_special


@pytest.mark.parametrize(
    ("text", "num_virtual_tokens", "place", "found"),
    [
        ("<soft:8>{text}", 8, "embeds", None),
        ("<soft:4>{text}<soft:4>", 8, "embeds", None),
        ("<soft:4>{text}", 8, "embeds", "hold 4 virtual tokens; the prompt has 8: make the slots sum to 8"),
        ("{text}", 8, "embeds", "hold 0 virtual tokens"),
        ("{text}", 8, "kv", None),
        ("<soft:8>{text}", 8, "kv", None),
        ("{text}<soft:8>", 8, "kv", "write one <soft:8> in front"),
        ("<soft:4><soft:4>{text}", 8, "kv", "write one <soft:8> in front"),
        ("<soft:4>{text}", 8, "kv", "write one <soft:8> in front"),
        ("{text}", 0, None, None),
        ("<soft:8>{text}", 0, None, "leave the soft slots out"),
    ],
)
def test_soft_slots_must_fit_the_prompt(
    text: str, num_virtual_tokens: int, place: str | None, found: str | None
) -> None:
    faults = parse_template(text).soft_faults(num_virtual_tokens, place)
    if found is None:
        assert faults == ()
    else:
        assert found in faults[0]


def test_a_template_of_nothing_but_escapes_is_read_in_linear_time() -> None:
    assert parse_template("{{\\<" * 100_000 + "{a}").parts[0] == Literal("{<" * 100_000)
