"""python -m vidattr_bench."""

import sys

from vidattr_bench import process

process.tune()

from vidattr_bench.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
