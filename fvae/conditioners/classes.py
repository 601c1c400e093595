"""Parameters that depend on a label: a mean for each class, and posteriors measured from it."""

import math

import torch
from torch import Tensor, nn

from fvae.conditioners.constant import Pair
from fvae.precision import without_autocast


class ClassMeans(nn.Module):
    """A trained mean for each label: (B,) labels, or (B, K) weights of labels, to (B, D) (Su, 2018).

    Weights are for interpolating between two labels. At the start any two means are about ``apart`` deviations from
    each other, whatever D: from means that are all alike training separates them too slowly.
    """

    weight_decay = False

    def __init__(self, classes: int, d: int, apart: float = 8.0):
        super().__init__()
        self.classes = classes
        self.mean = nn.Parameter(apart / math.sqrt(2 * d) * torch.randn(classes, d))

    def forward(self, y: Tensor | None) -> Tensor:
        if y is None:
            raise ValueError("y: expected labels (B,), found none: this model is conditioned on classes")
        with without_autocast(self.mean):
            return y.to(self.mean.dtype) @ self.mean if y.dim() == 2 else self.mean[y.long()]


class RelativeToClass(nn.Module):
    """A posterior whose mean is measured from that of the label: mean = mean_y + r(x), on the condition (x, y).

    A normalized mean alone doesn't bound the KL to a prior of classes; that of r does.
    """

    def __init__(self, conditioner: nn.Module, means: ClassMeans):
        super().__init__()
        self.conditioner, self.classes = conditioner, means.classes
        self.means = (means,)  # the prior's: not ours to count

    def forward(self, cond) -> Pair:
        x, y = cond
        mean, log_std = self.conditioner(x)
        return mean + self.means[0](y), log_std


def relative_to_class(conditioner: nn.Module, means: ClassMeans | None) -> nn.Module:
    """A conditioner whose mean is measured from that of the label, where the prior has means by label."""
    return conditioner if means is None else RelativeToClass(conditioner, means)
