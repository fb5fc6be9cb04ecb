"""``python -m cil_spl.cli``, as torchrun wants it."""

import sys

from cil_spl.cli import main

if __name__ == "__main__":
    sys.exit(main())
