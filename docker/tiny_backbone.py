"""Write FOLDER/backbone, a backbone of a few thousand numbers, and FOLDER/prompt, a soft prompt for it.

It runs in the image itself, whose libraries are the ones that will read it.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NUM_VIRTUAL_TOKENS, WIDTH = 4, 32


def write_backbone(folder: Path) -> None:
    """Write a causal model of two layers, and a tokenizer of bytes."""
    words = ["<pad>", "<bos>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_prompt(folder: Path) -> None:
    """Write what PEFT's `save_pretrained` leaves of a prompt tuning."""
    folder.mkdir()
    embeds = torch.randn(NUM_VIRTUAL_TOKENS, WIDTH) * 0.02  # the scale of the backbone's own embeddings
    save_file({"prompt_embeddings": embeds}, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": NUM_VIRTUAL_TOKENS,
        "token_dim": WIDTH,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    torch.manual_seed(0)
    write_backbone(Path(sys.argv[1]) / "backbone")
    write_prompt(Path(sys.argv[1]) / "prompt")
