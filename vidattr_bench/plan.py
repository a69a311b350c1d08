"""What a run will do: the plug-ins it configures, its fixed plan of batches, and what that costs."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidattr_bench import classes, models, plugins, randomness, spec, zoo
from vidattr_bench.datamodule import ClipDataModule, ClipRef
from vidattr_bench.errors import DataError, ModelError, NotApplicableError, RunError, did_you_mean
from vidattr_bench.method import AttributionMethod
from vidattr_bench.metric import Metric
from vidattr_bench.model import VideoModel, normalisation_of_the_file
from vidattr_bench.presets import resolve
from vidattr_bench.settings import Settings, identity
from vidattr_bench.streams import channels_of

_ZOO = Path(models.__path__[0])


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything a run needs, before the first forward.

    Attributes:
        settings: the options.
        model: the model under explanation, on the CPU.
        data: the data module, adapted to the model's input, holding the batches of all shards.
        methods: configured methods by row label, informed ones first.
        metrics: configured metrics by row label.
        to_model: the model's class of each class of the data set.
        facts: what the numbers depend on, apart from methods and metrics.
    """

    settings: Settings
    model: VideoModel
    data: ClipDataModule
    methods: Mapping[str, AttributionMethod]
    metrics: Mapping[str, Metric]
    to_model: torch.Tensor
    facts: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        if self.settings.output is not None:
            return self.settings.output
        names = [spec.parse(text).name for text in (self.facts["dataset"], self.facts["model"])]
        return Path("results") / f"{names[0]}-{names[1]}-{identity(self.facts)}"

    @property
    def model_name(self) -> str:
        """How rows call what is explained: the model, and its stream where one alone is explained."""
        return f"{self.model.name}/{self.settings.stream}" if self.settings.stream else self.model.name

    def numbers(self) -> list[int]:
        """The batches of this shard."""
        shard, shards = self.settings.shard_of()
        return list(range(len(self.data.plan)))[shard - 1 :: shards]

    def refs(self, numbers: Iterable[int]) -> list[ClipRef]:
        """The clips of some batches."""
        return [ref for number in numbers for ref in self.data.plan[number]]

    def pictured(self) -> set[str]:
        """The clips to draw, evenly spaced over the plan."""
        return self._spaced(self.settings.pictures)

    def sampled(self) -> set[str]:
        """The clips on which metrics that explain again are measured, evenly spaced over the plan."""
        return self._spaced(self.settings.sample)

    def _spaced(self, wanted: int) -> set[str]:
        refs = self.refs(range(len(self.data.plan)))
        wanted = min(wanted, len(refs))
        return {refs[(2 * i + 1) * len(refs) // (2 * wanted)].id for i in range(wanted)}

    def donor(self, clip: str) -> Tensor:
        """The frames (C, T, H, W) of another clip of the split, of another group and class where there is one.

        A function of the run's seed, the clip and the split: never of the batch or of --limit.

        Raises:
            NotApplicableError: no other clip of the split can be read.
        """
        refs = self.data.refs()
        own = next(ref for ref in refs if ref.id == clip)
        order = torch.randperm(len(refs), generator=randomness.generator(self.settings.seed, clip, "donor")).tolist()
        others = [refs[i] for i in order if refs[i].id != clip]
        others.sort(key=lambda ref: (ref.label == own.label, ref.group == own.group))
        for ref in others:
            try:
                return self.data.load(ref).frames
            except DataError:
                continue
        raise NotApplicableError("the split has no other clip that can be read")


def prepare(settings: Settings) -> Plan:
    """Configure every plug-in and read the split; raises `UserError` before anything has been computed."""
    methods = configure_methods(settings.methods)
    metrics = {plugins.label("metrics", metric): metric for metric in resolve(list(settings.metrics))}
    if all(metric.family == "cost" for metric in metrics.values()):
        raise RunError(f"{', '.join(metrics)}: every run records costs; add a metric that scores the maps")
    data = configure_dataset(settings.dataset)
    entry = zoo.create_model(settings.model)
    model = entry.build()
    data.adapt(model.input)
    to_model = match_classes(model, data, settings.class_map)
    check_target(settings.target, model)
    check_stream(settings.stream, model)
    data.seed, data.workers = settings.seed, settings.workers
    data.plan = data.batches(settings.batch_size, settings.limit)
    if not data.plan:
        raise DataError(f"the split {data.split_name} of {settings.dataset} holds no clip on disk")
    if settings.shard_of()[0] > len(data.plan):
        raise RunError(f"--shard {settings.shard}: the plan has only {len(data.plan)} batches")
    facts = {
        "dataset": plugins.full_spec("datasets", data, places=False),
        "dataset_code": plugins.version(data),
        "data": data.fingerprint(),
        "split": data.split_name,
        "input": str(data.clip_input),
        "model": plugins.full_spec("models", entry, places=False),
        "model_code": model_code(model),
        "weights": model.weights_hash(),
        **normalisation_of_the_file(entry, model),
        "classes": to_model.tolist(),
        "target": settings.target,
        "seed": settings.seed,
        "limit": settings.limit,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        **({"stream": settings.stream} if settings.stream else {}),
    }
    return Plan(settings, model, data, methods, metrics, to_model, facts)


def model_code(model: VideoModel) -> str:
    """SHA-256 (16 hex digits) of the structure of the network and of the file that defines it.

    To a file of models/ belong the helpers `_*.py` beside it.
    """
    path = Path(inspect.getfile(type(model.net)))
    helpers = sorted(_ZOO.glob("_[!_]*.py")) if path.parent == _ZOO else []
    digest = hashlib.sha256(repr(model.net).encode())
    for file in dict.fromkeys([path, *helpers]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def configure_methods(specs: Sequence[str]) -> dict[str, AttributionMethod]:
    """Methods by row label; "all" stands for every variant of every plug-in; informed ones first, the oracle last."""
    texts = [text for given in specs for text in (all_methods() if given == "all" else [given])]
    found = {}
    for text in texts:
        method: AttributionMethod = plugins.create("methods", text)
        found[plugins.label("methods", method)] = method
    return dict(sorted(found.items(), key=lambda item: (not item[1].informed, item[1].needs_truth)))


def all_methods() -> list[str]:
    """The specs that `--methods all` runs."""
    names = plugins.available("methods")
    return [f"{name}:{v}" if v else name for name in names for v in plugins.load("methods", name).variants]


def configure_dataset(text: str) -> ClipDataModule:
    """The data module of a spec."""
    data: ClipDataModule = plugins.create("datasets", text)
    return data


def match_classes(model: VideoModel, data: ClipDataModule, class_map: Path | None) -> torch.Tensor:
    """The model's class of each class of the data set; names a model that came without class names."""
    mapping = None if class_map is None else classes.read_class_map(class_map)
    logits = len(model.classes) or count_logits(model, data)
    indices = classes.match(data.classes, model.classes, mapping, logits)
    if not model.classes:
        model.classes = data.classes
    return torch.tensor(indices)


def count_logits(model: VideoModel, data: ClipDataModule) -> int:
    """How many logits the network gives, asked with one clip of zeros.

    Raises:
        ModelError: it does not take such clips, gives no logits, or another number of them than it has class names.
    """
    shape = (1, *data.clip_input.shape)
    try:
        with torch.no_grad():
            logits = model(torch.zeros(shape))
    except Exception as error:
        raise ModelError(f"the model does not take clips of shape {shape}: {error}") from error
    if logits.ndim != 2 or len(logits) != 1:
        raise ModelError(f"the model must give logits of shape (N, classes), not {tuple(logits.shape)} for one clip")
    count = int(logits.shape[1])
    if model.classes and len(model.classes) != count:
        raise ModelError(f"the model names {len(model.classes)} classes but gives {count} logits")
    return count


def check_stream(stream: str, model: VideoModel) -> None:
    """Raise `ModelError` where a stream is named that the model lacks, or that is all it has."""
    if stream:
        channels_of(model, stream)
        if len(model.input.streams) == 1:
            raise ModelError(f"--stream {stream}: the model has no other stream; leave --stream out")


def check_target(target: str, model: VideoModel) -> None:
    """Raise `ModelError` where the target is neither label, predicted, nor a class of the model."""
    if target not in ("label", "predicted", *model.classes):
        known = ["label", "predicted", *model.classes]
        raise ModelError(f"--target {target!r} is neither label, predicted nor a class; {did_you_mean(target, known)}")
