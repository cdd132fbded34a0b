"""Kernels, layers and training steps timed on a GPU."""
