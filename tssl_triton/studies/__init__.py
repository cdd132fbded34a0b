"""Studies: many runs side by side. Lists of trials, comparisons, ablations, reproductions and conversions.

`ablate`, `compare` and `reproduce` have a function ``plan`` and a report each; `run_study` trains what they plan.
"""

from . import ablate, compare, convert, reproduce
from .ablate import ABLATIONS, AblationReport
from .compare import ComparisonReport
from .reproduce import ReproductionReport
from .results import aligned
from .study import Report, Row, Study, Variant, run_study
from .trials import TRIAL_ERRORS, Failure, Outcome, Summary, Trial, TrialResult, collect, repeated, run_trials

__all__ = [
    "ABLATIONS",
    "TRIAL_ERRORS",
    "AblationReport",
    "ComparisonReport",
    "Failure",
    "Outcome",
    "Report",
    "ReproductionReport",
    "Row",
    "Study",
    "Summary",
    "Trial",
    "TrialResult",
    "Variant",
    "ablate",
    "aligned",
    "collect",
    "compare",
    "convert",
    "repeated",
    "reproduce",
    "run_study",
    "run_trials",
]
