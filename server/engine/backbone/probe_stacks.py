"""The probe of an encoder-decoder: encodes, prefills, decodes, prefixes in all three places, in one step.

The reference is each row alone through transformers' eager attention and its own EncoderDecoderCache. That cache has
no place for a prefix of the encoder: those rows must answer in a step as alone through us, and unlike without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from prompt_store.backbone_spec import PromptPlace
from server.engine.backbone.backbone import Backbone
from server.engine.backbone.probe_report import ProbeReport, check, measured, relative
from server.engine.backbone.shrink import VOCAB
from server.engine.cross import CrossRow, build_cross
from server.engine.kv import KVMemory, KVShape, SlotPool
from server.engine.plan import PlannedRow, StepPlan, build_plan
from server.engine.prefixes import Prefix

CPU = torch.device("cpu")
_PROBED = 64  # tokens of a slot

# (virtual tokens, text tokens, tokens the decoder saw before, and gets in this step)
_ROWS = ((5, 7, 0, 3), (3, 30, 4, 1), (0, 5, 2, 1), (0, 9, 0, 4), (12, 30, 6, 1), (5, 7, 0, 3))


@dataclass(slots=True, eq=False)
class _Slot:
    slot: int = 0
    pool: SlotPool | None = None


@dataclass(slots=True, eq=False)
class _Row:
    """One row of the probe, with the prefixes that it has."""

    source: list[int]
    target: list[int]
    past: int  # tokens of `target` seen in an earlier step
    encoder: Prefix | None = None
    decoder: Prefix | None = None
    cross: Prefix | None = None
    own: _Slot = field(default_factory=_Slot)
    looked: _Slot = field(default_factory=_Slot)


class StacksProbe:
    """Compares one small model with itself."""

    def __init__(self, eager: PreTrainedModel, backbone: Backbone) -> None:
        self._eager = eager
        self._name = str(eager.config.model_type)
        self._backbone = backbone
        self._generator = torch.Generator().manual_seed(1)

    @torch.inference_mode()
    def run(self) -> ProbeReport:
        """Run the probe. Raises BackboneRefusedError when rows without a prompt answer differently."""
        bare = self._error(self._rows())
        check(self._name, bare, "rows without a prompt")
        check(self._name, self._columns_error(), "single columns of its logits")
        refusals: dict[PromptPlace, str] = {}
        places: dict[PromptPlace, Callable[[], float]] = {
            "embeds": lambda: self._error(self._rows(), embeds="encoder"),
            "kv": self._encoder_prefix_error,
            "decoder_embeds": lambda: self._error(self._rows(), embeds="decoder"),
            "decoder_kv": lambda: self._error(self._rows("decoder")),
            "cross_kv": lambda: self._error(self._rows("decoder", "cross")),
        }
        return ProbeReport(max(bare, measured(self._name, places, refusals)), refusals)

    def _rows(self, *prefixed: str) -> list[_Row]:
        shape = self._backbone.shape
        rows = []
        for n, text, past, new in _ROWS:
            row = _Row(self._tokens(text), self._tokens(past + new), past)
            for place in prefixed if n else ():
                layers = shape.num_layers if place == "encoder" else shape.num_kept_layers
                size = (layers, n, shape.num_kv_heads, shape.head_dim)
                pair = [torch.randn(size, generator=self._generator) for _ in range(2)]
                setattr(row, place, (pair[0], pair[1]))
            rows.append(row)
        return rows

    def _tokens(self, count: int) -> list[int]:
        found: list[int] = torch.randint(5, VOCAB, (count,), generator=self._generator).tolist()
        return found

    def _error(self, rows: list[_Row], embeds: str = "") -> float:
        packed = self._packed(rows, embeds)
        return max(relative(ours, self._alone(row)) for ours, row in zip(packed, rows, strict=True))

    def _encoder_prefix_error(self) -> float:
        rows = self._rows("encoder", "decoder", "cross")
        mixed = self._packed(rows)
        alone = [self._packed([row])[0] for row in rows]
        bare = self._packed([replace(rows[0], encoder=None)])[0]
        if torch.allclose(bare, alone[0]):
            raise ValueError("a prefix of the encoder changes nothing")
        return max(relative(a, b) for a, b in zip(mixed, alone, strict=True))

    def _columns_error(self) -> float:
        assert self._backbone.reader is not None
        row = self._rows()[0]
        hidden, columns = self._hidden([row], [])[0], torch.tensor([7, 3, 60])
        return relative(self._backbone.reader.columns(hidden, columns), self._alone(row)[:, columns])

    def _alone(self, row: _Row) -> torch.Tensor:
        """Return the reference's logits of the row's last tokens: [new, vocab]."""
        encoded = self._eager.get_encoder()(input_ids=torch.tensor([row.source]))
        own = DynamicCache(_layers(row.decoder)) if row.decoder is not None else DynamicCache()
        looked = DynamicCache()
        if row.cross is not None:
            first = EncoderDecoderCache(DynamicCache(), DynamicCache())
            given = torch.tensor([row.target[:1]])
            self._eager(encoder_outputs=encoded, decoder_input_ids=given, past_key_values=first, use_cache=True)
            seen = [(layer.keys, layer.values) for layer in first.cross_attention_cache.layers]
            pairs = zip(_layers(row.cross), seen, strict=True)
            looked = DynamicCache([(torch.cat([a, c], 2), torch.cat([b, d], 2)) for (a, b), (c, d) in pairs])
        output = self._eager(
            encoder_outputs=encoded,
            decoder_input_ids=torch.tensor([row.target]),
            past_key_values=EncoderDecoderCache(own, looked),
            use_cache=True,
        )
        logits: torch.Tensor = output.logits[0, row.past :].float()
        return logits

    def _packed(self, rows: list[_Row], embeds: str = "") -> list[torch.Tensor]:
        """Return our logits of the same tokens, every row in one step; an earlier one saw what came before."""
        assert self._backbone.reader is not None
        memory = self._memory()
        for row in rows:
            row.own, row.looked = _Slot(), _Slot()
        earlier = [row for row in rows if row.past]
        for row in earlier:
            row.own.pool, row.looked.pool = memory.take(row.own, _PROBED), memory.take(row.looked, _PROBED, "cross")
        if earlier:
            self._hidden([replace(row, target=row.target[: row.past], past=0) for row in earlier], [], embeds)
        return [self._backbone.reader.logits(states) for states in self._hidden(rows, earlier, embeds)]

    def _memory(self) -> KVMemory:
        s = self._backbone.shape
        return KVMemory(KVShape(s.num_kept_layers, s.num_kv_heads, s.head_dim, torch.float32, CPU), 1 << 30)

    def _hidden(self, rows: Sequence[_Row], seen: Sequence[_Row], embeds: str = "") -> list[torch.Tensor]:
        """Run one step; the rows of `seen` only decode."""
        stacks = self._backbone.stacks
        assert stacks is not None
        fresh = [row for row in rows if row not in seen]
        encoded, at = None, {}
        if fresh:
            encoder_plan = build_plan([_encoder_row(row) for row in fresh], is_causal=False, device=CPU)
            encoded = stacks.encode(encoder_plan, self._embeds(encoder_plan, embeds == "encoder"))
            at = {id(fresh[i]): start for i, start in zip(encoder_plan.order, encoder_plan.starts, strict=True)}
        plan = build_plan([_decoder_row(row, row in seen) for row in rows], is_causal=True, device=CPU)
        starts = dict(zip(plan.order, plan.starts, strict=True))
        looks = [_cross_row(row, starts[i], at.get(id(row))) for i, row in enumerate(rows)]
        plan.cross = build_cross(looks, 0 if encoded is None else encoded.shape[1], CPU)
        hidden = stacks.decode(plan, encoded, self._embeds(plan, embeds == "decoder"))
        return [hidden[starts[i] : starts[i] + len(row.target) - row.past] for i, row in enumerate(rows)]

    def _embeds(self, plan: StepPlan, wanted: bool) -> torch.Tensor | None:
        return self._backbone.embed(plan.token_ids) if wanted else None


def _encoder_row(row: _Row) -> PlannedRow:
    n = _length(row.encoder)
    return PlannedRow(tokens=row.source, num_past=n, first_position=n, prefix=row.encoder)


def _decoder_row(row: _Row, is_decode: bool) -> PlannedRow:
    n = _length(row.decoder) + row.past
    return PlannedRow(
        tokens=row.target[row.past :],
        num_past=n,
        first_position=n,
        prefix=None if is_decode else row.decoder,
        pool=row.own.pool,
        slot=row.own.slot,
        is_decode=is_decode,
    )


def _cross_row(row: _Row, start: int, encoded: int | None) -> CrossRow:
    return CrossRow(
        start=start,
        num_queries=len(row.target) - row.past,
        num_keys=_length(row.cross) + len(row.source),
        encoded=encoded,
        prefix=row.cross if encoded is not None else None,
        pool=row.looked.pool,
        slot=row.looked.slot,
    )


def _length(prefix: Prefix | None) -> int:
    return 0 if prefix is None else prefix[0].shape[1]


def _layers(prefix: Prefix) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return a prefix as transformers' caches take it."""
    key, value = (tensor.transpose(1, 2).unsqueeze(1) for tensor in prefix)
    return list(zip(key, value, strict=True))
