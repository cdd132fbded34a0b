"""Measurements. ``python -m bench`` lists them; none is installed with the package."""
