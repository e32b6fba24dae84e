"""`python -m server.cli` is `softmux`."""

from server.cli import main

main()
