"""``python -m tssl_triton`` is the command ``tssl``."""

import sys

from tssl_triton.cli import main

if __name__ == "__main__":
    sys.exit(main())
