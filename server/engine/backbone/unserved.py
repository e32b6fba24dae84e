"""Architectures that are known not to be servable exactly, and why: a name says more than an error deep in a layer."""

from __future__ import annotations

_RECURRENT = "carries a state from token to token instead of attending, and a soft prompt's keys have no place in one"
_APPROXIMATE = "approximates attention over a whole sequence at once, so rows in one step would change each other"
_TABLES_AND_PAGES = "reads more of each token than its id, which a template of text does not give"
_BLOCKS = "attends in blocks of a padded sequence, with tokens that see all: rows of other lengths have other blocks"
_SEVERAL_TIMES = "attends more than once in a layer, or over latent steps, and a row's past has one place a layer"

UNSERVED: dict[str, str] = {
    "convbert": "mixes neighbouring tokens by convolutions inside its attention, across the ends of packed rows",
    "cpmant": "has positions and segments that only its own tokenizer makes",
    "diffllama": "subtracts one attention from another, which no soft prompt was trained through here",
    "doge": "builds a mask of its own from the values of a whole sequence",
    "fnet": "mixes tokens by Fourier transforms and does not attend",
    "funnel": "shortens the sequence between its layers, so packed rows would be pooled together",
    "hrm_text": _SEVERAL_TIMES,
    "ibert": "computes in integers with scales of the whole batch, so rows in one step would change each other",
    "jetmoe": "routes every token to attention heads of its own: its keys belong to experts",
    "layoutlm": _TABLES_AND_PAGES,
    "lfm2_moe": "mixes neighbouring tokens by convolutions, across the ends of packed rows",
    "longformer": _BLOCKS,
    "luke": "also reads entities, which a template of text does not give",
    "mobilebert": "joins each token's embedding with its neighbours', across the ends of packed rows",
    "mra": _APPROXIMATE,
    "nystromformer": _APPROXIMATE,
    "perceiver": "attends from latent vectors, not from tokens",
    "reformer": _APPROXIMATE,
    "roc_bert": _TABLES_AND_PAGES,
    "rwkv": _RECURRENT,
    "tapas": _TABLES_AND_PAGES,
    "xlnet": "permutes tokens and keeps a memory of segments",
    "xlstm": _RECURRENT,
    "xmod": "has adapters of a language that must be chosen for the whole model",
    "yoso": _APPROXIMATE,
    **dict.fromkeys(("mamba", "mamba2", "falcon_mamba", "recurrent_gemma"), _RECURRENT),
}
