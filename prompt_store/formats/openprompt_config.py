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

    A run's own config names the class there (`template: mixed_template`) and has its options below that name.
    """
    said = config.get(name)
    return config.get(said) if isinstance(said, str) else said
