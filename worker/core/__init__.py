"""Pure values and rules: no network, no files, no torch."""
