"""Conformance checks for methods, metrics, data sets and models: ours and third parties'.

`check_method(MyMethod())` runs all of them. `CHECKS` lists them by kind, for tests that run one at a time:

    @pytest.mark.parametrize("check", CHECKS["methods"])
    def test_my_method(check):
        check(MyMethod(), small_model())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vidattr_bench.datamodule import ClipDataModule
from vidattr_bench.fixtures import SmallNet, as_model, explain, explained_case, small_batch, small_model
from vidattr_bench.method import AttributionMethod
from vidattr_bench.method_checks import METHOD_CHECKS, quickly, suited_model
from vidattr_bench.metric import Metric
from vidattr_bench.model import ModelEntry, VideoModel
from vidattr_bench.plugin_checks import DATASET_CHECKS, METRIC_CHECKS, MODEL_CHECKS, as_video_model, small_case

__all__ = [
    "CHECKS",
    "SmallNet",
    "as_model",
    "check_dataset",
    "check_method",
    "check_metric",
    "check_model",
    "explain",
    "explained_case",
    "quickly",
    "small_batch",
    "small_case",
    "small_model",
]

CHECKS: dict[str, tuple[Callable[..., None], ...]] = {
    "methods": METHOD_CHECKS,
    "metrics": METRIC_CHECKS,
    "datasets": DATASET_CHECKS,
    "models": MODEL_CHECKS,
}


def check_method(method: AttributionMethod, model: VideoModel | None = None) -> None:
    """Run every check on a method.

    Args:
        method: a configured method.
        model: one it applies to, on the CPU, for clips of any size; by default the first small network that it does.

    Raises:
        AssertionError: the contract that does not hold.
        NotApplicableError: the method does not apply to the model.
    """
    _run("methods", method, model or suited_model(method))


def check_metric(metric: Metric) -> None:
    """Run every check on a metric; raises `AssertionError` with the contract that does not hold."""
    _run("metrics", metric)


def check_dataset(dataset: ClipDataModule) -> None:
    """Run every check on a data set whose clips are on disk; raises `AssertionError` as `check_metric` does."""
    _run("datasets", dataset)


def check_model(model: ModelEntry | VideoModel) -> None:
    """Run every check on a model, or on what an entry builds; raises `AssertionError` as `check_metric` does."""
    _run("models", as_video_model(model))


def _run(kind: str, *subject: Any) -> None:
    for check in CHECKS[kind]:
        check(*subject)
