"""The command ``tssl``."""
