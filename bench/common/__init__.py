"""Shared by several commands: timing, options, tables, training steps, tracing, CUDA graphs."""
