"""AttributionMethod: what files in methods/ implement, and the contract that holds for all of them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidattr_bench.model import VideoModel
from vidattr_bench.requirements import require

Sign = Literal["signed", "absolute"]


@dataclasses.dataclass(frozen=True)
class AttributionMethod(ABC):
    """A map from (model, clip, target) to relevance over space and time; parameters are the fields of a subclass.

    Class attributes a subclass declares:
        family: which of `vidattr_bench.families.METHOD_FAMILIES` it belongs to; tables group methods by it.
        reference: paper with arXiv number or DOI.
        informed: False for a control that never looks at the model.
        is_chance: True for the control that paired differences in tables are taken to.
        needs_truth: True for the oracle alone, whose `attribute` is handed the tubes.
        signed: whether relevance may be negative, its sign meaning evidence for or against; such a method is a
            `SignedMethod`, so that it can compete with unsigned ones.
        stochastic: whether `attribute` takes `seeds`.
        draws: independent draws a run makes of a stochastic method, shown as one row.
        variants: options of the specs that `--methods all` runs, "" for the defaults; an expensive method names a
            smaller budget here, which then shows in its row label; none for what runs by name alone.
        quick: options that make it cheap enough for the conformance checks, "" where it is.
        aliases: other names that resolve to this method.
        requires: what the model must have; names of `vidattr_bench.requirements`.
        interpolation: how a native map becomes (T, H, W): trilinear or nearest.
    """

    plugin_kind: ClassVar[str] = "methods"
    family: ClassVar[str] = "other"
    reference: ClassVar[str] = ""
    informed: ClassVar[bool] = True
    is_chance: ClassVar[bool] = False
    needs_truth: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    draws: ClassVar[int] = 1
    variants: ClassVar[tuple[str, ...]] = ("",)
    quick: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    interpolation: ClassVar[str] = "trilinear"

    @abstractmethod
    def attribute(self, model: VideoModel, frames: Tensor, targets: Tensor, *extra: Any) -> Tensor:
        """Relevance (N, t, h, w) at native resolution for frames (N, C, T, H, W) in [0, 1] and targets (N,).

        A stochastic method also takes `seeds`, one integer a clip, and draws from one CPU generator a clip; the oracle
        also takes the tubes, bool (N, T, H, W).
        """

    def promised_total(self, model: VideoModel, frames: Tensor, targets: Tensor) -> Tensor | None:
        """What the relevance of each clip adds up to in theory, (N,); None where the method promises nothing."""
        return None

    def promise_cost(self, model: VideoModel, clip: Tensor) -> int:
        """Forwards it takes to find `promised_total` of one clip (C, T, H, W) in [0, 1]."""
        return 0

    def illustrate(self, model: VideoModel, frames: Tensor, targets: Tensor, stem: Path) -> list[Path]:
        """Write what else there is to see of one clip, frames (1, C, T, H, W), into files that `stem` begins.

        `python -m vidattr_bench sheet` asks for it; most methods have nothing but their map.
        """
        return []

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """Forwards and backwards it takes to explain one clip (C, T, H, W) in [0, 1], as the model counts them."""
        return (0, 0)

    def __call__(
        self,
        model: VideoModel,
        frames: Tensor,
        targets: Tensor,
        seeds: Sequence[int] | None = None,
        *,
        tubes: Tensor | None = None,
    ) -> Tensor:
        """Relevance, float32 (N, T, H, W), larger = more evidence for the target.

        Frames are cloned, gradients are on whatever mode the caller runs in, only the network itself follows the
        caller's autocast, and no hook, gradient or changed mode stays behind, even after an error.

        Raises:
            NotApplicableError: the model lacks what the method requires.
            ValueError: frames, targets or the map have the wrong shape, a stochastic method got no seeds, the oracle no
                tubes.
            FloatingPointError: the map is not finite.
        """
        if frames.ndim != 5 or targets.shape != frames.shape[:1]:
            shapes = f"{tuple(frames.shape)} and {tuple(targets.shape)}"
            raise ValueError(f"frames must be (N, C, T, H, W) and targets (N,); their shapes are {shapes}")
        with torch.inference_mode(False), torch.enable_grad(), _untouched(model), model.full_precision(frames.device):
            frames, targets = frames.detach().clone(), targets.to(frames.device, copy=True)
            for name in self.requires:
                require(name, model, frames)
            native = self.attribute(model, frames, targets, *self._extra(frames, seeds, tubes))
            relevance = self._final(self._resize(native.detach().float(), frames))
        finite = relevance.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            which = [i for i, ok in enumerate(finite.tolist()) if not ok]
            raise FloatingPointError(
                f"{type(self).__name__} gave NaN or infinite relevance for clips {which} of the batch"
            )
        return relevance

    def _extra(self, frames: Tensor, seeds: Sequence[int] | None, tubes: Tensor | None) -> tuple[Any, ...]:
        if self.needs_truth:
            if tubes is None:
                raise ValueError(f"{type(self).__name__} needs the tubes")
            return (tubes.to(frames.device, copy=True),)
        if not self.stochastic:
            return ()
        if seeds is None or len(seeds) != len(frames):
            raise ValueError(f"{type(self).__name__} is stochastic: give one seed a clip")
        return (list(seeds),)

    def _final(self, relevance: Tensor) -> Tensor:
        """What becomes of the relevance (N, T, H, W) at last."""
        return relevance

    def _resize(self, native: Tensor, frames: Tensor) -> Tensor:
        n, _, t, h, w = frames.shape
        if native.ndim != 4 or len(native) != n:
            found = tuple(native.shape)
            raise ValueError(f"{type(self).__name__}.attribute gave {found}; it must be (N, t, h, w) with N = {n}")
        if native.shape[1:] == (t, h, w):
            return native.clone()
        align = None if self.interpolation == "nearest" else False
        return F.interpolate(native[:, None], (t, h, w), mode=self.interpolation, align_corners=align)[:, 0]


@dataclasses.dataclass(frozen=True)
class SignedMethod(AttributionMethod):
    """Base of methods whose relevance may be negative: signed and unsigned maps meet in the order of removal.

    Attributes:
        sign: signed or absolute: relevance as it is, or its absolute value.
    """

    sign: Sign = "signed"

    def _final(self, relevance: Tensor) -> Tensor:
        return relevance.abs() if self.sign == "absolute" else relevance


@dataclasses.dataclass(frozen=True)
class Wrapper(AttributionMethod):
    """Base of methods made of another one, which a spec nests: `selective_relevance:of=(grad_cam:pool=frame)`.

    A wrapper gives `of` a default. It costs what the other one does, is of its family, and is stochastic, signed and
    informed as that is, but for what it declares itself.

    Attributes:
        of: the method whose relevance goes in.

    Raises:
        ValueError: the other one needs the tubes.
    """

    family: ClassVar[str] = ""

    of: AttributionMethod

    def __post_init__(self) -> None:
        if self.of.needs_truth:
            raise ValueError(f"{type(self.of).__name__} sees the truth and cannot be wrapped")
        for fact in ("family", "stochastic", "signed", "informed"):
            if fact not in vars(type(self)):
                object.__setattr__(self, fact, getattr(self.of, fact))

    def cost(self, model: VideoModel, clip: Tensor) -> tuple[int, int]:
        """What the other method costs."""
        return self.of.cost(model, clip)


@contextmanager
def _untouched(model: VideoModel) -> Iterator[None]:
    """Restore modes, requires_grad, gradients and hooks of every module, whatever happens inside."""
    modules = list(model.every_module())
    hooks = [(table, dict(table)) for module in modules for table in hook_tables(module)]
    modes = [(module, module.training) for module in modules]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for table, before in hooks:
            table.clear()
            table.update(before)
        for module, training in modes:
            module.training = training
        for parameter, requires_grad, grad in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def hook_tables(module: torch.nn.Module) -> list[dict[int, Any]]:
    """The tables in which torch keeps the hooks of a module."""
    forward = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
    before = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    return [getattr(module, name) for name in (*forward, *before, "_backward_hooks", "_backward_pre_hooks")]
