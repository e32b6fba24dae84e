"""Which family a checkpoint belongs to, without guessing: none or several is a refusal that says what was seen."""

from __future__ import annotations

from prompt_store.errors import CheckpointError
from prompt_store.formats import bare, canonical, cartridges, chatglm, t5x, tgis
from prompt_store.formats.checkpoint import Checkpoint
from prompt_store.formats.family import Family
from prompt_store.formats.nemo import family as nemo
from prompt_store.formats.openprompt import family as openprompt
from prompt_store.formats.peft import family as peft
from prompt_store.formats.prefix_tuning import gpt2 as prefix_tuning
from prompt_store.formats.ptuning import v1_fewshot as ptuning_v1_fewshot
from prompt_store.formats.ptuning import v1_lama as ptuning_v1_lama
from prompt_store.formats.ptuning import v2 as ptuning_v2
from prompt_store.formats.ptuning import v2_prompt as ptuning_v2_prompt
from prompt_store.formats.refused import NOT_TAKEN

FAMILIES: tuple[Family, ...] = (
    peft.FAMILY,
    canonical.FAMILY,
    ptuning_v1_lama.FAMILY,
    ptuning_v1_fewshot.FAMILY,
    ptuning_v2.FAMILY,
    ptuning_v2_prompt.FAMILY,
    prefix_tuning.FAMILY,
    cartridges.FAMILY,
    openprompt.FAMILY,
    chatglm.FAMILY,
    nemo.FAMILY,
    tgis.FAMILY,
    t5x.FAMILY,
    *NOT_TAKEN,
    bare.FAMILY,
)


def recognise(checkpoint: Checkpoint) -> Family:
    """Return the one family that claims `checkpoint`. Raises CheckpointError when none or several do."""
    claims = [(family, evidence) for family in FAMILIES if (evidence := family.claim(checkpoint))]
    if len(claims) == 1:
        return claims[0][0]
    if claims:
        found = (f"could be {family.name}: {evidence}" for family, evidence in claims)
        raise CheckpointError(
            "the checkpoint fits several families, and none is guessed", *found, checkpoint.describe()
        )
    known = (f"{family.name} needs {family.needs}" for family in FAMILIES if family.needs)
    raise CheckpointError("the checkpoint fits no family we know", checkpoint.describe(), *known)
