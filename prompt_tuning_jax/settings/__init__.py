"""Settings as gin macros: their names, kinds and bounds, and what `--help` says of them."""
