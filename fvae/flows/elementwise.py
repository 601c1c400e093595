"""Elementwise flows: a transform whose parameters a conditioner computes, and what is made of it alone."""

from typing import Any

import torch
from torch import Tensor, nn

from fvae.conditioners import ClassMeans, Constant
from fvae.conditioners.base import parameters_of
from fvae.density import total
from fvae.flows.base import Chain, Flow, Inverse
from fvae.transforms import Additive, Affine, Transform


class Elementwise(Flow):
    """z = T(x; parameters(cond)), element by element.

    With ``Affine`` it is a VAE's Gaussian posterior, as a flow of its noise u (Kingma & Welling, 2014), and its inverse
    a Gaussian prior, as the flow that takes z to N(0, I). ``conditioner(cond)`` returns the parameters, or one tensor
    (B, P C, *) that is split into them and constrained.
    """

    def __init__(self, conditioner: nn.Module, transform: Transform | None = None):
        super().__init__()
        self.conditioner, self.transform = conditioner, Affine(bound=6.0) if transform is None else transform

    def parameters_for(self, cond: Any = None) -> tuple[Tensor, ...]:
        return parameters_of(self.conditioner, self.transform, cond)

    def forward(self, x, cond=None):
        z, log_derivative = self.transform(x, *self.parameters_for(cond))
        return z, total(log_derivative.expand_as(z))

    def inverse_and_log_det(self, z, cond=None):
        x, log_derivative = self.transform.inverse(z, *self.parameters_for(cond))
        return x, total(log_derivative.expand_as(x))

    @property
    def translation(self) -> bool:
        return self.transform.translation

    def gaussian(self, cond=None):
        return self.transform.gaussian(*self.parameters_for(cond))


class ActNorm(Inverse):
    """z = (x - mean) / std by channel, trained; set from a first batch by ``fit`` (Kingma & Dhariwal, 2018).

    Shapes: (B, C, *) to (B, C, *). Forward never looks at statistics: ``fvae.initialize`` is the one pass that does, so
    that a model that was loaded, or is being evaluated, can't re-initialize itself. With ``trained`` false it stays the
    identity, for comparisons.
    """

    least = 1e-3

    def __init__(self, shape: tuple[int, ...], trained: bool = True):
        super().__init__(Elementwise(Constant(shape, trained)))
        self.trained = trained

    @property
    def constant(self) -> Constant:
        return self.flow.conditioner

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation of ``x`` by channel; a constant channel's is floored at 1e-3, not 0."""
        if self.trained:
            a = x.transpose(0, 1).flatten(1)
            self.constant.set(a.mean(1), a.std(1, correction=0).clamp(min=self.least).log())


class Standardize(ActNorm):
    """z = (x - mean) / std by dimension, of all data, not trained: columns of any units come to one scale.

    Shapes: (B, D) to itself. Its log-determinant is counted, so that densities are those of the data as they came.
    """

    def __init__(self, d: int):
        super().__init__((d,), trained=False)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation of ``x`` by dimension; one that is constant there keeps its scale."""
        std, mean = torch.std_mean(x.cpu().double(), 0, correction=0)
        self.constant.set(mean, torch.where(std > 0, std, 1.0).log())


def scaling(shape: tuple[int, ...]) -> Flow:
    """z = (x - mean) / std by channel, trained from the identity: the end of a flow."""
    return Inverse(Elementwise(Constant(shape)))


def with_classes(flow: Flow, means: ClassMeans | None) -> Flow:
    """The prior of a flow whose codes (B, d) have a mean for each label; without means, as it is (Su, 2018)."""
    return flow if means is None else Chain(flow, Inverse(Elementwise(means, Additive())))
