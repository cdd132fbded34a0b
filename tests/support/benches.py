"""Lets tests import ``bench``, which is not installed: ``import benches`` before it.

The repository's root goes to the end of the path, so that nothing in it can stand in for an installed package.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
