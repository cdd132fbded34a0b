"""This package and alternatives, timed side by side."""
