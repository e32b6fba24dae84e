"""What a run of OpenPrompt was told: its `config.yaml`, or in short `{"template": {..}, "verbalizer": {..}}`."""

from __future__ import annotations

from collections.abc import Mapping


def dig(config: object, *names: str) -> object:
    """Return what stands below `names`, None where something is missing."""
    for name in names:
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def section(config: Mapping[str, object], name: str) -> object:
    """Return the options of the run's `template` or `verbalizer`.

    A run's own config names the class there (`template: mixed_template`) and has its options below that name; a
    template may also stand there as its text.
    """
    said = config.get(name)
    if isinstance(said, str) and "{" in said:
        return {"text": said}
    return config.get(said) if isinstance(said, str) else said


def template_text(config: Mapping[str, object]) -> str | None:
    """Return the text of the run's template, None where the config has none."""
    text = dig(section(config, "template"), "text")
    return text if isinstance(text, str) and text.strip() else None
