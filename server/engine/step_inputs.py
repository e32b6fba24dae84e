"""What goes into the backbone beside the plan: embeddings where virtual tokens stand in the text, and token types."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from server.engine.backbone.backbone import Backbone
from server.engine.crossing import send
from server.engine.decoder_rows import DecoderRow
from server.engine.plan import StepPlan, positions_of
from server.engine.rows import RunningRow


def embeds_of(backbone: Backbone, plan: StepPlan, rows: Sequence[RunningRow]) -> torch.Tensor | None:
    """Return the step as embeddings [1, T, E] if any row brings virtual tokens in its text, else None."""
    vectors, places = [], []
    for index, start in zip(plan.order, plan.starts, strict=True):
        row = rows[index]
        if row.soft_positions and not row.is_decoding:
            assert row.vectors.embeds is not None
            vectors.append(row.vectors.embeds)
            places += [start + p for p in row.soft_positions]
            if row.resident.embeds_twice:
                vectors.append(_whole_embedding(backbone, row))
                places += [start + p for p in row.text_places]
    if not vectors:
        return None
    embeds = backbone.embed(plan.token_ids).clone()
    embeds[0, send(places, embeds.device)] = torch.cat(vectors).to(embeds.dtype)
    return embeds


def decoder_embeds_of(backbone: Backbone, plan: StepPlan, rows: Sequence[DecoderRow]) -> torch.Tensor | None:
    """Return a decoder's step as embeddings [1, T, E] if any row brings virtual tokens in front of its start."""
    vectors: list[torch.Tensor] = []
    places: list[int] = []
    for index, start in zip(plan.order, plan.starts, strict=True):
        row = rows[index]
        if row.decoder.embeds is not None and not row.is_decoding:
            vectors.append(row.decoder.embeds)
            places += range(start, start + row.decoder.num_embeds)
    if not vectors:
        return None
    embeds = backbone.embed(plan.token_ids).clone()
    embeds[0, send(places, embeds.device)] = torch.cat(vectors).to(embeds.dtype)
    return embeds


def token_types_of(backbone: Backbone, plan: StepPlan, rows: Sequence[RunningRow]) -> torch.Tensor | None:
    """Return the step's token types [1, T], or None where all are 0."""
    if not any(row.token_type_ids for row in rows) or not _has_pairs(backbone):
        return None
    types: list[int] = []
    for index in plan.order:
        row = rows[index]
        # A text that is embedded twice has its types from the first time.
        own = None if row.resident.embeds_twice else row.token_type_ids
        types += own or [0] * len(row.input_ids)
    return send([types], plan.token_ids.device)


def _has_pairs(backbone: Backbone) -> bool:
    # A tokenizer may know pairs where its backbone has one type for all: a second one would be out of its table.
    return backbone.shape.num_token_types >= 2


def _whole_embedding(backbone: Backbone, row: RunningRow) -> torch.Tensor:
    """Return [text tokens, E]: the row's text as the backbone alone embeds it, its positions from the first on."""
    places, shape = row.text_places, backbone.shape
    tokens = [row.input_ids[place] for place in places]
    types = [0] * len(tokens)
    if row.token_type_ids and _has_pairs(backbone):
        types = [row.token_type_ids[place] for place in places]
    return backbone.embed_whole(tokens, positions_of(tokens, shape.position_base, shape.pad_id), types)
