"""What of a run of OpenPrompt stands in nobody's file: the text of its template, as the command line was told it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from server.cli.checkpoints.families import tell
from server.cli.checkpoints.found import Config, Found
from server.cli.errors import LocalFileError

FAMILY = "openprompt"


def with_template_text(found: Found, text: str) -> Found:
    """Return the checkpoint with `text` in its config. Raises LocalFileError for a file of any other family."""
    family = tell(found).family
    if family != FAMILY:
        raise LocalFileError(
            f"{found.located.name} is a checkpoint of {family or 'no known family'}; --openprompt-template is for runs "
            "of OpenPrompt: say --template"
        )
    said = found.fields.get("template")
    options = found.fields.get(said) if isinstance(said, str) else said
    kept = dict(options) if isinstance(options, Mapping) else {}
    fields = {**found.fields, "template": {**kept, "text": text.replace("\\n", "\n")}}
    return replace(found, config=Config(json.dumps(fields).encode(), fields))
