"""Kernels compiled for GPUs that need not be there."""
