"""What is particular to the perceptron: it sees all values at once, of one size of picture."""

import pytest
import torch
from torch import nn

from unblot.errors import UnblotError
from unblot.nn.mlp import MLP


def test_every_output_depends_on_every_input():
    torch.manual_seed(0)
    net = MLP(2, 3, (2, 4), 0, width=64, depth=1).eval()
    nn.init.normal_(net.leave.weight)
    x = torch.randn(1, 2, 2, 4)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, torch.zeros(1), None), x)
    assert jacobian.shape == (1, 3, 2, 4, 1, 2, 2, 4)
    assert (jacobian.abs() > 1e-6).all()


@pytest.mark.parametrize("shape", [(2, 3, 2), (1, 2, 2), (2, 4, 1)])
def test_a_picture_of_another_size_is_refused(shape):
    net = MLP(2, 2, (2, 2), 0)
    with pytest.raises(UnblotError, match=r"\(2, 2, 2\).*unet"):
        net(torch.zeros(1, *shape), torch.zeros(1), None)
