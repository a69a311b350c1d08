"""python -m vidattr_bench."""

import os
import sys

# Threads that spin while they wait make a forward 50 times slower wherever another process wants their core, a loader's
# worker for one; read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from vidattr_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
