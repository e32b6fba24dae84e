"""`python -m bench COMMAND [options]`: every benchmark, each beside its peers in the same run.

`python -m bench all --json >figures.jsonl` measures everything; `python -m bench report figures.jsonl` writes the page.
"""

import sys

from bench.commands.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
