"""The command ``tssl``."""

from .main import main, parser

__all__ = ["main", "parser"]
