"""Contribution gradients under fp16: ours are loss-scaled, the published ones are not. Only underflow tells them apart.

A simulation on the CPU: a chain in low precision, as autocast makes it, below a loss in full precision. The scale is a
power of two, so that it moves exponents alone.
"""

import pytest
import torch
from torch import Tensor

SCALE = 65536.0  # where a GradScaler begins


def chain() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(64, 64, generator=generator) / 8).requires_grad_() for _ in range(6)]


def gradient(dtype: torch.dtype, loss_size: float, scale: float) -> Tensor:
    """The flat gradient in float32, of a loss that was multiplied by `scale`, divided by it again."""
    weights = chain()
    value = torch.randn(32, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    for weight in weights:
        value = torch.relu(value @ weight.to(dtype))
    loss = loss_size * (value.float() ** 2).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss * scale, weights)]) / scale


@pytest.mark.parametrize("loss_size", [64.0, 1e-3, 1e-6])
def test_where_nothing_underflows_scaled_and_unscaled_are_bit_equal(loss_size: float) -> None:
    """bfloat16 rounds more than half precision, over the range of float32."""
    plain, scaled = (gradient(torch.bfloat16, loss_size, scale) for scale in (1.0, SCALE))
    assert torch.equal(plain, scaled)
    assert (plain != 0).float().mean() > 0.4


def test_in_half_precision_small_gradients_vanish_unscaled() -> None:
    shares = []
    for loss_size in (64.0, 1.0, 1e-2, 1e-4, 1e-6):
        plain, scaled = (
            gradient(torch.half, loss_size, 1.0),
            gradient(torch.half, loss_size, min(SCALE, 64 / loss_size)),
        )
        assert scaled.isfinite().all()
        shares.append(float(((plain == 0) & (scaled != 0)).float().mean() / (scaled != 0).float().mean()))
        if loss_size >= 1:
            assert torch.cosine_similarity(plain, scaled, 0) > 0.9999
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert shares[-1] > 0.9
