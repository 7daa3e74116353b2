"""A small site: one layer, and consumers that rejoin their groups."""
