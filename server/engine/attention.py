"""The one attention function: every layer of every backbone calls it, and it gives each row its own prefix.

transformers hands it the packed q, k, v of a layer, and our StepPlan as the keyword `plan`. For a row it computes
softmax over [prefix of its soft prompt | its own earlier keys | this step's keys]. It must know no task and no request.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from server.engine.errors import BackboneRefusedError
from server.engine.kept import Pages
from server.engine.kernels.looking import Packed, look
from server.engine.kernels.merged import Partial, attend_partly
from server.engine.kernels.scores import LayerRules, attend_explicit, attend_fused
from server.engine.kernels.varlen import attend_ragged
from server.engine.plan import DecodeGroup, FreshGroup, StepPlan
from server.engine.prefixes import Prefix

NAME = "softmux"

# Keywords that change nothing for us: rotary work is done by then, caches are ours, the rest asks for extra outputs.
HARMLESS = frozenset(
    {
        "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
        "output_router_logits", "logits_to_keep", "num_items_in_batch", "token_type_ids", "deterministic",
        "position_embeddings", "encoder_hidden_states", "encoder_attention_mask",
    }
)  # fmt: skip


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,  # [1, heads, T, head_dim]
    key: torch.Tensor,  # [1, key/value heads, T, head_dim]
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """Return the layer's output [1, T, heads, head_dim].

    Raises BackboneRefusedError on a keyword it does not honour: ignoring one gives wrong logits without any error.
    """
    plan: StepPlan = keywords.pop("plan")
    rules = _rules(module, query, attention_mask, keywords)
    layer = plan.num_calls
    plan.num_calls += 1
    if plan.observe:
        plan.observe(layer, key, value)
    output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
    packed = Packed(*(tensor[0].transpose(0, 1) for tensor in (query, key, value)))
    if plan.cross is not None:
        layer, is_cross = divmod(layer, 2)
        if is_cross:
            look(plan.cross, module, layer, rules, packed, output[0])
            return output, None
    sums = query.new_empty(query.shape[2], query.shape[1], dtype=torch.float32) if plan.shared else None
    joined = plan.prefixes.join(layer, packed.key, packed.value) if plan.prefixes else None
    together = _together(plan, layer, rules, packed, joined)
    for index, group in enumerate(plan.groups):
        if isinstance(group, FreshGroup) and together is not None:
            continue
        if isinstance(group, DecodeGroup):
            out, lse = _decode(plan, index, group, layer, rules, packed)
        else:
            out, lse = _fresh(plan, index, group, layer, rules, packed, joined)
        span = slice(group.start, group.start + len(out))
        output[0, span] = out
        if sums is not None and lse is not None:
            sums[span] = lse
    if together is not None:
        output[0, : len(together.output)] = together.output
        if sums is not None:
            sums[: len(together.lse)] = together.lse
    if plan.shared and sums is not None:
        plan.shared.merge_into(layer, packed.query, Partial(output[0], sums), rules)
    return output, None


_Attended = tuple[torch.Tensor, torch.Tensor | None]
"""Outputs, and the log-sum-exps of their scores where a long prefix is still to be merged in."""


def _rules(
    module: torch.nn.Module, query: torch.Tensor, mask: torch.Tensor | None, keywords: dict[str, Any]
) -> LayerRules:
    scaling = keywords.pop("scaling", None)
    window = keywords.pop("sliding_window", None)
    softcap = keywords.pop("softcap", None)
    sinks = keywords.pop("s_aux", None)
    bias = keywords.pop("position_bias", None)
    row_bias = keywords.pop("row_bias", None)
    place_bias = keywords.pop("place_bias", None)
    dropout = keywords.pop("dropout", 0.0)
    keywords.pop("is_causal", None)  # the plan knows
    unknown = sorted(name for name, given in keywords.items() if given is not None and name not in HARMLESS)
    if unknown or dropout or mask is not None:
        found = [*unknown, *(["dropout"] if dropout else []), *(["attention_mask"] if mask is not None else [])]
        raise BackboneRefusedError(
            f"{type(module).__name__} passes {', '.join(found)} to its attention, which softmux does not honour"
        )
    return LayerRules(
        scaling=query.shape[3] ** -0.5 if scaling is None else float(scaling),
        window=window,
        softcap=softcap,
        sinks=sinks,
        bias=bias,
        row_bias=row_bias,
        place_bias=place_bias,
    )


def _together(plan: StepPlan, layer: int, rules: LayerRules, packed: Packed, joined: Prefix | None) -> Partial | None:
    """Return what all new rows get, their tokens first in the step, or None where they go group by group."""
    kernel, ragged = None if plan.kernels is None else plan.kernels.ragged, plan.ragged
    if kernel is None or ragged is None or not kernel.serves(packed.query, packed.value, rules):
        return None
    for group in plan.groups:
        if isinstance(group, FreshGroup) and group.kept is not None:
            group.kept.write(layer, *_keys(group, packed, joined))
    key, value = joined or (packed.key[: ragged.num_queries], packed.value[: ragged.num_queries])
    return attend_ragged(kernel.varlen, ragged, (packed.query[: ragged.num_queries], key, value), rules)


def _fresh(
    plan: StepPlan,
    index: int,
    group: FreshGroup,
    layer: int,
    rules: LayerRules,
    packed: Packed,
    joined: Prefix | None,
) -> _Attended:
    """Return the group's output [its tokens, heads, head_dim] and sums [its tokens, heads]."""
    span = slice(group.start, group.start + group.num_rows * group.num_tokens)
    q = _rows(packed.query[span], group.num_rows)
    k, v = _keys(group, packed, joined)
    if group.kept is not None:
        group.kept.write(layer, k, v)
    mask = plan.mask(index, rules.window, q.dtype)
    if not rules.is_plain:
        mask, rules = _explicit_mask(plan, group, mask, q), _biased(plan, index, group, rules)
    # Without a mask a causal group has no prefix, or a single query that sees every key.
    out, lse = _attended(plan, q, k, v, mask, rules, plan.is_causal and group.num_tokens > 1)
    return out.transpose(1, 2).flatten(0, 1), None if lse is None else lse.transpose(1, 2).flatten(0, 1)


def _keys(group: FreshGroup, packed: Packed, joined: Prefix | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the group's keys and values, prefixes in front: [rows, heads, num_prefix + num_tokens, head_dim]."""
    start, key, value = group.start, packed.key, packed.value
    if group.keys_start is not None:
        assert joined is not None
        start, (key, value) = group.keys_start, joined
    span = slice(start, start + group.num_rows * (group.num_prefix + group.num_tokens))
    return _rows(key[span], group.num_rows), _rows(value[span], group.num_rows)


def _decode(plan: StepPlan, index: int, group: DecodeGroup, layer: int, rules: LayerRules, packed: Packed) -> _Attended:
    """Return the group's output [rows, heads, head_dim] and sums [rows, heads]."""
    span = slice(group.start, group.start + group.num_rows)
    q = packed.query[span]
    group.kept.append(layer, packed.key[span], packed.value[span])
    if plan.kernels is not None and isinstance(group.kept, Pages):
        over_pages = plan.kernels.over_pages(q, group.kept, rules)
        if over_pages is not None:
            return over_pages(q, group.kept, layer, rules)
    keys, values = group.kept.read(layer)
    mask = plan.mask(index, rules.window, q.dtype)
    if rules.is_plain:
        # Query heads that share a key head are stacked as if they were queries: the same products, no repeated keys.
        stacked = q.reshape(group.num_rows, keys.shape[1], -1, q.shape[2])
    else:
        if rules.bias is not None or rules.row_bias is not None:
            raise BackboneRefusedError("a position bias is honoured only for rows without a past")
        stacked, rules = q.unsqueeze(2), _by_place(plan, index, rules)
    out, lse = _attended(plan, stacked, keys, values, mask, rules, is_causal=False)
    return out.reshape(q.shape), None if lse is None else lse.reshape(q.shape[:2])


def _attended(
    plan: StepPlan,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    rules: LayerRules,
    is_causal: bool,
) -> _Attended:
    """Attend; the sums are computed only where a long prefix is still to be merged in."""
    if plan.shared is not None:
        return attend_partly(q, k, v, mask, rules, is_causal)
    if rules.is_plain:
        return attend_fused(q, k, v, mask, rules.scaling, is_causal), None
    return attend_explicit(q, k, v, mask, rules), None


def _rows(tokens: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Return a group's [tokens, heads, head_dim] as [rows, heads, tokens of a row, head_dim]."""
    return tokens.reshape(num_rows, -1, *tokens.shape[1:]).transpose(1, 2)


def _explicit_mask(
    plan: StepPlan, group: FreshGroup, mask: torch.Tensor | None, q: torch.Tensor
) -> torch.Tensor | None:
    if mask is not None or not plan.is_causal or group.num_tokens == 1:
        return mask
    shape = (group.num_tokens, group.num_tokens)
    return torch.full(shape, float("-inf"), dtype=q.dtype, device=q.device).triu_(1)


def _by_place(plan: StepPlan, index: int, rules: LayerRules) -> LayerRules:
    return rules if rules.place_bias is None else replace(rules, bias=plan.bias(index, rules.place_bias))


def _biased(plan: StepPlan, index: int, group: FreshGroup, rules: LayerRules) -> LayerRules:
    return _sliced(rules, group) if rules.place_bias is None else _by_place(plan, index, rules)


def _sliced(rules: LayerRules, group: FreshGroup) -> LayerRules:
    """Give each row of the group its own square of a packed bias: relative positions inside a row are the same."""
    if rules.row_bias is not None and group.kept is None:
        square = rules.row_bias(group.start, group.num_rows, group.num_tokens)
        return replace(rules, bias=F.pad(square, (group.num_prefix, 0)), row_bias=None)
    if rules.bias is None and rules.row_bias is None:
        return rules
    if rules.bias is None or group.num_prefix or group.num_shared or group.kept is not None:
        raise BackboneRefusedError("a position bias is honoured only for rows without a prefix or a past")
    n = group.num_tokens
    squares = [rules.bias[0, :, s : s + n, s : s + n] for s in (group.start + i * n for i in range(group.num_rows))]
    return replace(rules, bias=torch.stack(squares))
