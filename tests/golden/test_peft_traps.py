"""Where PEFT's own answer depends on pads, on neighbours or on a version, and what is answered here instead.

Each of these stands in docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_cases import as_label_words, load_request, open_engine, peft_artifact, random_ids, row_of
from parity import assert_within
from peft import PeftModel
from peft_cases import load_peft, save_peft
from tiny_archs import PAD_ID

from prompt_store.artifact import Artifact
from prompt_store.errors import CheckpointError
from prompt_store.manifest import PublisherManifest
from server.engine.bringing import Bringing
from server.engine.engine import Engine
from server.engine.rows import RunningRow
from server.engine.types import SamplingParams

SHORT, LONG = random_ids(5, 1), random_ids(16, 2)
MOVED = 0.1  # of the scale: far more than any rounding
TOLERANCE = 1e-4
NOTHING = PublisherManifest()


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    opened: dict[str, Engine] = {}

    def engine(arch: str) -> Engine:
        if arch not in opened:
            opened[arch] = open_engine(arch, tmp_path_factory.mktemp(arch))
        return opened[arch]

    return engine


def served(engine: Engine, artifact: Artifact, rows: Sequence[list[int]]) -> list[torch.Tensor]:
    """Return each row's answer, all of them in one step."""
    request = load_request("task", artifact)
    bringing = Bringing(engine._backbone)
    resident = bringing.bring(request, bringing.part_keys(request), {}).resident
    running = [RunningRow(resident, row_of(request, ids), SamplingParams(), engine.spec.vocab_size) for ids in rows]
    found = engine._stepper.run(running)
    assert all(isinstance(one, torch.Tensor) for one in found)
    return [one for one in found if isinstance(one, torch.Tensor)]


@torch.inference_mode()
def of_peft(model: PeftModel, rows: Sequence[list[int]], side: str = "right") -> torch.Tensor:
    """Return PEFT's logits of a padded batch."""
    widest = max(map(len, rows))
    pads = [[PAD_ID] * (widest - len(ids)) for ids in rows]
    tokens = [ids + pad if side == "right" else pad + ids for ids, pad in zip(rows, pads, strict=True)]
    seen = [[1] * len(ids) + [0] * len(pad) for ids, pad in zip(rows, pads, strict=True)]
    mask = torch.tensor(seen if side == "right" else [one[::-1] for one in seen])
    logits: torch.Tensor = model(input_ids=torch.tensor(tokens), attention_mask=mask).logits
    return logits


def share(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_pads_move_pefts_logits_and_no_neighbour_moves_ours(engine_of: Callable[[str], Engine], tmp_path: Path) -> None:
    directory = save_peft("llama-gqa", "PROMPT_TUNING", "CAUSAL_LM", tmp_path)
    model, engine = load_peft("llama-gqa", directory), engine_of("llama-gqa")
    alone = of_peft(model, [SHORT])[0, -1]
    assert share(of_peft(model, [SHORT, LONG], side="left")[0, -1], alone) > MOVED
    artifact = as_label_words(peft_artifact(directory, engine.spec, NOTHING))
    assert_within(served(engine, artifact, [SHORT, LONG])[0], alone, TOLERANCE, "PEFT alone, pads aside")


def test_peft_reads_labels_off_a_pad_and_we_off_the_last_token(
    engine_of: Callable[[str], Engine], tmp_path: Path
) -> None:
    directory = save_peft("gpt2", "PROMPT_TUNING", "SEQ_CLS", tmp_path)
    model, engine = load_peft("gpt2", directory), engine_of("gpt2")
    alone = of_peft(model, [SHORT])[0]
    assert share(of_peft(model, [SHORT, LONG])[0], alone) > MOVED
    artifact = peft_artifact(directory, engine.spec, NOTHING)
    assert_within(served(engine, artifact, [SHORT, LONG])[0], alone, TOLERANCE, "PEFT alone, pads aside")


@pytest.mark.parametrize("arch", ["albert", "distilbert"])
def test_peft_drops_the_prefix_of_an_encoder_in_silence(
    engine_of: Callable[[str], Engine], arch: str, tmp_path: Path
) -> None:
    sizes = {"token_dim": 32, "num_layers": 3, "num_attention_heads": 4}
    directory = save_peft(arch, "PREFIX_TUNING", "FEATURE_EXTRACTION", tmp_path, **sizes)
    model, ids = load_peft(arch, directory), torch.tensor([LONG])
    with torch.inference_mode():
        with_prefix = model(input_ids=ids).last_hidden_state
        bare = model.get_base_model()(input_ids=ids).last_hidden_state
    assert torch.equal(with_prefix, bare)
    with pytest.raises(CheckpointError, match="never reached"):
        peft_artifact(directory, engine_of(arch).spec, NOTHING)


def test_a_prefix_of_zeros_is_not_none(engine_of: Callable[[str], Engine], tmp_path: Path) -> None:
    engine = engine_of("gpt2")
    directory = save_peft("gpt2", "PREFIX_TUNING", "CAUSAL_LM", tmp_path)
    artifact = as_label_words(peft_artifact(directory, engine.spec, NOTHING))
    zeros = replace(artifact, tensors={name: torch.zeros_like(t) for name, t in artifact.tensors.items()})
    none = replace(artifact, tensors={})
    with_zeros, without = (served(engine, one, [LONG])[0] for one in (zeros, none))
    assert share(with_zeros, without) > MOVED


def test_a_prompt_of_before_transformers_5_is_scaled_on_request(
    engine_of: Callable[[str], Engine], tmp_path: Path
) -> None:
    """Before, Gemma multiplied whatever came in as embeddings; PEFT's rows, so multiplied, are what it then saw."""
    engine, scale = engine_of("gemma"), 32**0.5
    directory = save_peft("gemma", "PROMPT_TUNING", "CAUSAL_LM", tmp_path)
    model = load_peft("gemma", directory)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.mul_(scale)
    asked = as_label_words(peft_artifact(directory, engine.spec, PublisherManifest(embeds_scale=scale)))
    before = of_peft(model, [LONG])[0, -1]
    assert_within(served(engine, asked, [SHORT, LONG])[1], before, TOLERANCE, "PEFT on Gemma before transformers 5")
    today = as_label_words(peft_artifact(directory, engine.spec, NOTHING))
    assert share(served(engine, today, [LONG])[0], before) > MOVED
