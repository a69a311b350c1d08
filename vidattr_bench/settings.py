"""What a run is asked to do: the options of `run`, which run.yaml keeps and `run --config` reads back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from vidattr_bench.errors import RunError, did_you_mean

# Lightning's others convert weights and clips themselves, so that another network would be explained.
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of a run.

    Attributes:
        dataset: spec of a data set.
        model: spec of a model, or pkg.mod:factory.
        methods: specs of attribution methods; "all" is every plug-in's variants.
        metrics: specs of metrics and names of presets.
        stream: rgb or flow, of a model that takes both: the one that is explained, the other staying as it is; ""
            explains and removes both together.
        target: label (else the prediction where a clip has none), predicted, or the name of a class.
        limit: number of clips, evenly spaced over the split; all of them by default.
        seed: seed that every draw derives from.
        output: the run folder; by default named after data set, model and a hash of the settings.
        class_map: file that maps the data set's class names to the model's.
        batch_size: clips explained together.
        forward_batch: clips per forward of perturbed clips; measured once and kept by default.
        workers: processes that decode.
        shard: part i of n of the plan, as i/n from 1.
        save_maps: keep every map under maps/.
        pictures: clips to draw heat tubes of.
        sample: clips, evenly spaced over the plan, on which metrics that explain again are measured.
        accelerator, devices, num_nodes, strategy: as Lightning's Trainer has them.
        precision: 32-true, 16-mixed or bf16-mixed.
    """

    dataset: str = "planted_actions"
    model: str = "tiny3d"
    methods: tuple[str, ...] = ("all",)
    metrics: tuple[str, ...] = ("default",)
    stream: str = ""
    target: str = "label"
    limit: int | None = None
    seed: int = 0
    output: Path | None = None
    class_map: Path | None = None
    batch_size: int = 4
    forward_batch: int | None = None
    workers: int = 0
    shard: str = "1/1"
    save_maps: bool = False
    pictures: int = 3
    sample: int = 8
    accelerator: str = "auto"
    devices: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_nodes", "limit", "forward_batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise RunError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        for name in ("seed", "workers", "pictures", "sample"):
            if getattr(self, name) < 0:
                raise RunError(f"--{name} cannot be negative")
        if self.precision not in PRECISIONS:
            raise RunError(f"--precision {self.precision!r} must be one of {', '.join(PRECISIONS)}")
        self.shard_of()

    def shard_of(self) -> tuple[int, int]:
        """(i, n) of --shard i/n; raises `RunError` where it is not that."""
        first, _, second = self.shard.partition("/")
        if not (first.isdigit() and second.isdigit() and 1 <= int(first) <= int(second)):
            raise RunError(f"--shard must be i/n with 1 <= i <= n, as 2/8, not {self.shard!r}")
        return int(first), int(second)

    def as_yaml(self) -> dict[str, Any]:
        """Plain values for run.yaml."""
        plain = dataclasses.asdict(self)
        return {key: str(value) if isinstance(value, Path) else _plain(value) for key, value in plain.items()}


def from_mapping(options: Mapping[str, Any], source: str) -> Settings:
    """Settings from the mapping in a YAML file; raises `RunError` that names the field."""
    fields = {field.name for field in dataclasses.fields(Settings)}
    for key in options:
        if key not in fields:
            raise RunError(f"{source}: unknown option {key!r}; {did_you_mean(key, fields)}")
    typed = {key: _typed(key, value, source) for key, value in options.items()}
    return Settings(**typed)


def _typed(key: str, value: Any, source: str) -> Any:
    """An option as its field's type; lists stand for tuples, text for paths, and one word for a list of one."""
    declared = get_type_hints(Settings)[key]
    kinds = get_args(declared) if isinstance(declared, UnionType) else (declared,)
    if value is None and NoneType in kinds:
        return None
    if Path in kinds and isinstance(value, str | Path):
        return Path(value)
    if declared == tuple[str, ...]:
        return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
    if declared is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if type(value) in kinds:
        return value
    raise RunError(f"{source}: {key} has the wrong type: {value!r}")


def identity(facts: Mapping[str, Any]) -> str:
    """Twelve hex digits of what the numbers of a run depend on, apart from methods and metrics."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
