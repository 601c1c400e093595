"""Networks of vectors: what couplings, encoders and decoders are made of where data has no places."""

from torch import Tensor, nn


def zero_linear(d_in: int, d_out: int) -> nn.Linear:
    """A linear map that starts at zero, so that what it feeds starts as the identity."""
    linear = nn.Linear(d_in, d_out)
    for p in linear.parameters():
        nn.init.zeros_(p)
    return linear


def coupling_mlp(d_in: int, d_out: int, width: int, hidden: int = 2) -> nn.Sequential:
    """``hidden`` layers of ``width`` with ReLUs, the last map at zero: (B, d_in) -> (B, d_out)."""
    layers: list[nn.Module] = []
    for a in [d_in, *[width] * (hidden - 1)]:
        layers += [nn.Linear(a, width), nn.ReLU()]
    return nn.Sequential(*layers, zero_linear(width, d_out))


class ResidualMLP(nn.Module):
    """x + linear(ReLU(LayerNorm(linear(x)))), the last at zero: (B, D) to itself."""

    def __init__(self, d: int, hidden: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(d, hidden, bias=False), nn.LayerNorm(hidden), nn.ReLU(), zero_linear(hidden, d)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def residual_mlps(d: int, hidden: int, blocks: int) -> nn.Sequential:
    """``blocks`` residual steps: (B, D) to itself."""
    return nn.Sequential(*(ResidualMLP(d, hidden) for _ in range(blocks)))


def mlp(d_in: int, d_out: int, width: int, blocks: int) -> nn.Sequential:
    """A linear map to ``width``, residual steps, ReLU and a linear map: (B, d_in) -> (B, d_out)."""
    steps = residual_mlps(width, width, blocks)
    return nn.Sequential(nn.Linear(d_in, width), *steps, nn.ReLU(), nn.Linear(width, d_out))
