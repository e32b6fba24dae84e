"""Run every benchmark with its defaults."""

from bench import encoder, swap

if __name__ == "__main__":
    encoder.main()
    swap.main()
