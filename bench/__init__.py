"""The benchmarks: each one command, each prints a table against its peers."""
