"""The standard library's TOML parser, or on Python 3.10 the package that it came from."""

import sys

if sys.version_info >= (3, 11):
    import tomllib as tomllib
else:
    import tomli as tomllib

__all__ = ["tomllib"]
