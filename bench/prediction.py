"""How long a case should take, told before it is measured."""

from __future__ import annotations

from .gpu_cases import Case

LABEL = "floor from measured copy"
"""What a prediction is made of, as tables and reports call it."""


def predicted(case: Case, bandwidth: float) -> float | None:
    """Seconds that ``case`` needs at least at ``bandwidth`` bytes per second; None where nothing is predicted."""
    moved = case.bytes()
    return None if moved is None else moved / bandwidth
