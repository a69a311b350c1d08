"""What the process is told before torch is imported, so that forwards on a CPU cost little but arithmetic."""

import ctypes
import os

# Names and numbers of malloc.h; a block above the threshold is mapped, and what lies free above it is given back.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 1 << 30
_LARGEST_OF_OLD_GLIBC = 32 << 20


def tune() -> None:
    """Let waiting threads sleep, unless the environment says otherwise, and keep freed memory.

    Threads that spin while they wait make a forward 50 times slower wherever another process wants their core, a
    loader's worker for one; that policy is read when torch is first imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Without this glibc returns every activation to the kernel, which clears its pages again at the next forward."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone has it
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _LARGE)
        mallopt(_MMAP_THRESHOLD, _LARGE) or mallopt(_MMAP_THRESHOLD, _LARGEST_OF_OLD_GLIBC)
