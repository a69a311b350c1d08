"""python -m vidattr_bench."""

import sys

from vidattr_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
