"""What every attribution method must do, one check a function; each raises `AssertionError` with the contract."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vidattr_bench import plugins, spec
from vidattr_bench.clip import Batch
from vidattr_bench.errors import NotApplicableError
from vidattr_bench.families import METHOD_FAMILIES
from vidattr_bench.fixtures import NETWORKS, as_model, explain, model_without, small_batch, small_model
from vidattr_bench.method import AttributionMethod, SignedMethod, Wrapper, hook_tables
from vidattr_bench.model import VideoModel
from vidattr_bench.plan import all_methods

MethodCheck = Callable[[AttributionMethod, VideoModel], None]
SIZES = ((6, 20, 28), (9, 28, 20), (4, 23, 33))


def every_spec() -> list[str]:
    """All that `--methods all` runs, and the defaults of methods that run by name alone."""
    named = [name for name in plugins.available("methods") if not plugins.load("methods", name).variants]
    return [*all_methods(), *named]


def quickly(text: str) -> AttributionMethod:
    """The method that a spec names, with the options that make it cheap enough to check."""
    given = spec.parse(text)
    cls = plugins.load("methods", given.name)
    quick = spec.parse(f"{given.name}:{cls.quick}".rstrip(":"))
    method: AttributionMethod = plugins.configure(cls, spec.Spec(given.name, {**given.options, **quick.options}))
    return method


def suited_model(method: AttributionMethod) -> VideoModel:
    """The first small network that a method applies to; raises `NotApplicableError` with the reasons of all."""
    reasons = []
    for model in (small_model(), *map(as_model, NETWORKS.values())):
        try:
            explain(method, model, small_batch(1))
        except NotApplicableError as reason:
            reasons.append(str(reason))
        else:
            return model
    raise NotApplicableError(
        f"{type(method).__name__} applies to no small network: {'; '.join(dict.fromkeys(reasons))}"
    )


def documented(method: AttributionMethod, model: VideoModel) -> None:
    """A frozen dataclass whose docstring says what the map is; it names its family and, if informed, its source."""
    cls = type(method)
    assert_documented(cls)
    assert hash(method) == hash(copy.copy(method)), f"{cls.__name__} must be a frozen dataclass with hashable fields"
    assert method.reference or not method.informed, f"{cls.__name__}.reference must name the paper (arXiv or DOI)"
    assert method.family in METHOD_FAMILIES, f"{cls.__name__}.family must be one of {', '.join(METHOD_FAMILIES)}"


def assert_documented(cls: type[Any]) -> None:
    """The class says what it is, and every annotated attribute is a field or a ClassVar."""
    first = inspect.cleandoc(cls.__doc__ or "").split("\n")[0]
    written = len(first) > 20 and not first.startswith(f"{cls.__name__}(")
    assert written, f"the docstring of {cls.__name__} must say what it is"
    fields = {field.name for field in dataclasses.fields(cls)}
    annotated = {name for name, type_ in inspect.get_annotations(cls).items() if "ClassVar" not in str(type_)}
    assert annotated <= fields, f"decorate {cls.__name__} with @dataclasses.dataclass: {annotated - fields} is no field"


def maps_have_the_clips_shape(method: AttributionMethod, model: VideoModel) -> None:
    """Clips (N, C, T, H, W) of any size give finite float32 relevance (N, T, H, W) on the clips' device."""
    for size in SIZES:
        batch = small_batch(2, size)
        relevance = explain(method, model, batch)
        assert relevance.shape == (2, *size), (
            f"clips of {size} must give relevance {(2, *size)}, not {tuple(relevance.shape)}"
        )
        assert relevance.dtype == torch.float32, f"relevance must be float32, not {relevance.dtype}"
        assert relevance.isfinite().all(), "relevance must be finite"
        assert relevance.device == batch.frames.device, "relevance must stay on the device of the frames"
        assert not relevance.requires_grad, "relevance must not require gradients"


def input_is_not_modified(method: AttributionMethod, model: VideoModel) -> None:
    """Frames, targets and tubes are as they were."""
    batch, original = small_batch(2), small_batch(2)
    explain(method, model, batch)
    for name in ("frames", "labels", "tubes"):
        assert torch.equal(getattr(batch, name), getattr(original, name)), f"{name} must not be modified"
    assert not batch.frames.requires_grad, "frames must not be left requiring gradients"


def nothing_stays_behind(method: AttributionMethod, model: VideoModel) -> None:
    """No hook, gradient, changed flag, mode, module or weight, and the global random state as it was."""
    before = state_of(model)
    explain(method, model, small_batch(2))
    assert_unchanged(before, model, "after a call")


def nothing_stays_behind_after_an_error(method: AttributionMethod, model: VideoModel) -> None:
    """The same when a module fails going forward, when one fails going backward, and when the target does not exist."""
    batch = small_batch(2)
    no_such_class = dataclasses.replace(batch, labels=torch.full((2,), 10**6))
    for failure, given, failing in [
        ("a module fails in the forward pass", batch, _failing(model, _fail_forward)),
        ("a module fails in the backward pass", batch, _failing(model, _fail_backward)),
        ("the target does not exist", no_such_class, model),
    ]:
        before = state_of(failing)
        try:
            explain(method, failing, given)
        except Exception as error:
            failure += f" ({error!r})"
        assert_unchanged(before, failing, f"after {failure}")


def _failing(model: VideoModel, hook: Callable[..., None]) -> VideoModel:
    model = copy.deepcopy(model)
    leaves = [module for module in model.net.modules() if not list(module.children())]
    leaves[-1].register_forward_hook(hook)
    return model


def _fail_forward(module: nn.Module, args: Any, output: Tensor) -> None:
    raise RuntimeError("this module fails")


def _fail_backward(module: nn.Module, args: Any, output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(lambda gradient: _fail_forward(module, args, gradient))  # type: ignore[no-untyped-call]


def state_of(model: VideoModel) -> dict[str, Any]:
    """All that an explanation could leave behind on a model, or in the process."""
    modules = dict(model.named_modules())
    plain = (bool, int, float, str, tuple, type(None))
    return {
        "hooks": {name: [list(table.items()) for table in hook_tables(m)] for name, m in modules.items()},
        "attributes": {name: {k: v for k, v in vars(m).items() if isinstance(v, plain)} for name, m in modules.items()},
        "modules": modules,
        "gradients": [(parameter.requires_grad, id(parameter.grad)) for parameter in model.parameters()],
        "weights": model.weights_hash(),
        "random state": torch.get_rng_state().tolist(),
        "gradient mode": torch.is_grad_enabled(),
    }


def assert_unchanged(before: dict[str, Any], model: VideoModel, when: str) -> None:
    """Raise `AssertionError` where the state of a model is not as `state_of` found it; `when` ends the message."""
    after = state_of(model)
    for what in before:
        assert before[what] == after[what], f"{what} of the model must be as before {when}"


def draws_depend_on_seeds_alone(method: AttributionMethod, model: VideoModel) -> None:
    """The same call gives the same relevance; a stochastic method's draws change with its seeds."""
    batch = small_batch(2)
    first = explain(method, model, batch)
    assert torch.equal(first, explain(method, model, batch)), "the same call must give the same relevance"
    if method.stochastic:
        other = explain(method, model, batch, seed=1)
        assert not torch.equal(first, other), "a stochastic method must draw from its seeds"


def neighbours_do_not_matter(method: AttributionMethod, model: VideoModel) -> None:
    """A clip's relevance is the same alone and in any batch."""
    batch = small_batch(3)
    together = explain(method, model, batch)
    for i in range(3):
        alone = explain(method, model, batch.select([i]))[0]
        assert _close(alone, together[i]), "a clip alone must get the relevance that it gets in a batch"


def callers_mode_does_not_matter(method: AttributionMethod, model: VideoModel) -> None:
    """The relevance is the same under `torch.inference_mode()` and `torch.no_grad()`."""
    expected = explain(method, model, small_batch(2))
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            found = explain(method, model, small_batch(2))
        assert _close(found, expected), f"the relevance must not change under torch.{mode.__name__}"


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-5 * float(b.abs().max()))


def costs_what_it_declares(method: AttributionMethod, model: VideoModel) -> None:
    """`cost()` is what the model counts, forwards and backwards a clip; a control never calls the model."""
    before = copy.copy(model.calls)
    explain_at_declared_cost(method, model, small_batch(2))
    assert method.informed or model.calls == before, "a method with informed = False must not call the model"


def explain_at_declared_cost(method: AttributionMethod, model: VideoModel, batch: Batch) -> Tensor:
    """The relevance of a batch; raises `AssertionError` unless the model counts what `cost()` declares."""
    costs = [method.cost(model, clip) for clip in batch.frames]
    declared = (sum(forwards for forwards, _ in costs), sum(backwards for _, backwards in costs))
    before = copy.copy(model.calls)
    relevance = explain(method, model, batch)
    counted = (model.calls.forwards - before.forwards, model.calls.backwards - before.backwards)
    assert counted == declared, f"cost() declares {declared} forwards and backwards; the model counted {counted}"
    return relevance


def sign_is_declared(method: AttributionMethod, model: VideoModel) -> None:
    """Only a `SignedMethod` gives negative relevance, and `sign=absolute` gives the absolute value of that."""
    relevance = explain(method, model, small_batch(2))
    if not method.signed:
        assert relevance.min() >= 0, "relevance is negative: declare signed = True, on a SignedMethod"
        return
    assert isinstance(method, (SignedMethod, Wrapper)), "a method with signed = True must be a SignedMethod"
    if isinstance(method, SignedMethod):
        absolute = explain(dataclasses.replace(method, sign="absolute"), model, small_batch(2))
        signed = explain(dataclasses.replace(method, sign="signed"), model, small_batch(2))
        assert _close(absolute, signed.abs()), "sign=absolute must give the absolute value of the signed relevance"


def survives_its_spec(method: AttributionMethod, model: VideoModel) -> None:
    """The row label and the full spec lead back to an equal method."""
    for text in (plugins.label("methods", method), plugins.full_spec("methods", method)):
        again = plugins.configure(type(method), spec.parse(text))
        assert again == method, f"{text!r} must lead back to {method}, not to {again}"


def can_be_pickled(method: AttributionMethod, model: VideoModel) -> None:
    """Worker processes get an equal copy."""
    assert pickle.loads(pickle.dumps(method)) == method, "a pickled method must come back equal"  # noqa: S301


def refuses_models_that_lack_what_it_requires(method: AttributionMethod, model: VideoModel) -> None:
    """Where the model lacks something in `requires`, the answer is `NotApplicableError`, never another map."""
    for requirement in method.requires:
        reason = _refusal(method, model_without(requirement))
        assert reason, f"a model without {requirement} must raise NotApplicableError that says why"


def _refusal(method: AttributionMethod, model: VideoModel) -> str:
    try:
        explain(method, model, small_batch(2))
    except NotApplicableError as reason:
        return str(reason)
    return ""


METHOD_CHECKS: tuple[MethodCheck, ...] = (
    documented,
    maps_have_the_clips_shape,
    input_is_not_modified,
    nothing_stays_behind,
    nothing_stays_behind_after_an_error,
    draws_depend_on_seeds_alone,
    neighbours_do_not_matter,
    callers_mode_does_not_matter,
    costs_what_it_declares,
    sign_is_declared,
    survives_its_spec,
    can_be_pickled,
    refuses_models_that_lack_what_it_requires,
)
