"""Elementwise transforms: invertible maps of single numbers, z = T(x; parameters).

Every flow layer is one of these; layers differ in who computes the parameters (a conditioner) and from what. A
transform has no weights and knows no network. To write one, subclass ``Transform`` and define ``parameters``,
``__call__`` and ``inverse``; ``constrain`` where a network's outputs need bounds.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NEWTON_STEPS = 40  # of an inverse without a formula, some of which halve the interval that holds it


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


class RationalQuadratic(Transform):
    """A monotone spline of ``bins`` rational quadratic pieces on [-bound, bound], z = x outside (Durkan et al., 2019).

    Parameters are the bins' widths and heights, as shares of the interval, and the slopes at the knots between them: 3
    ``bins`` - 1. Between two knots a width w and a height h apart, with slopes d0 and d1, s = h / w, t = (x - x0) / w:

        z = z0 + h (s t^2 + d0 t (1 - t)) / (s + (d0 + d1 - 2 s) t (1 - t)),

    whose inverse is the root of a quadratic. Outputs of 0 of a network give the identity. Raises ``ValueError`` for
    fewer than two bins.

    >>> import torch
    >>> spline = RationalQuadratic(bins=4)
    >>> spline(torch.tensor([1.0, 9.0]), *spline.constrain(*torch.zeros(11, 2)))
    (tensor([1., 9.]), tensor([0., 0.]))
    """

    least = 1e-3  # share of a bin in the interval, and slope at a knot

    def __init__(self, bins: int = 8, bound: float = 5.0):
        if bins < 2:
            raise ValueError(f"bins: expected 2 or more, found {bins}")
        self.bins, self.bound, self.parameters = bins, bound, 3 * bins - 1

    def constrain(self, *raw):
        k, m = self.bins, self.least
        widths, heights = (m + (1 - k * m) * torch.stack(a).softmax(0) for a in (raw[:k], raw[k : 2 * k]))
        slopes = m + F.softplus(torch.stack(raw[2 * k :]) + math.log(math.expm1(1 - m)))
        return *widths, *heights, *slopes

    def __call__(self, x, *parameters):
        inside = x.abs() <= self.bound
        x0, z0, w, h, d0, d1 = self.piece(x, parameters, of=0)
        t, s = ((x.clamp(-self.bound, self.bound) - x0) / w).clamp(0, 1), h / w
        z = z0 + h * (s * t**2 + d0 * t * (1 - t)) / self.denominator(t, s, d0, d1)
        return torch.where(inside, z, x), torch.where(inside, self.log_slope(t, s, d0, d1), 0)

    def inverse(self, z, *parameters):
        inside = z.abs() <= self.bound
        x0, z0, w, h, d0, d1 = self.piece(z, parameters, of=1)
        y, s = (z.clamp(-self.bound, self.bound) - z0).clamp(min=0), h / w
        excess = y * (d0 + d1 - 2 * s)
        b = h * d0 - excess
        root = torch.sqrt((b**2 + 4 * (h * (s - d0) + excess) * s * y).clamp(min=0))
        t = (2 * s * y / (b + root)).clamp(0, 1)
        return torch.where(inside, x0 + t * w, z), torch.where(inside, -self.log_slope(t, s, d0, d1), 0)

    def piece(self, value: Tensor, parameters: tuple[Tensor, ...], of: int) -> list[Tensor]:
        """The piece that a value lies in: its start in x and in z, width, height and slopes at its ends.

        ``of`` says whether the value is an x (0) or a z (1).
        """
        k = self.bins
        widths, heights = (2 * self.bound * torch.stack(parameters[i * k : (i + 1) * k], -1) for i in (0, 1))
        slopes = F.pad(torch.stack(parameters[2 * k :], -1), (1, 1), value=1.0)
        starts = [a.cumsum(-1) - a - self.bound for a in (widths, heights)]
        which = (value[..., None] >= starts[of][..., 1:]).sum(-1, keepdim=True)
        found = [*starts, widths, heights, slopes[..., :-1], slopes[..., 1:]]
        return [a.expand(*which.shape[:-1], k).gather(-1, which)[..., 0] for a in found]

    @staticmethod
    def denominator(t: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
        return s + (d0 + d1 - 2 * s) * t * (1 - t)

    def log_slope(self, t: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
        numerator = s**2 * (d1 * t**2 + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2)
        return torch.log(numerator) - 2 * torch.log(self.denominator(t, s, d0, d1))


class LogisticMixture(Transform):
    """z = logit F(x), with F the distribution function of a mixture of logistic distributions (Ho et al., 2019).

    Parameters are the components' logits, means and log scales: 3 ``components``. Of z that is logistic, x is of the
    mixture. One component would be an affine map. Outputs of 0 of a network give components side by side, since equal
    ones would have equal gradients for ever. The inverse, which has no formula, is found between those of the
    components by Newton's method, to rounding. Raises ``ValueError`` for fewer than two components.

    >>> import torch
    >>> mixture = LogisticMixture(components=2)
    >>> z, log_derivative = mixture(torch.tensor(0.0), *mixture.constrain(*torch.zeros(6)))
    >>> float(z), bool(log_derivative < 0)
    (0.0, True)
    """

    def __init__(self, components: int = 4, bound: float = 3.0, spread: float = 1.0):
        if components < 2:
            raise ValueError(f"components: expected 2 or more, found {components}")
        self.components, self.bound, self.spread = components, bound, spread
        self.parameters = 3 * components

    def constrain(self, *raw):
        k = self.components
        places = [self.spread * (2 * i / (k - 1) - 1) for i in range(k)]
        means = [a + place for a, place in zip(raw[k : 2 * k], places, strict=True)]
        return *raw[:k], *means, *(self.bound * torch.tanh(s / self.bound) for s in raw[2 * k :])

    def stacked(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, means and log scales, the components in a last dimension."""
        k = self.components
        logits, means, log_scales = (torch.stack(parameters[i * k : (i + 1) * k], -1) for i in range(3))
        return logits.log_softmax(-1), means, log_scales

    @staticmethod
    def transformed(x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
        a = (x[..., None] - means) * torch.exp(-log_scales)
        below, above = F.logsigmoid(a), F.logsigmoid(-a)
        log_below, log_above = (torch.logsumexp(log_weights + part, -1) for part in (below, above))
        log_density = torch.logsumexp(log_weights + below + above - log_scales, -1)
        return log_below - log_above, log_density - log_below - log_above

    def __call__(self, x, *parameters):
        return self.transformed(x, *self.stacked(parameters))

    def inverse(self, z, *parameters):
        stacked = self.stacked(parameters)
        with torch.no_grad():
            _, means, log_scales = stacked
            ends = means + torch.exp(log_scales) * z[..., None]
            low, high = ends.amin(-1), ends.amax(-1)
            x = (low + high) / 2
            for _ in range(NEWTON_STEPS):
                found, log_derivative = self.transformed(x, *stacked)
                low, high = torch.where(found < z, x, low), torch.where(found < z, high, x)
                better = x - (found - z) * torch.exp(-log_derivative)
                x = torch.where((better > low) & (better < high), better, (low + high) / 2)
        found, log_derivative = self.transformed(x, *stacked)
        x = x - (found - z) * torch.exp(-log_derivative)  # with the gradients of the inverse function
        return x, -self.transformed(x, *stacked)[1]


def zero(x: Tensor) -> Tensor:
    """A log-derivative of 0, float32 or wider."""
    return torch.zeros((), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
