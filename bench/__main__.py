"""Run every benchmark with its defaults."""

import contextlib

from bench import encoder, ptuning, swap

if __name__ == "__main__":
    encoder.main()
    with contextlib.suppress(SystemExit):  # its code says whether an answer was off; its table says so too
        ptuning.main()
    swap.main()
