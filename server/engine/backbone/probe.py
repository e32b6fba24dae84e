"""The second gate: a small random model of the backbone's own config must answer through our attention as alone.

Rows longer than the window, prefills, decodes, prefixes of several lengths and virtual tokens go in as one step; each
row alone through transformers' eager attention and its own cache is the reference. What differs is refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from prompt_store.backbone_spec import PromptPlace
from server.engine.backbone.backbone import Backbone
from server.engine.backbone.latent import NO_PREFIX, has_latents
from server.engine.backbone.loading import assemble, register_attention
from server.engine.backbone.probe_report import ProbeReport, check, measured, relative
from server.engine.backbone.probe_stacks import StacksProbe
from server.engine.backbone.shrink import VOCAB, shrink
from server.engine.errors import BackboneRefusedError
from server.engine.kv import KVMemory, KVShape
from server.engine.plan import PlannedRow, StepPlan, build_plan
from server.engine.prefixes import Prefix

CPU = torch.device("cpu")


@dataclass(slots=True, eq=False)
class _Row:
    """One row of the probe. Its text starts at position `num_prefix`, also when the prefix itself is left out."""

    tokens: list[int]
    num_prefix: int
    past: int = 0  # tokens seen in an earlier step
    prefix: Prefix | None = None
    slot: int = 0


# (prefix, tokens seen before, tokens of this step)
_CAUSAL_ROWS = ((5, 0, 14), (3, 9, 1), (0, 12, 1), (0, 0, 11), (12, 0, 4), (12, 6, 1), (5, 0, 14))
_BIDIRECTIONAL_ROWS = ((5, 0, 14), (0, 0, 11), (12, 0, 4), (3, 0, 1), (12, 0, 4))


def probe(config: PretrainedConfig, model_class: type[PreTrainedModel]) -> ProbeReport:
    """Run the probe. Raises BackboneRefusedError, by the model's name, when the answers differ without any prompt."""
    register_attention()
    try:
        eager, backbone = _twins(config, model_class)
        kind = _Probe if backbone.stacks is None else StacksProbe
        return kind(eager, backbone).run()
    except BackboneRefusedError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise BackboneRefusedError(
            f"{config.model_type} does not run on packed rows: {type(error).__name__}: {error}"
        ) from error


def _twins(config: PretrainedConfig, model_class: type[PreTrainedModel]) -> tuple[PreTrainedModel, Backbone]:
    """Return one random model twice: eager for the reference, and behind our attention function."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small = shrink(config)
        small.dtype = torch.float32
        # Falcon's own eager attention adds ALiBi twice; what it is trained and used with adds it once.
        small._attn_implementation = "sdpa" if config.model_type == "falcon" else "eager"
        eager = model_class(small).float().eval()
        for name, parameter in eager.named_parameters():
            # Zero at first, all of them: a forgotten one would not show.
            if "sinks" in name or name.endswith(("q_bias", "v_bias", "relative_attention_bias.weight")):
                nn.init.normal_(parameter)
    return eager, Backbone(assemble(copy.deepcopy(eager), (), None))


class _Probe:
    def __init__(self, eager: PreTrainedModel, backbone: Backbone) -> None:
        self._eager = eager
        self._backbone = backbone
        self._shape = backbone.shape
        self._generator = torch.Generator().manual_seed(1)

    @torch.inference_mode()
    def run(self) -> ProbeReport:
        bare = self._error(self._rows(with_prefix=False), as_embeds=False)
        check(self._name, bare, "rows without a prompt")
        refusals: dict[PromptPlace, str] = {}
        places: dict[PromptPlace, Callable[[], float]] = {
            "embeds": lambda: self._error(self._rows(with_prefix=False), as_embeds=True),
            "kv": self._prefix_error,
        }
        if has_latents(self._eager.config):
            refusals["kv"] = f"{self._name} cannot take kv: {NO_PREFIX}"
            del places["kv"]
        worst = measured(self._name, places, refusals)
        check(self._name, self._reader_error(), "logits read from hidden states")
        return ProbeReport(max(bare, worst), refusals)

    @property
    def _name(self) -> str:
        return str(self._eager.config.model_type)

    def _rows(self, with_prefix: bool) -> list[_Row]:
        shapes = _CAUSAL_ROWS if self._shape.is_causal else _BIDIRECTIONAL_ROWS
        return [self._row(n if with_prefix else 0, past, new) for n, past, new in shapes]

    def _row(self, num_prefix: int, past: int, new: int) -> _Row:
        tokens = torch.randint(5, VOCAB, (past + new,), generator=self._generator).tolist()
        s = self._shape
        size = (s.num_layers, num_prefix, s.num_kv_heads, s.head_dim)
        prefix = (self._random(size), self._random(size)) if num_prefix else None
        return _Row(tokens, num_prefix, past, prefix)

    def _random(self, size: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(size, generator=self._generator)

    def _prefix_error(self) -> float:
        rows = self._rows(with_prefix=True)
        if self._shape.is_causal or self._reference_takes_cache(rows[0]):
            return self._error(rows, as_embeds=False)
        # transformers drops the cache of this encoder in silence: each row alone through us must do.
        mixed = self._packed(rows, as_embeds=False)
        alone = [self._packed([row], as_embeds=False)[0] for row in rows]
        bare = self._packed([replace(rows[0], prefix=None)], as_embeds=False)[0]
        if torch.allclose(bare, alone[0]):
            raise ValueError("a prefix changes nothing")
        return max(relative(a, b) for a, b in zip(mixed, alone, strict=True))

    def _reference_takes_cache(self, row: _Row) -> bool:
        try:
            return not torch.allclose(self._alone(row), self._alone(replace(row, prefix=None)))
        except (TypeError, RuntimeError):
            return False

    def _error(self, rows: list[_Row], as_embeds: bool) -> float:
        packed = self._packed(rows, as_embeds)
        return max(relative(ours, self._alone(row)) for ours, row in zip(packed, rows, strict=True))

    def _alone(self, row: _Row) -> torch.Tensor:
        """Return the reference's hidden states of the row's last tokens: [new, hidden]."""
        ids = torch.tensor([row.tokens])
        first = row.num_prefix + self._shape.position_base
        keywords: dict[str, object] = {"position_ids": torch.arange(first, first + ids.shape[1])[None]}
        if self._shape.is_causal:
            keywords["use_cache"] = True
        if row.prefix is not None:
            key, value = (tensor.transpose(1, 2).unsqueeze(1) for tensor in row.prefix)
            layers = zip(key, value, strict=True)
            keywords["past_key_values"] = DynamicCache(list(layers))
            keywords["attention_mask"] = torch.ones(1, row.num_prefix + ids.shape[1], dtype=torch.long)
        output: ModelOutput = self._eager.base_model(input_ids=ids, **keywords)
        hidden: torch.Tensor = output.last_hidden_state[0, row.past :]
        return hidden

    def _packed(self, rows: list[_Row], as_embeds: bool) -> list[torch.Tensor]:
        """Return our hidden states of the same tokens, every row in one step."""
        s = self._shape
        memory = KVMemory(KVShape(s.num_layers, s.num_kv_heads, s.head_dim, torch.float32, CPU), 1 << 30)
        first = [row for row in rows if row.past]
        pool = None
        for row in first:
            pool = memory.take(row, 64)
        if first:
            self._run([self._planned(row, 0, row.past, pool) for row in first], as_embeds)
        return self._run([self._planned(row, row.past, None, pool if row.past else None) for row in rows], as_embeds)

    def _planned(self, row: _Row, start: int, end: int | None, pool: object) -> PlannedRow:
        return PlannedRow(
            tokens=row.tokens[start:end],
            num_past=start + (row.num_prefix if row.prefix is not None else 0),
            first_position=start + row.num_prefix + self._shape.position_base,
            prefix=None if start else row.prefix,
            pool=pool,  # type: ignore[arg-type]
            slot=row.slot,
            is_decode=start > 0,
        )

    def _run(self, rows: list[PlannedRow], as_embeds: bool) -> list[torch.Tensor]:
        plan = build_plan(rows, self._shape.is_causal, CPU)
        hidden = self._backbone.forward(plan, self._backbone.embed(plan.token_ids) if as_embeds else None)
        found = dict(_spans(plan, rows))
        return [hidden[found[i]] for i in range(len(rows))]

    def _reader_error(self) -> float:
        reader = self._backbone.reader
        if reader is None:
            return 0.0
        ids = torch.tensor([self._row(0, 0, 9).tokens])
        truth = self._eager(input_ids=ids).logits[0].float()
        hidden = self._eager.base_model(input_ids=ids).last_hidden_state[0]
        columns = torch.tensor([7, 3, 60])
        return max(relative(reader.logits(hidden), truth), relative(reader.columns(hidden, columns), truth[:, columns]))


def _spans(plan: StepPlan, rows: list[PlannedRow]) -> Iterator[tuple[int, slice]]:
    for index, start in zip(plan.order, plan.starts, strict=True):
        yield index, slice(start, start + len(rows[index].tokens))
