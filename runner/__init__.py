"""regrun: which regularizer makes this model generalize better, by how much, at what cost, and how sure are we."""

__version__ = "0.1.0"
