"""Elementwise transforms: invertible maps of single numbers, z = T(x; parameters).

Every flow layer is one of these; layers differ in who computes the parameters (a conditioner) and from what. A
transform has no weights and knows no network. To write one, subclass ``Transform`` and define ``parameters``,
``__call__`` and ``inverse``; ``constrain`` where a network's outputs need bounds.
"""

import torch
from torch import Tensor


class Transform:
    """The contract of an elementwise transform.

    ``transform(x, *parameters) -> (z, log|dz/dx|)`` and ``transform.inverse(z, *parameters) -> (x, log|dx/dz|)``, where
    each parameter, and each log-derivative, is broadcastable to x.
    """

    parameters: int
    """How many parameters an element has."""

    translation = False
    """Whether z - x depends on the parameters alone, so that the log-derivative is 0."""

    def __call__(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, z: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        """Unbounded numbers, as a network gives them, to parameters."""
        return raw

    def gaussian(self, *parameters: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and log standard deviation of z for x ~ N(0, 1), or None where z is not Gaussian."""
        return None


class Affine(Transform):
    """z = shift + exp(log_scale) x.

    With ``bound``, log_scale = bound tanh(s / bound) of a network's output s: a bounded log keeps both directions
    finite (an unbounded exp(s) is the usual NaN). Source: Dinh et al. (2017).

    >>> import torch
    >>> z, log_derivative = Affine()(torch.tensor([1.0, 2.0]), torch.tensor(3.0), torch.tensor(0.0))
    >>> z
    tensor([4., 5.])
    """

    parameters = 2

    def __init__(self, bound: float | None = None):
        self.bound = bound

    def __call__(self, x, *parameters):
        shift, log_scale = parameters
        return shift + x * torch.exp(log_scale), log_scale

    def inverse(self, z, *parameters):
        shift, log_scale = parameters
        return (z - shift) * torch.exp(-log_scale), -log_scale

    def constrain(self, *raw):
        shift, s = raw
        return shift, s if self.bound is None else self.bound * torch.tanh(s / self.bound)

    def gaussian(self, *parameters):
        shift, log_scale = parameters
        return shift, log_scale


class Additive(Transform):
    """z = x + shift: log-derivative 0 (Dinh et al., 2015).

    >>> import torch
    >>> Additive()(torch.tensor([1.0, 2.0]), torch.tensor(3.0))
    (tensor([4., 5.]), tensor(0.))
    """

    parameters = 1
    translation = True

    def __call__(self, x, *parameters):
        (shift,) = parameters
        return x + shift, zero(x)

    def inverse(self, z, *parameters):
        (shift,) = parameters
        return z - shift, zero(z)

    def gaussian(self, *parameters):
        (shift,) = parameters
        return shift, zero(shift)


def zero(x: Tensor) -> Tensor:
    """A log-derivative of 0, float32 or wider."""
    return torch.zeros((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
