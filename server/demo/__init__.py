"""The demo: real backbones from pip wheels, the prompts that ship with softmux, and their measurement over HTTP."""
