"""Time and memory of this package beside others."""
