"""Imports of optional dependencies, with an error that says how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from ._errors import UserError


class MissingExtraError(UserError, ImportError):
    """An optional dependency is not installed; the message names the extra that installs it."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import ``module``, which ``pip install 'tssl-triton[extra]'`` installs.

    Args:
        module: dotted name to import.
        extra: name of the group of optional dependencies.
        purpose: the subject of the error message's sentence, such as "reading MNIST".

    Raises:
        MissingExtraError: if the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module.split(".")[0]:
            raise
        package = {"sklearn": "scikit-learn"}.get(module.split(".")[0], module.split(".")[0])
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed: pip install 'tssl-triton[{extra}]'"
        ) from error
