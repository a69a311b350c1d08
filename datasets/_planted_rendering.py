"""Scenes of planted actions and their pixels.

A scene is measured in heights of the frame and in lengths of the clip, so it can be rendered at any size. Time runs
through tau in (-1/2, 1/2), and every course over it is odd: a scene run backwards is a scene of the opposite class.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor


class Motion(NamedTuple):
    """How far an actor goes while tau runs from -1/2 to 1/2.

    Attributes:
        right: heights of the frame.
        down: heights of the frame.
        turn: radians, clockwise on the screen.
        growth: natural logarithm of the last size over the first.
        flash: brightness added first and taken away afterwards, on the scale of pixels.
    """

    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0
    growth: float = 0.0
    flash: float = 0.0

    def times(self, factor: float) -> Motion:
        """The same motion, `factor` times as far; -1 is the opposite motion."""
        return Motion(*(factor * extent for extent in self))


class Pose(NamedTuple):
    """Where a texture lies in each of n frames, every field (n,): heights, radians, heights and added brightness."""

    x: Tensor
    y: Tensor
    angle: Tensor
    size: Tensor
    light: Tensor


@dataclasses.dataclass(frozen=True)
class Texture:
    """A sum of plane waves around a colour, in units of the size of what it covers.

    Attributes:
        colour: (C,), in [0, 1].
        waves: (M, 2), cycles along its own x and y.
        coefficients: complex (C, M).
    """

    colour: Tensor
    waves: Tensor
    coefficients: Tensor

    def paint(self, pose: Pose, height: int, width: int) -> Tensor:
        """Colours (C, n, H, W) of the texture laid out at `pose` over whole frames, as waves in y times waves in x."""
        ys, xs = _pixel_centres(height, width)
        cos, sin, size = pose.angle.cos()[:, None], pose.angle.sin()[:, None], pose.size[:, None]
        fx, fy = self.waves.unbind(1)
        across = _wave((cos * fx - sin * fy) / size, xs - pose.x[:, None])
        along = _wave((sin * fx + cos * fy) / size, ys - pose.y[:, None])
        left = torch.view_as_real(self.coefficients[:, None, None] * along.transpose(1, 2)).movedim(-1, 0)
        left = torch.cat([left[0], -left[1]], -1)
        right = torch.cat([across.real, across.imag], 1)
        return left @ right + self.colour[:, None, None, None] + pose.light[:, None, None]


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A textured superellipse that is there for a span of the clip, at rest or moving.

    Attributes:
        x, y: centre of its path, heights.
        angle: radians, at the middle of its span.
        size: longer half axis at the middle of its span, heights.
        aspect: shorter half axis over the longer.
        exponent: of the superellipse: 1 is a diamond, 2 an ellipse, 8 nearly a rectangle.
        duration: share of the clip's frames on which it is there.
        place: where these lie among the possible positions, 0 first, 1 last.
        motion: how far it goes, once, or back and forth.
        cycles: how often it goes back and forth; 0: it goes once, in one direction.
        phase: radians, where in the cycle it is at the middle of its span.
    """

    texture: Texture
    x: float
    y: float
    angle: float
    size: float
    aspect: float
    exponent: float
    duration: float
    place: float
    motion: Motion
    cycles: float = 0.0
    phase: float = 0.0

    def span(self, length: int) -> range:
        """The frames, of `length`, on which it is there."""
        frames = min(max(round(self.duration * length), 1), length)
        free = length - frames + 1
        start = min(int(self.place * free), free - 1)
        return range(start, start + frames)

    def pose(self, length: int) -> Pose:
        """Its pose on each frame of its span."""
        tau = _tau(len(self.span(length)))
        if self.cycles:
            course = flash = torch.sin(2 * math.pi * self.cycles * tau + self.phase) / 2
        else:
            course, flash = tau, -torch.sin(2 * math.pi * tau)
        return Pose(
            x=self.x + self.motion.right * course,
            y=self.y + self.motion.down * course,
            angle=self.angle + self.motion.turn * course,
            size=self.size * torch.exp(self.motion.growth * course),
            light=self.motion.flash * flash,
        )

    def opacity(self, pose: Pose, height: int, width: int) -> Tensor:
        """(n, H, W) in [0, 1]; only the rim, one pixel wide, lies in between."""
        ys, xs = _pixel_centres(height, width)
        cos, sin, size = (field[:, None, None] for field in (pose.angle.cos(), pose.angle.sin(), pose.size))
        dx = xs - pose.x[:, None, None]
        dy = ys[:, None] - pose.y[:, None, None]
        u = (cos * dx + sin * dy) / size
        v = (cos * dy - sin * dx) / (size * self.aspect)
        radius = (u.abs() ** self.exponent + v.abs() ** self.exponent) ** (1 / self.exponent)
        return (0.5 + (1 - radius) * size * self.aspect * height).clamp(0, 1)

    def boxes(self, length: int, height: int, width: int) -> Tensor:
        """(n, 4): the tightest x0, y0, x1, y1, half-open, round the pixels it touches on each frame of its span."""
        touched = self.opacity(self.pose(length), height, width) > 0
        return torch.cat([_extent(touched.any(1)), _extent(touched.any(2))], 1)[:, [0, 2, 1, 3]].float()

    def backwards(self) -> Sprite:
        """The same sprite with time reversed."""
        return dataclasses.replace(self, motion=self.motion.times(-1), phase=-self.phase, place=1 - self.place)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drifting textured background, distractors on it, and over them the actor.

    Attributes:
        background: what fills the frame.
        drift: how far it drifts in the clip, to the right and down, heights.
        distractors: sprites that stay or go back and forth.
        actor: the sprite whose motion is the class; None where it was removed.
    """

    background: Texture
    drift: tuple[float, float]
    distractors: tuple[Sprite, ...]
    actor: Sprite | None

    def render(self, length: int, height: int, width: int) -> Tensor:
        """Frames (C, T, H, W) float32 in [0, 1]."""
        tau = _tau(length)
        still = torch.zeros(length)
        pose = Pose(self.drift[0] * tau, self.drift[1] * tau, still, still + 1, still)
        frames = self.background.paint(pose, height, width)
        for sprite in (*self.distractors, *([self.actor] if self.actor else [])):
            span = sprite.span(length)
            seen = frames[:, span.start : span.stop]
            pose = sprite.pose(length)
            seen += sprite.opacity(pose, height, width) * (sprite.texture.paint(pose, height, width) - seen)
        return frames.clamp(0, 1)

    def without_actor(self) -> Scene:
        """The same scene, nobody acting in it."""
        return dataclasses.replace(self, actor=None)

    def without_distractor(self, index: int) -> Scene:
        """The same scene, one distractor taken away."""
        kept = self.distractors[:index] + self.distractors[index + 1 :]
        return dataclasses.replace(self, distractors=kept)

    def backwards(self) -> Scene:
        """The scene whose frames are these in reversed order."""
        return Scene(
            background=self.background,
            drift=(-self.drift[0], -self.drift[1]),
            distractors=tuple(sprite.backwards() for sprite in self.distractors),
            actor=self.actor and self.actor.backwards(),
        )


def draw_scene(generator: Generator, motion: Motion, aspect: float) -> Scene:
    """A scene in which the actor performs `motion`; all else is drawn alike whatever the motion.

    Args:
        generator: source of every draw.
        motion: of the class; the actor goes .8 to 1.2 times as far.
        aspect: width of the frame over its height.
    """
    background = _draw_texture(generator, modes=24, frequencies=(0.5, 5.0), contrast=0.25)
    drift = (_uniform(generator, -0.15, 0.15), _uniform(generator, -0.15, 0.15))
    actor = _draw_sprite(generator, aspect, motion.times(_uniform(generator, 0.8, 1.2)))
    return Scene(background, drift, _draw_distractors(generator, aspect), actor)


# What a moving distractor does back and forth: at its fastest it is about as fast as an actor.
_SWAYS = (Motion(right=0.1), Motion(down=0.1), Motion(turn=0.5), Motion(growth=0.18), Motion(flash=0.4))


def _draw_distractors(generator: Generator, aspect: float) -> tuple[Sprite, ...]:
    """Two at rest and two that go back and forth."""
    resting = [_draw_sprite(generator, aspect, Motion()) for _ in range(2)]
    chosen = torch.randint(len(_SWAYS), (2,), generator=generator).tolist()
    moving = [
        dataclasses.replace(
            _draw_sprite(generator, aspect, _SWAYS[sway].times(_uniform(generator, 0.8, 1.2))),
            cycles=_uniform(generator, 1.5, 2.5),
            phase=_uniform(generator, -math.pi, math.pi),
        )
        for sway in chosen
    ]
    return (*resting, *moving)


def _draw_sprite(generator: Generator, aspect: float, motion: Motion) -> Sprite:
    """A sprite placed uniformly, but that its centre stays .03 heights inside the frame all the way."""
    rim, reach_x, reach_y = 0.03, abs(motion.right) / 2, abs(motion.down) / 2
    exponent = (1.0, 2.0, 8.0)[int(torch.randint(3, (), generator=generator))]
    return Sprite(
        texture=_draw_texture(generator, modes=6, frequencies=(0.3, 0.8), contrast=0.4),
        x=_uniform(generator, rim + reach_x, aspect - rim - reach_x),
        y=_uniform(generator, rim + reach_y, 1 - rim - reach_y),
        angle=_uniform(generator, -math.pi, math.pi),
        size=_uniform(generator, 0.17, 0.24),
        aspect=_uniform(generator, 0.6, 0.85),
        exponent=exponent,
        duration=_uniform(generator, 0.5, 0.75),
        place=_uniform(generator, 0.0, 1.0),
        motion=motion,
    )


def _draw_texture(generator: Generator, modes: int, frequencies: tuple[float, float], contrast: float) -> Texture:
    """Waves of random direction, colour and phase; slow ones are stronger, as in natural images."""
    low, high = frequencies
    frequency = low + (high - low) * torch.rand(modes, generator=generator)
    direction, phase = 2 * math.pi * torch.rand(2, modes, generator=generator)
    # A shared brightness and a little colour of its own in every wave.
    amplitude = 1 + 0.5 * torch.randn(3, modes, generator=generator)
    amplitude = amplitude * contrast * (low / frequency) ** 0.5 / math.sqrt(modes)
    return Texture(
        colour=0.25 + 0.5 * torch.rand(3, generator=generator),
        waves=torch.stack([frequency * direction.cos(), frequency * direction.sin()], 1),
        coefficients=torch.polar(torch.ones(modes), phase) * amplitude,
    )


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _tau(frames: int) -> Tensor:
    """(frames,): the middles of equal parts of (-1/2, 1/2), exactly odd about the middle of the span."""
    return (2 * torch.arange(frames) + 1 - frames) / (2 * frames)


def _pixel_centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Y (H,) and x (W,) of the pixel centres, in heights."""
    return (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / height


def _wave(frequency: Tensor, position: Tensor) -> Tensor:
    """Complex (n, M, positions): exp(2 pi i f x) of frequencies (n, M) at positions (n, positions)."""
    turns = 2 * math.pi * frequency[:, :, None] * position[:, None]
    return torch.polar(torch.ones(()).expand_as(turns), turns)


def _extent(touched: Tensor) -> Tensor:
    """(n, 2): the first True of each row, and one past the last."""
    forward = touched.int().argmax(1)
    backward = touched.shape[1] - touched.flip(1).int().argmax(1)
    return torch.stack([forward, backward], 1)
