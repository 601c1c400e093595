"""Networks of vectors: couplings, encoders and decoders of data without positions."""

from torch import nn

from fvae.networks.residual import Residual, zeroed


def coupling_mlp(d_in: int, d_out: int, width: int, hidden: int = 2) -> nn.Sequential:
    """``hidden`` layers of ``width`` with ReLUs, the last map at zero: (B, d_in) -> (B, d_out)."""
    layers: list[nn.Module] = []
    for a in [d_in, *[width] * (hidden - 1)]:
        layers += [nn.Linear(a, width), nn.ReLU()]
    return nn.Sequential(*layers, zeroed(nn.Linear(width, d_out)))


def residual(d: int, hidden: int) -> Residual:
    """x + linear(ReLU(LayerNorm(linear(x)))), the last at zero: (B, D) to itself."""
    return Residual(nn.Linear(d, hidden, bias=False), nn.LayerNorm(hidden), nn.ReLU(), zeroed(nn.Linear(hidden, d)))


def residual_mlps(d: int, hidden: int, blocks: int) -> nn.Sequential:
    """``blocks`` residual steps: (B, D) to itself."""
    return nn.Sequential(*(residual(d, hidden) for _ in range(blocks)))


def mlp(d_in: int, d_out: int, width: int, blocks: int) -> nn.Sequential:
    """A linear map to ``width``, residual steps, ReLU and a linear map: (B, d_in) -> (B, d_out)."""
    steps = residual_mlps(width, width, blocks)
    return nn.Sequential(nn.Linear(d_in, width), *steps, nn.ReLU(), nn.Linear(width, d_out))
