"""Measurements, which are not installed with the package; ``python -m bench --help`` lists them."""

import os

# Allocate large tensors in huge pages; otherwise clearing small pages would dominate the times of all contenders.
# PyTorch reads this at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
