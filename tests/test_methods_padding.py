"""Zeros that a network puts around its activations by `F.pad` are to every method as those that a convolution adds."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidattr_bench.errors import NotApplicableError
from vidattr_bench.fixtures import CLASSES, as_model, explain, small_batch
from vidattr_bench.method_checks import quickly

METHODS = [
    "excitation_backprop:layer=relu1",
    "lrp",
    "lrp:composite=epsilon_alpha2_beta1",
    "deep_lift",
    "full_grad",
    "grad_cam",
]


class Padded(nn.Module):
    """Two convolutions, the second padded by itself, by a function, or by a function that does not pad with zeros."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by
        self.conv1, self.relu1 = nn.Conv3d(3, 4, 3, (1, 2, 2)), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv3d(4, 6, 3, 1, 1 if by == "itself" else 0), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool3d(1), nn.Linear(6, len(CLASSES))

    def forward(self, x):
        x = self.relu1(self.conv1(x))
        if self.by == "zeros":
            x = F.pad(x, [1, x.shape[3] - x.shape[3] + 1, 1, 1, 1, 1])
        elif self.by == "ones":
            x = F.pad(x, (1,) * 6, value=1.0)
        return self.head(self.pool(self.relu2(self.conv2(x))).flatten(1))


@pytest.mark.parametrize("text", METHODS)
def test_zeros_by_a_function_are_zeros_by_the_convolution(text):
    method, batch = quickly(text), small_batch(2)
    expected, found = (explain(method, as_model(lambda by=by: Padded(by)), batch) for by in ("itself", "zeros"))
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 0


@pytest.mark.parametrize("text", ["excitation_backprop:layer=relu1", "lrp"])
def test_other_padding_has_no_rule(text):
    with pytest.raises(NotApplicableError, match="no rule for the function pad"):
        explain(quickly(text), as_model(lambda: Padded("ones")), small_batch(1))
