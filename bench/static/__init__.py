"""Kernels compiled for GPUs that are not here, with their predicted times."""
