"""What every metric, data set and model must do, one check a function; each raises `AssertionError`."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidattr_bench import plugins, spec, theory
from vidattr_bench.clip import Batch, Clip, Tube, boxes_around
from vidattr_bench.datamodule import ClipDataModule
from vidattr_bench.errors import NotApplicableError, did_you_mean
from vidattr_bench.fixtures import small_batch, small_model
from vidattr_bench.forward_checks import metric_declares_its_forwards
from vidattr_bench.method import hook_tables
from vidattr_bench.method_checks import assert_documented
from vidattr_bench.metric import Case, Cost, Measurement, Metric
from vidattr_bench.model import ClipInput, ModelEntry, VideoModel

FAMILIES = ("faithfulness", "localisation", "temporal", "robustness", "sanity", "complexity", "cost")
OTHER_INPUT = ClipInput(length=5, size=(24, 36))


def small_case(batch: Batch | None = None, relevance: Tensor | None = None) -> Case:
    """Relevance of a small model on a small batch, noise by default, with all that a metric may ask a case for."""
    batch = batch or small_batch()
    if relevance is None:
        relevance = torch.stack([_noise(id, batch.tubes.shape[1:]) for id in batch.ids])
    return Case(small_model(), batch, batch.labels, relevance, cost=Cost(1.0, 2.0, 3.0, 4.0), explain=_gradient)


def _noise(id: str, size: torch.Size) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(sum(id.encode())))


def _gradient(model: VideoModel, frames: Tensor, targets: Tensor, draw: int = 0) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x = model.normalise(frames.clone()).requires_grad_()
        scores = model.logits(x).gather(1, targets[:, None].clone())
        (gradient,) = torch.autograd.grad(scores.sum(), x)
    return gradient.abs().amax(1)


def _survives_its_spec(kind: str, plugin: Any) -> None:
    full = plugins.full_spec(kind, plugin)
    for text in (plugins.label(kind, plugin), full):
        again = plugins.full_spec(kind, plugins.configure(type(plugin), spec.parse(text)))
        assert again == full, f"{text!r} must lead back to {full!r}, not to {again!r}"


def metric_declares_itself(metric: Metric) -> None:
    """It says what it measures, its family and which way is better; its presets can be configured."""
    assert_documented(type(metric))
    assert metric.family in FAMILIES, f"family must be one of {', '.join(FAMILIES)}, not {metric.family!r}"
    assert metric.higher_is_better in (True, False, None), "higher_is_better must be True, False or None"
    name = plugins.name_of("metrics", type(metric))
    for options in (options for preset in metric.presets.values() for options in preset):
        plugins.configure(type(metric), spec.parse(f"{name}:{options}" if options else name))


def metric_survives_its_spec(metric: Metric) -> None:
    """The row label and the full spec lead back to an equal metric, and so does pickling."""
    _survives_its_spec("metrics", metric)
    assert pickle.loads(pickle.dumps(metric)) == metric, "a pickled metric must come back equal"  # noqa: S301


def metric_gives_one_value_a_clip(metric: Metric) -> None:
    """Float64 values (N,), NaN exactly where a reason says why; chance levels, where given, are (N,)."""
    batch = small_batch()
    no_truth = dataclasses.replace(batch, tubes=torch.zeros_like(batch.tubes), instances=())
    unknown = dataclasses.replace(batch, annotated=torch.zeros_like(batch.annotated))
    constant = torch.ones_like(batch.tubes, dtype=torch.float32)
    for case in (small_case(), small_case(no_truth), small_case(unknown), small_case(batch, constant)):
        _assert_measurement(metric.measure(case), len(case))


def _assert_measurement(found: Measurement, n: int) -> None:
    assert found.values.shape == (n,), f"{n} clips need values ({n},), not {tuple(found.values.shape)}"
    assert found.values.dtype == torch.float64, f"values must be float64, not {found.values.dtype}"
    assert not found.values.isinf().any(), "a value must be finite, or NaN with a reason"
    reasons = found.reasons or ("",) * n
    assert len(reasons) == n, f"{n} clips need {n} reasons, '' where defined"
    for value, reason in zip(found.values.tolist(), reasons, strict=True):
        assert (value != value) == bool(reason), (
            f"a value must be NaN exactly where there is a reason: {value}, {reason!r}"
        )
    assert found.chance is None or found.chance.shape == (n,), f"chance must be None or ({n},)"


def metric_ignores_neighbours(metric: Metric) -> None:
    """A clip's value is the same alone and in any batch, and measuring twice gives the same."""
    together = metric(small_case())
    assert torch.equal(together.nan_to_num(-99), metric(small_case()).nan_to_num(-99)), (
        "the same case must give the same"
    )
    batch = small_batch()
    alone = torch.cat([metric(small_case(batch.select([i]))) for i in range(len(batch))])
    same = torch.allclose(alone, together, rtol=1e-3, atol=1e-5, equal_nan=True)
    assert same, f"a clip alone must get the value it gets in a batch: {alone.tolist()}, {together.tolist()}"


def metric_modifies_nothing(metric: Metric) -> None:
    """Clips, tubes, relevance, weights and the global random state are as they were; no hook stays behind."""
    case, original, random_state = small_case(), small_case(), torch.get_rng_state()
    metric.measure(case)
    for name in ("frames", "labels", "tubes", "annotated"):
        assert torch.equal(getattr(case.batch, name), getattr(original.batch, name)), f"{name} must not be modified"
    assert torch.equal(case.relevance, original.relevance), "relevance must not be modified"
    assert case.model.weights_hash() == original.model.weights_hash(), "the model's weights must not be modified"
    assert not any(table for module in case.model.modules() for table in hook_tables(module)), "hooks must be removed"
    assert torch.equal(torch.get_rng_state(), random_state), "draws must come from the case's seed"


def metric_keeps_its_theory(metric: Metric) -> None:
    """Oracle, inverted oracle, random and constant maps get what its `theory` says, or `none` says why it is silent."""
    claims, known = metric.theory, (*theory.CONTROLS, "none")
    for name in claims:
        assert name in known, f"theory speaks of {name!r}; {did_you_mean(name, known)}"
    silent = [name for name in theory.CONTROLS if name not in claims and "none" not in claims]
    assert not silent, f"theory must say what the maps {', '.join(silent)} get, or, under `none`, why nothing is known"
    cases = theory.few_cases(bool(metric.explains))
    broken = theory.broken(metric, theory.measure(metric, cases), cases["oracle"].batch.tubes)
    assert not broken, "; ".join(f"{name} must get {claims[name]}; it gets {got}" for name, got in broken.items())


def dataset_documents_itself(dataset: ClipDataModule) -> None:
    """It says what it holds, and its spec leads back to it."""
    assert_documented(type(dataset))
    _survives_its_spec("datasets", dataset)


def dataset_lists_clips_once(dataset: ClipDataModule) -> None:
    """References have unique ids, a group, and a label among the classes or None; their order is fixed."""
    refs, classes = dataset.refs(), dataset.classes
    assert refs, "refs() must list clips, or raise DataError"
    assert len({ref.id for ref in refs}) == len(refs), "ids must be unique"
    assert all(ref.group for ref in refs), "every clip must name its group"
    assert len(set(classes)) == len(classes), "classes must be unique"
    assert all(ref.label is None or 0 <= ref.label < len(classes) for ref in refs), "labels must index classes"
    assert refs == dataset.refs(), "the order of refs() must be fixed"
    planned = [ref for batch in dataset.batches(3) for ref in batch]
    assert planned == refs, "the plan must hold every clip once, in order"


def dataset_loads_clips(dataset: ClipDataModule) -> None:
    """A clip is float32 (3, T, H, W) in [0, 1] of the size asked for, with the reference's id, group and label."""
    for wanted in (dataset.clip_input, OTHER_INPUT):
        adapted = copy.copy(dataset)
        adapted.adapt(wanted)
        for ref in _some(adapted):
            clip = adapted.load(ref)
            size = (3, adapted.clip_input.length, *adapted.clip_input.size)
            assert clip.frames.shape == size, f"{clip.id}: frames must be {size}, not {tuple(clip.frames.shape)}"
            assert clip.frames.dtype == torch.float32, f"{clip.id}: frames must be float32"
            assert 0 <= clip.frames.min() <= clip.frames.max() <= 1, f"{clip.id}: pixels must lie in [0, 1]"
            assert (clip.id, clip.group, clip.label) == (ref.id, ref.group, ref.label), f"{clip.id} must match its ref"
            assert clip.annotated.shape == size[1:2], f"{clip.id}: annotated must be (T,)"
            assert clip.annotated.dtype == torch.bool, f"{clip.id}: annotated must be bool"
            _assert_tubes_inside(clip, len(adapted.classes))


def _some(dataset: ClipDataModule) -> list[Any]:
    refs = dataset.refs()
    return [refs[0], refs[-1]]


def _assert_tubes_inside(clip: Clip, classes: int) -> None:
    _, t, h, w = clip.frames.shape
    for tube in clip.tubes:
        assert 0 <= tube.label < classes, f"{clip.id}: a tube's label must index classes"
        assert tube.boxes.shape[1:] == (4,), f"{clip.id}: boxes must be (n, 4)"
        assert 0 <= tube.start <= t - len(tube.boxes), f"{clip.id}: a tube must lie within the clip"
        low, high = tube.boxes[:, :2], tube.boxes[:, 2:]
        inside = bool(((low >= 0) & (low <= high) & (high <= torch.tensor([w, h]))).all())
        assert inside, f"{clip.id}: boxes must be x0, y0, x1, y1 inside the {w} x {h} frame"
        if tube.masks is not None:
            assert tube.masks.dtype == torch.bool, f"{clip.id}: masks must be bool"
            assert tube.masks.shape == (len(tube.boxes), h, w), f"{clip.id}: masks must be (n, H, W)"
            assert torch.equal(boxes_around(tube.masks), tube.boxes), f"{clip.id}: boxes must be those around the masks"


def dataset_is_deterministic(dataset: ClipDataModule) -> None:
    """Loading again gives the same clip, so does a pickled copy in a worker; the fingerprint is stable."""
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
    for ref in _some(dataset):
        first = dataset.load(ref)
        for other in (dataset.load(ref), again.load(ref)):
            assert torch.equal(first.frames, other.frames), f"{ref.id}: loading twice must give the same frames"
            same = [_told(tube) for tube in first.tubes] == [_told(tube) for tube in other.tubes]
            assert same, f"{ref.id}: loading twice must give the same tubes"
    assert dataset.fingerprint() == again.fingerprint(), "the fingerprint must be a function of the data"


def _told(tube: Tube) -> tuple[Any, ...]:
    return tube.label, tube.start, tube.boxes.tolist(), None if tube.masks is None else tube.masks.tolist()


def model_gives_logits(model: VideoModel) -> None:
    """Finite float32 logits, one a class, of clips of the size the model declares."""
    logits = _logits(model, _clips(model))
    shape = (2, len(model.classes) or logits.shape[-1])
    assert logits.shape == shape, f"2 clips must give one logit a class, {shape}, not {tuple(logits.shape)}"
    assert logits.dtype == torch.float32, f"logits must be float32, not {logits.dtype}"
    assert logits.isfinite().all(), "logits must be finite"


def model_is_frozen(model: VideoModel) -> None:
    """Eval mode, whatever is asked, and no parameter that requires gradients."""
    for _ in range(2):
        assert not any(module.training for module in model.modules()), "the model must stay in eval mode"
        model.train()
    assert not any(parameter.requires_grad for parameter in model.parameters()), "parameters must be frozen"


def model_ignores_neighbours(model: VideoModel) -> None:
    """A clip's logits are the same alone and in a batch, and the same again."""
    clips = _clips(model)
    together, alone = _logits(model, clips), _logits(model, clips[:1])
    assert torch.equal(alone, _logits(model, clips[:1])), "the same clip must give the same logits"
    same = torch.allclose(alone, together[:1], rtol=1e-3, atol=1e-4)
    assert same, "a clip alone must get the logits it gets in a batch"


def model_has_a_feature_layer(model: VideoModel) -> None:
    """Its feature layer, where it has one, puts out activations (N, C, t, h, w); a linear head gives its logits."""
    x = model.normalise(_clips(model))
    try:
        layer = model.feature_layer(x)
        assert _output(model, x[:1], layer)[0].ndim == 5, "the feature layer must put out (N, C, t, h, w)"
        head = model.linear_head(x)
    except NotApplicableError:
        return
    A, logits = _output(model, x, head.layer)
    bias = logits - A.mean((2, 3, 4)) @ head.weight.T
    assert torch.allclose(bias[0], bias[1], rtol=1e-3, atol=1e-3), "logits must be weight @ mean(A) + bias"


def model_passes_gradients(model: VideoModel) -> None:
    """The gradient of a logit reaches the pixels of every frame, finite and not all zero."""
    gradient = _gradient(model, _clips(model)[:1], torch.zeros(1, dtype=torch.long))
    assert gradient.isfinite().all(), "gradients must be finite"
    assert gradient.any(), "gradients must reach the input"
    cut_off = (~gradient[0].flatten(1).any(1)).nonzero()[:, 0].tolist()
    assert not cut_off, f"gradients must reach every frame, not only others than {cut_off}: is a state detached?"


def _clips(model: VideoModel) -> Tensor:
    channels = model.mean.shape[1] if model.declares_normalisation else model.input.shape[0]
    size = (channels, model.input.length, *model.input.size)
    return torch.rand(2, *size, generator=torch.Generator().manual_seed(0))


def _logits(model: VideoModel, clips: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(clips)
    return logits


def _output(model: VideoModel, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """What a layer puts out, and the logits."""
    seen: list[Tensor] = []
    with torch.no_grad(), model.module(layer).register_forward_hook(lambda module, args, output: seen.append(output)):
        logits = model.logits(x)
    return seen[-1], logits


def as_video_model(model: ModelEntry | VideoModel) -> VideoModel:
    """The model an entry builds, its declaration checked; raises `ModelError` where its weights are missing."""
    if isinstance(model, VideoModel):
        return model
    assert_documented(type(model))
    return model.build()


METRIC_CHECKS: tuple[Callable[[Metric], None], ...] = (
    metric_declares_itself,
    metric_survives_its_spec,
    metric_gives_one_value_a_clip,
    metric_ignores_neighbours,
    metric_modifies_nothing,
    metric_declares_its_forwards,
    metric_keeps_its_theory,
)
DATASET_CHECKS: tuple[Callable[[ClipDataModule], None], ...] = (
    dataset_documents_itself,
    dataset_lists_clips_once,
    dataset_loads_clips,
    dataset_is_deterministic,
)
MODEL_CHECKS: tuple[Callable[[VideoModel], None], ...] = (
    model_gives_logits,
    model_is_frozen,
    model_ignores_neighbours,
    model_has_a_feature_layer,
    model_passes_gradients,
)
