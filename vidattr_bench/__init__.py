"""vidattr_bench: which attribution method should you believe on video?

The public names below load lazily, so that `python -m vidattr_bench list` starts without torch.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# A checkout keeps methods/ and datasets/ beside the package; an installed package holds them inside.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

_HOME = {
    "AttributionMethod": "method",
    "Batch": "clip",
    "Case": "metric",
    "Clip": "clip",
    "ClipDataModule": "datamodule",
    "ClipInput": "model",
    "Measurement": "metric",
    "Metric": "metric",
    "ModelEntry": "model",
    "NotApplicableError": "errors",
    "Tube": "clip",
    "UserError": "errors",
    "VideoModel": "model",
    "available": "plugins",
    "create": "plugins",
    "load": "plugins",
    "run": "runner",
}
__all__ = [
    "AttributionMethod",
    "Batch",
    "Case",
    "Clip",
    "ClipDataModule",
    "ClipInput",
    "Measurement",
    "Metric",
    "ModelEntry",
    "NotApplicableError",
    "Tube",
    "UserError",
    "VideoModel",
    "available",
    "create",
    "load",
    "run",
]

if TYPE_CHECKING:
    from vidattr_bench.clip import Batch, Clip, Tube
    from vidattr_bench.datamodule import ClipDataModule
    from vidattr_bench.errors import NotApplicableError, UserError
    from vidattr_bench.method import AttributionMethod
    from vidattr_bench.metric import Case, Measurement, Metric
    from vidattr_bench.model import ClipInput, ModelEntry, VideoModel
    from vidattr_bench.plugins import available, create, load
    from vidattr_bench.runner import run
else:

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
