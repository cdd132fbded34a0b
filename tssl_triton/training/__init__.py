"""One training run: its settings, trainer and folder."""
