"""regrun: which regularizer makes this model generalize better, by how much, at what cost, and how sure are we."""

import os

# MKL otherwise rounds a matrix product by where its operands lie in memory, so that a run's numbers would depend on its
# place in a pack (seen on an AMD processor). Read when MKL is first used; costs nothing that could be measured.
os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"
