"""Measurements. ``python -m bench`` lists them; none is installed with the package."""

import os

# Fresh memory for tensors of many megabytes comes in huge pages. In small ones the kernel's clearing of pages would be
# most of what is measured, for every contender. PyTorch reads this when it first allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
