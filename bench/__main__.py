"""Run every benchmark with its defaults."""

from bench import encoder

if __name__ == "__main__":
    encoder.main()
