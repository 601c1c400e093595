"""The Bernoulli decoder of binary images."""

import torch
import torch.nn.functional as F
from torch import nn

from fvae.density import total
from fvae.precision import widen


class Bernoulli(nn.Module):
    """log p(x|z) = sum [ x log p + (1 - x) log(1 - p) ], p = sigmoid(net(z)), of images in 2 bins, 0 and 1.

    ``net(z)`` gives the logits (B, *shape) (Kingma & Welling, 2014).
    """

    likelihood = "a probability of bins"

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x, z):
        logits = widen(self.net(z))
        return -total(F.binary_cross_entropy_with_logits(logits, x.to(logits.dtype), reduction="none"))

    def mean(self, z):
        """p, which is between the bins."""
        return widen(self.net(z)).sigmoid()

    def draw(self, z, noise):
        """1 where Phi(noise) < p: black and white pixels, the likelier one at a noise of 0."""
        return (torch.special.ndtr(noise) < self.mean(z)).to(noise.dtype)

    def start(self, x):
        """The logit of the mean of images (B, C, H, W), by channel, which their generator begins with."""
        return torch.logit(x.float().mean((0, 2, 3), keepdim=True), eps=0.01)
