"""How OpenPrompt turns a template's text and an example into rows, written out with the tokenizer itself.

A row is a list of token ids; -i stands for soft token i, -m alone in `PtuningTemplate` counts its places.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

_OPEN, _CLOSE = "{", "}"


@dataclass(frozen=True)
class Row:
    """What is fed, with the place that is read."""

    ids: list[int]
    place: int


def parse(text: str) -> list[dict[str, Any]]:
    """Return the pieces, as `Template.parse_text`."""
    parsed, i = [], 0
    while i < len(text):
        piece: dict[str, Any] = {"add_prefix_space": " " if i > 0 and text[i - 1] == " " else ""}
        while i < len(text) and text[i] == " ":
            piece["add_prefix_space"] = " "
            i += 1
        if i == len(text):
            break
        j = i + 1
        if text[i] != _OPEN:
            while j < len(text) and text[j] != _OPEN:
                j += 1
            piece["text"] = text[i:j].rstrip(" ")
            i = j
        else:
            depth = 1
            while depth:
                depth += {_OPEN: 1, _CLOSE: -1}.get(text[j], 0)
                j += 1
            found = ast.literal_eval(text[i:j])
            piece.update(dict.fromkeys(found) if isinstance(found, set) else found)
            i = j
        parsed.append(piece)
    return parsed


def prepare(parsed: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """Number the soft tokens, as `MixedTemplate.prepare`: each piece of the result has its `soft_token_id`."""
    done: list[dict[str, Any]] = []
    groups: dict[int, list[int]] = {}
    used = 0
    for piece in parsed:
        if "soft" not in piece and "soft_id" not in piece:
            done.append({**piece, "soft_token_id": 0})
            continue
        old = used
        if piece.get("soft_id") in groups:
            done += [{"soft": None, "soft_token_id": one} for one in groups[piece["soft_id"]]]
            continue
        if piece.get("soft") is None:
            if piece.get("same"):
                used += 1
                ids = [used] * piece["duplicate"]
            else:
                used += piece.get("duplicate", 1)
                ids = list(range(old + 1, used + 1))
        else:
            words = tokenizer(piece["add_prefix_space"] + piece["soft"], add_special_tokens=False)["input_ids"]
            used += len(words)
            ids = list(range(old + 1, used + 1))
        done += [{"soft": None, "soft_token_id": one} for one in ids]
        if "soft_id" in piece:
            groups[piece["soft_id"]] = ids
    return done


def num_soft(text: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many rows MixedTemplate's table has, but for its row 0."""
    return max((piece["soft_token_id"] for piece in prepare(parse(text), tokenizer)), default=0)


def feed(
    text: str,
    example: Mapping[str, str],
    tokenizer: PreTrainedTokenizerFast,
    max_seq_length: int = 512,
    method: str = "tail",
) -> Row:
    """Return the row that the tokenizer's wrapper makes: `MLMTokenizerWrapper`, without a mask `LMTokenizerWrapper`."""
    parts: list[tuple[list[int], bool]] = []
    for piece in prepare(parse(text), tokenizer):
        shortenable = bool(piece.get("shortenable", "placeholder" in piece))
        if piece["soft_token_id"]:
            parts.append(([-piece["soft_token_id"]], False))
        elif "mask" in piece and tokenizer.mask_token_id is None:
            break
        else:
            parts.append((tokenizer.encode(_text(piece, example, tokenizer), add_special_tokens=False), shortenable))
    excess = sum(len(ids) for ids, _ in parts) + tokenizer.num_special_tokens_to_add() - max_seq_length
    kept = _truncated(parts, excess, method)
    flat = [one for ids in kept for one in ids]
    whole = _with_special_tokens(flat, tokenizer)
    is_masked = tokenizer.mask_token_id is not None
    return Row(whole, whole.index(tokenizer.mask_token_id) if is_masked else len(whole) - 1)


def _text(piece: Mapping[str, Any], example: Mapping[str, str], tokenizer: PreTrainedTokenizerFast) -> str:
    for name in ("placeholder", "meta"):
        if name in piece:
            return str(piece["add_prefix_space"]) + example[piece[name]]
    if "mask" in piece:
        return str(tokenizer.mask_token)
    if "special" in piece:
        return str(getattr(tokenizer, f"{piece['special'][1:-1]}_token"))
    return str(piece["add_prefix_space"]) + str(piece["text"])


def _truncated(parts: list[tuple[list[int], bool]], excess: int, method: str) -> list[list[int]]:
    kept = [ids for ids, _ in parts]
    order = range(len(parts)) if method == "head" else range(len(parts) - 1, -1, -1)
    for place in order:
        ids, shortenable = parts[place]
        if excess > 0 and shortenable:
            # Both methods cut a piece at its end; they differ in which piece is first.
            kept[place] = ids[:-excess] if excess < len(ids) else []
            excess -= len(ids)
    return kept


def _with_special_tokens(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Put the tokenizer's own around ids that may be soft tokens, as `build_inputs_with_special_tokens` does."""
    framed = tokenizer("a")
    inner = [
        place
        for place, mask in enumerate(
            tokenizer.get_special_tokens_mask(framed["input_ids"], already_has_special_tokens=True)
        )
        if not mask
    ]
    return [*framed["input_ids"][: inner[0]], *ids, *framed["input_ids"][inner[-1] + 1 :]]
