from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
from checkpoint_cases import DECODER, ENCODER

from server.abilities import heads, methods, tell
from server.telemetry.logs import JsonLines


def test_a_refused_place_refuses_the_methods_that_need_it() -> None:
    spec = replace(DECODER, refusals={"kv": "its keys are narrower than its values"})
    refused = {name for name, reason in methods(spec).items() if reason}
    assert refused == {"prefix-tuning", "cartridge", "p-tuning-v2"}
    assert set(methods(spec).values()) == {None, "its keys are narrower than its values"}


def test_an_encoder_decoders_prefixes_stand_in_its_decoder() -> None:
    spec = replace(DECODER, num_decoder_layers=2, refusals={"decoder_kv": "no"})
    assert {name for name, reason in methods(spec).items() if reason} == {"prefix-tuning", "cartridge"}


def test_heads_need_what_they_read() -> None:
    assert heads(ENCODER)["generation"] == f"{ENCODER.name} has no causal LM head: it cannot write text"
    assert heads(replace(ENCODER, lm_head=None))["label-words"] is not None
    assert set(heads(DECODER).values()) == {None}


def test_a_server_says_at_start_what_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tell(replace(ENCODER, refusals={"kv": "no cache"}))
    (record,) = caplog.records
    line = json.loads(JsonLines().format(record))
    assert line["event"] == "the backbone is open"
    assert line["backbone"] == ENCODER.name
    assert "prompt-tuning" in line["takes"]
    assert line["refuses"]["prefix-tuning"] == "no cache"
    assert line["refused_places"] == {"kv": "no cache"}
