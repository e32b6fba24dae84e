"""What every contender imports, imported once for all of them: contenders are forked from a process that has it.

Nothing here may compute: a process that has a team of threads must not be forked.
"""

import peft  # noqa: F401
import torch  # noqa: F401
import transformers
import transformers.models.auto.modeling_auto
import transformers.models.bert.modeling_bert
import transformers.models.llama.modeling_llama  # noqa: F401
