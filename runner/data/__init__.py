"""Data sets: a name, the examples, and how a seed splits them."""
