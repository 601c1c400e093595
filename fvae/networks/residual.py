"""Residual connections, and the layers that start at zero, so that what they feed starts as the identity."""

from typing import TypeVar

from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


def zeroed(layer: Layer) -> Layer:
    """The layer with all of its weights at zero."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class Residual(nn.Module):
    """x + body(x), where the body is a sequence of layers."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
