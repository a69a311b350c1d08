"""Where the numbers of a run come from: versions, code, device, data, weights, and the declared facts of plug-ins."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_only

import vidattr_bench
from vidattr_bench import plugins
from vidattr_bench.errors import RunError
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Metric
from vidattr_bench.plan import Plan
from vidattr_bench.presets import complete
from vidattr_bench.store import Store

# Files whose code decides the numbers of every row, whatever the plug-ins.
_ENGINE = (
    *(
        "attention",
        "classes",
        "clip",
        "datamodule",
        "evaluation",
        "flow",
        "flow_cache",
        "imputation",
        "linearity",
        "method",
        "metric",
        "model",
    ),
    *("motion", "perturbation", "plan", "probe", "randomness", "requirements", "rewrite", "rows", "shared", "stills"),
    *("stored_flow", "streams", "substrates", "supervoxels", "tokens", "transform", "units", "video", "videomodule"),
)
_PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "captum", "zennit", "numpy", "scipy", "scikit-image"),
    *("av", "pandas", "pyarrow"),
)


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that touch numbers."""
    found = {"vidattr_bench": vidattr_bench.__version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in _PACKAGES}


def engine_hash() -> str:
    """SHA-256 (16 hex digits) of the harness code that decides numbers."""
    folder = Path(vidattr_bench.__file__).parent
    digest = hashlib.sha256()
    for name in _ENGINE:
        digest.update((folder / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def git_commit() -> str:
    """The commit of the checkout this code runs from, with "+" where files differ; empty outside a checkout."""
    root = Path(vidattr_bench.__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def method_facts(methods: Mapping[str, AttributionMethod]) -> dict[str, dict[str, Any]]:
    """What tables need to know of each method without importing it."""
    return {
        label: {
            "family": method.family,
            "informed": method.informed,
            "is_chance": method.is_chance,
            "needs_truth": method.needs_truth,
            "signed": method.signed,
            "draws": method.draws,
            "reference": method.reference,
            "summary": _summary(method),
            "spec": plugins.full_spec("methods", method, places=False),
            "version": plugins.version(method),
        }
        for label, method in methods.items()
    }


def metric_facts(metrics: Mapping[str, Metric]) -> dict[str, dict[str, Any]]:
    """What tables need to know of each metric without importing it."""
    return {
        label: {
            "family": metric.family,
            "higher_is_better": metric.higher_is_better,
            "units": metric.units,
            "substrate": getattr(metric, "substrate", ""),
            "reference": metric.reference,
            "summary": _summary(metric),
            "spec": plugins.full_spec("metrics", metric, places=False),
            "primary": metric.primary,
            "derives": metric.derives,
            "explains": metric.explains,
            "version": plugins.version(metric),
        }
        for label, metric in metrics.items()
    }


def _summary(plugin: object) -> str:
    return (type(plugin).__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def check_resumable(plan: Plan, store: Store, device: torch.device) -> None:
    """Raise `RunError` where the folder holds a run whose numbers would not be comparable with new ones."""
    before = store.provenance()
    if not before:
        if store.parts("scores"):
            raise RunError(
                f"{store.folder} holds rows but no provenance.json that tells what they depend on; "
                "restore it, or choose another folder with --output"
            )
        return
    then, now = before.get("depends_on", {}), numbers_depend_on(plan, device)
    changed = [key for key in {**now, **then} if then.get(key) != now.get(key)]
    for kind, facts in (
        ("methods", method_facts(plan.methods)),
        ("metrics", metric_facts(plan.metrics)),
    ):
        known = before.get(kind, {})
        changed += [
            f"code of {label}"
            for label, fact in facts.items()
            if label in known and known[label].get("version") != fact["version"]
        ]
    if plan.settings.forward_batch not in (None, before.get("forward_batch")):
        changed.append("forward_batch")
    if changed:
        raise RunError(
            f"{store.folder} holds a run with other settings; these differ: {', '.join(changed)}. "
            "Numbers of both would be mixed: choose another folder with --output"
        )


def numbers_depend_on(plan: Plan, device: torch.device) -> dict[str, Any]:
    """What has to be equal before rows may stand in one folder; what methods and metrics add is their own version."""
    return {
        **plan.facts,
        **{f"version of {name}": version for name, version in versions().items()},
        "engine": engine_hash(),
        "device": device.type,
    }


@rank_zero_only
def record(plan: Plan, store: Store, device: torch.device, forward_batch: int) -> None:
    """Write run.yaml and provenance.json; methods and metrics of earlier calls stay in them."""
    before = store.provenance()
    methods = {**before.get("methods", {}), **method_facts(plan.methods)}
    metrics = {**before.get("metrics", {}), **metric_facts(plan.metrics)}
    settings = dataclasses.replace(
        plan.settings,
        forward_batch=forward_batch,
        output=store.folder,
        methods=tuple(methods),
        metrics=tuple(metrics),
        shard="1/1",
    )
    store.write_settings(settings.as_yaml())
    store.write_provenance(
        {
            "depends_on": numbers_depend_on(plan, device),
            "dataset": plugins.label("datasets", plan.data, places=False),
            "split": plan.data.split_name,
            "model": plan.model.name,
            "stream": plan.settings.stream,
            "target": plan.settings.target,
            "seed": plan.settings.seed,
            "forward_batch": forward_batch,
            "clips": {
                "planned": len(plan.refs(range(len(plan.data.plan)))),
                "missing": len(plan.data.missing()),
                "sampled": len(plan.sampled()),
            },
            "device": device_name(device),
            "git_commit": git_commit(),
            "versions": versions(),
            "methods": methods,
            "metrics": metrics,
            "presets": complete(metrics),
        }
    )
