"""What measuring takes: contenders, rounds, intervals, records. Knows neither models nor softmux."""
