"""The points that the optical flow carries along, and which of them move alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def follow(starts: Tensor, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Carry points along the flow until they leave the frame.

    The flow that a point meets is that of the nearest pixel. The authors of adaptive occlusion also go on from that
    pixel, so that steps of less than half a pixel get lost; here fractions of pixels add up.

    Args:
        starts: integers (M, 2), row and column in the first frame.
        flow: (T - 1, 2, H, W).

    Returns:
        Places (M, T, 2), integers, the nearest pixels; whether a point is still inside, bool (M, T); the flow it met,
        (M, 2 (T - 1)).
    """
    last = torch.tensor(flow.shape[2:]) - 1
    exact, places = starts.to(flow), [starts]
    inside, steps = [torch.ones(len(starts), dtype=torch.bool)], [flow.new_empty(len(starts), 0)]
    for field in flow:
        steps.append(field[:, places[-1][:, 0], places[-1][:, 1]].T)
        exact = exact + steps[-1]
        inside.append(inside[-1] & ((exact >= 0) & (exact <= last)).all(1))
        exact = exact.clamp_min(0).minimum(last)
        places.append(exact.round().long())
    return torch.stack(places, 1), torch.stack(inside, 1), torch.cat(steps, 1)


def similar_motion(motion: Tensor, n: int) -> Tensor:
    """Each of M points with the n others whose motion (M, D) has the largest cosine with its own, (M, 1 + n).

    Where fewer than n point the same way at all, the point itself stands in.
    """
    unit = F.normalize(motion, dim=1)
    cosine, others = (unit @ unit.T).fill_diagonal_(0).topk(min(n, len(motion)), 1)
    own = torch.arange(len(motion))[:, None]
    return torch.cat([own, torch.where(cosine > 0, others, own)], 1)
