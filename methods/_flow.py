"""Optical flow between the frames of a clip, and the points that it carries along."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from skimage.registration import optical_flow_tvl1
from torch import Tensor


def optical_flow(frames: Tensor, warps: int, iterations: int) -> Tensor:
    """Where each pixel of a frame moves to in the next one, (T - 1, 2, H, W) in rows and columns, on the CPU.

    TV-L1 (Zach et al. 2007, doi:10.1007/978-3-540-74936-3_22) of the frames' mean over the channels.

    Args:
        frames: (C, T, H, W) in [0, 1].
        warps: times that a frame is warped, at each scale of the pyramid.
        iterations: fixed-point steps after each warp.
    """
    grey = frames.mean(0).float().cpu().numpy()
    flow = np.zeros((len(grey) - 1, 2, *grey.shape[1:]), np.float32)
    for t in range(len(flow)):
        flow[t] = optical_flow_tvl1(grey[t], grey[t + 1], num_warp=warps, num_iter=iterations)  # type: ignore[no-untyped-call]
    return torch.from_numpy(flow)


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
