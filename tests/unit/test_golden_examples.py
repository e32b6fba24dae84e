from __future__ import annotations

from typing import Any

import pytest

from prompt_store.manifest import GoldenExample, HeadKind
from server.golden import differences, promised_outputs


@pytest.mark.parametrize(
    ("promised", "found", "says"),
    [
        ({"label": "good"}, {"label": "good", "score": 0.9}, None),
        ({"score": 0.9}, {"score": 0.9009}, None),
        ({"score": 0.9}, {"score": 0.902}, "out.score is 0.902; promised 0.9"),
        ({"score": 1}, {"score": True}, "out.score is True; promised 1"),
        ({"label": "good"}, {}, "out.label is missing; promised 'good'"),
        ([{"start": 0}, {"start": 4}], [{"start": 0}], "out has 1 entries; promised 2"),
        ([{"start": 0}], [{"start": 3}], "out[0].start is 3; promised 0"),
        ("a", ["a"], "out is ['a']; promised 'a'"),
        (["a"], "a", "out is 'a'; promised ['a']"),
    ],
)
def test_a_promise_is_kept_to_its_tolerance(promised: Any, found: Any, says: str | None) -> None:
    assert list(differences(promised, found, 1e-3, "out")) == ([says] if says else [])


@pytest.mark.parametrize(
    ("inputs", "outputs", "kind", "promised"),
    [
        ("x", {"label": "a"}, HeadKind.SEQUENCE_CLASSIFICATION, [{"label": "a"}]),
        ("x", [{"label": "a"}], HeadKind.SEQUENCE_CLASSIFICATION, [{"label": "a"}]),
        (["x"], [1], HeadKind.SEQUENCE_CLASSIFICATION, [1]),
        ("x", [{"start": 0}], HeadKind.TOKEN_CLASSIFICATION, [[{"start": 0}]]),
        ("x", [[{"start": 0}]], HeadKind.TOKEN_CLASSIFICATION, [[{"start": 0}]]),
        ("x", [], HeadKind.TOKEN_CLASSIFICATION, [[]]),
    ],
)
def test_a_lone_input_may_promise_a_bare_output(inputs: Any, outputs: Any, kind: HeadKind, promised: Any) -> None:
    assert promised_outputs(GoldenExample(inputs=inputs, outputs=outputs), kind) == promised
