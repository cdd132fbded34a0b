"""Markers that skip what cannot run here, and fixtures of the tests that run operators."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

IN_INTERPRETER = ("interpret", "implementation")
"""Markers of the tests that run under Triton's interpreter."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    missing = {}
    if os.environ.get("TRITON_INTERPRET") == "1":
        marked = {item: any(map(item.get_closest_marker, IN_INTERPRETER)) for item in items}
        config.hook.pytest_deselected(items=[item for item in items if not marked[item]])
        items[:] = [item for item in items if marked[item]]
    else:
        missing["interpret"] = "runs Triton kernels on CPU tensors: set TRITON_INTERPRET=1"
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            missing["gpu"] = "needs a CUDA or ROCm device, and there is none"
    for item in items:
        for marker, reason in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Unwritten memory holds NaN, or the largest integer, and so shows in any result that reads it."""
    import torch

    mode, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(mode, warn_only=warn_only)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU loop without compiling it: the same functions, and seconds saved for each setting of a neuron.

    Where kernels are interpreted it changes nothing.
    """
    monkeypatch.setenv("TSSL_CPU", "eager")


@pytest.fixture(params=["native", "eager"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU loop, compiled and not."""
    if request.param == "native":
        monkeypatch.delenv("TSSL_CPU", raising=False)
    else:
        monkeypatch.setenv("TSSL_CPU", "eager")
    return str(request.param)
