"""`softmux infer`: what is sent, and how every kind of answer is shown."""

from __future__ import annotations

import json
from typing import Any

from cli_stub import V1, Canned, Softmux, Stub, refusal

SENTIMENT = {
    "task": "acme/sentiment",
    "version": V1,
    "alias": "live",
    "kind": "sequence-classification",
    "outputs": [
        {
            "label": "good",
            "score": 0.9,
            "scores": [{"label": "bad", "score": 0.1}, {"label": "good", "score": 0.9}],
        }
    ],
    "usage": {"input_tokens": 7, "virtual_tokens": 16, "output_tokens": 0},
    "timing": {"load_ms": 0.0, "queue_ms": 0.2, "step_ms": 3.0, "total_ms": 3.4},
}


class TestInfer:
    def test_shows_the_scores_best_first_and_the_version(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("POST /v1/infer", Canned(200, SENTIMENT))

        ended = softmux("infer", "acme/sentiment", "great film")

        assert ended.code == 0
        assert ended.out.index("good") < ended.out.index("bad")
        assert "acme/sentiment@live a1a1a1a1a1a1" in ended.out
        assert stub.asked[0].json == {"task_id": "acme/sentiment", "inputs": "great film", "parameters": {}}

    def test_json_is_the_servers_own_answer(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("POST /v1/infer", Canned(200, SENTIMENT))

        assert softmux("infer", "acme/sentiment", "great film", "--json").json == SENTIMENT

    def test_several_texts_are_a_batch(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("POST /v1/infer", Canned(200, SENTIMENT))

        softmux("infer", "sentiment", "one", "two")

        assert stub.asked[0].json["inputs"] == ["one", "two"]

    def test_fields_and_parameters_keep_their_types(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("POST /v1/infer", Canned(200, SENTIMENT))
        fields = ["--field", "premise=a=b", "--field", "hypothesis=7"]

        softmux("infer", "nli", *fields, "--param", "top_k=3", "--param", "stop=ab", "--param", "ignore_eos=true")

        assert stub.asked[0].json["inputs"] == {"premise": "a=b", "hypothesis": "7"}
        assert stub.asked[0].json["parameters"] == {"top_k": 3, "stop": "ab", "ignore_eos": True}

    def test_vector_is_shown_by_its_first_entries(self, stub: Stub, softmux: Softmux) -> None:
        output = {"embedding": [0.125, -1.0, *[0.5] * 382]}
        stub.on("POST /v1/infer", Canned(200, {**SENTIMENT, "kind": "embedding", "outputs": [output]}))

        shown = softmux("infer", "meaning", "great film").out

        assert "[0.1250, -1.0000, 0.5000, 0.5000, 0.5000, 0.5000, ...] 384 entries" in shown

    def test_choices_are_sent_as_a_list_and_shown_with_their_places(self, stub: Stub, softmux: Softmux) -> None:
        output = {"choice": 1, "label": "a dog", "score": 0.75, "scores": [0.25, 0.75]}
        stub.on("POST /v1/infer", Canned(200, SENTIMENT | {"outputs": [output]}))

        ended = softmux("infer", "quiz", "--field", "question=What barks?", "--choice", "a cat", "--choice", "a dog")

        assert stub.asked[0].json["inputs"] == {"question": "What barks?", "choices": ["a cat", "a dog"]}
        first, second = ended.out.splitlines()[:2]
        assert first.split()[:2] == ["0", "0.250"]
        assert second.split()[:2] == ["1", "0.750"]
        assert second.rstrip().endswith("a dog")

    def test_answers_are_shown_with_where_they_stand(self, stub: Stub, softmux: Softmux) -> None:
        best = {"answer": "Ada", "score": 0.9, "start": 4, "end": 7}
        none = {"answer": "", "score": 0.1, "start": 0, "end": 0}
        outputs = [best, none | {"answers": [none, best]}]
        stub.on("POST /v1/infer", Canned(200, SENTIMENT | {"outputs": outputs}))

        ended = softmux("infer", "reader", "--field", "question=Who?", "--field", "context=Was Ada here?")

        lines = [line.split() for line in ended.out.splitlines()]
        assert ["4", "7", "Ada", "0.900"] in lines
        assert ["0", "0", "(no", "answer)", "0.100"] in lines

    def test_the_key_is_sent(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("POST /v1/infer", Canned(200, SENTIMENT))

        softmux("infer", "sentiment", "x", "--key", "k1.secret")

        assert stub.asked[0].headers["Authorization"] == "Bearer k1.secret"

    def test_spans_and_unknown_outputs_are_shown(self, stub: Stub, softmux: Softmux) -> None:
        span = {"entity_group": "PER", "score": 0.99, "word": "Ada", "start": 0, "end": 3}
        stub.on("POST /v1/infer", Canned(200, SENTIMENT | {"outputs": [[span], {"value": 2.5}, {"text": "hello"}]}))

        out = softmux("infer", "ner", "Ada wrote").out

        assert "PER" in out
        assert '{"value": 2.5}' in out
        assert "hello" in out

    def test_without_any_input_says_what_to_give(self, softmux: Softmux) -> None:
        ended = softmux("infer", "sentiment")

        assert ended.code == 2
        assert "--field NAME=TEXT" in ended.err

    def test_a_field_needs_its_text(self, stub: Stub, softmux: Softmux) -> None:
        ended = softmux("infer", "reader", "--field", "question")

        assert ended.code == 2
        assert "'question' is not NAME=TEXT" in ended.err
        assert stub.asked == []


def sse(*events: tuple[str, dict[str, Any]]) -> Canned:
    raw = "".join(f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n" for name, data in events)
    return Canned(200, raw, "text/event-stream")


class TestStream:
    def test_the_parameter_is_the_option(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("POST /v1/infer", sse(("token", {"text": "ha"}), ("done", SENTIMENT | {"kind": "generation"})))

        assert softmux("infer", "story", "x", "--param", "stream=true").out.startswith("ha")

    done = SENTIMENT | {"kind": "generation", "outputs": [{"text": "a\u2028b", "finish_reason": "stop"}]}

    def test_writes_the_text_as_it_comes(self, stub: Stub, softmux: Softmux) -> None:
        tokens = [("token", {"index": i, "text": text, "token_id": i}) for i, text in enumerate(("a", "\u2028", "b"))]
        stub.on("POST /v1/infer", sse(*tokens, ("done", self.done)))

        ended = softmux("infer", "story", "once", "--stream")

        assert ended.out == "a\u2028b\n"
        assert "a1a1a1a1a1a1" in ended.err
        assert stub.asked[0].json["parameters"] == {"stream": True}

    def test_json_is_one_event_a_line(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("POST /v1/infer", sse(("token", {"index": 0, "text": "a", "token_id": 5}), ("done", self.done)))

        lines = softmux("infer", "story", "once", "--stream", "--json").out.split("\n")

        assert [json.loads(line)["event"] for line in lines if line] == ["token", "done"]

    def test_an_error_after_the_beginning_is_a_failure(self, stub: Stub, softmux: Softmux) -> None:
        error = {"error": {"type": "prompt_nonfinite", "message": "this row's logits were NaN"}}
        stub.on("POST /v1/infer", sse(("token", {"index": 0, "text": "a", "token_id": 5}), ("error", error)))

        ended = softmux("infer", "story", "once", "--stream")

        assert ended.code == 1
        assert "logits were NaN" in ended.err

    def test_a_refusal_before_the_beginning(self, stub: Stub, softmux: Softmux) -> None:
        stub.on("POST /v1/infer", refusal(404, "task_not_found", "no task 'default/story'"))

        assert softmux("infer", "story", "once", "--stream").code == 1
