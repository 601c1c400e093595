"""The contract of a flow, and the ways to combine flows."""

from typing import Any

import torch
from torch import Tensor, nn


def no_change(x: Tensor) -> Tensor:
    """A log-determinant of 0 for each sample: (B,), float32 or wider."""
    return torch.zeros(len(x), device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))


class Flow(nn.Module):
    """An invertible map z = f(x; cond).

    To write one, subclass it (or write any module with these two methods):

    - ``forward(x, cond=None) -> (z, log_det)``: ``z`` of shape (B, *out) and log |det dz/dx| in nats, shape (B,),
      float32 or wider;
    - ``inverse(z, cond=None) -> x``, or ``inverse_and_log_det(z, cond=None) -> (x, log |det dx/dz|)`` where that takes
      less than an inverse and a forward.

    ``cond`` is what the flow is conditioned on: the labels or context y in a prior, the data x
    in a posterior, or (x, y) in a posterior that declares that it takes labels. A flow hands it on unopened.

    What a flow can do beyond that, it declares: ``translation``; of posteriors ``gaussian``, ``noise_shape`` and
    ``exact_latent``; and ``classes``, as does any module inside it that is conditioned on labels.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What a class defines anew, its parent's declarations no longer describe.

        With a ``forward`` of its own it declares no ``translation`` and is no ``gaussian`` unless it says so; one of
        ``inverse`` and ``inverse_and_log_det`` is made of the other, of this very class, so that ``super()`` works.
        """
        super().__init_subclass__(**kwargs)
        own: dict[str, Any] = dict(vars(cls))
        if "forward" in own:
            for name in ("translation", "gaussian"):
                setattr(cls, name, own.get(name, vars(Flow)[name]))
        if "inverse" in own and "inverse_and_log_det" not in own:

            def by_inverse(self, z, cond=None):
                x = own["inverse"](self, z, cond)
                return x, -self(x, cond)[1]

            cls.inverse_and_log_det = by_inverse  # type: ignore[method-assign]
        if "inverse_and_log_det" in own and "inverse" not in own:

            def by_both(self, z, cond=None):
                return own["inverse_and_log_det"](self, z, cond)[0]

            cls.inverse = by_both  # type: ignore[method-assign]

    @property
    def translation(self) -> bool:
        """Whether z - x, up to shape and order, doesn't depend on x: log-determinant 0."""
        return False

    def forward(self, x: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, z: Tensor, cond: Any = None) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no inverse, which sample and decode need")

    def inverse_and_log_det(self, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dz|, here by one inverse and one forward."""
        x = self.inverse(z, cond)
        return x, -self(x, cond)[1]

    def gaussian(self, cond: Any = None) -> tuple[Tensor, Tensor] | None:
        """Mean and log standard deviation of f(u; cond) for u ~ N(0, I), None where it isn't a diagonal Gaussian."""
        return None


def inverse_and_log_det(flow: nn.Module, z: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
    """Of any module with ``forward`` and ``inverse``: x and log |det dx/dz|."""
    own = getattr(flow, "inverse_and_log_det", None)
    return Flow.inverse_and_log_det(flow, z, cond) if own is None else own(z, cond)  # type: ignore[arg-type]


class Chain(Flow):
    """Composition in the order written: z = f_n(... f_1(x)), log-determinants added. ``Chain()`` is the identity."""

    flows: Any  # nn.ModuleList of flows

    def __init__(self, *flows: nn.Module):
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def forward(self, x, cond=None):
        log_det = no_change(x)
        for flow in self.flows:
            x, change = flow(x, cond)
            log_det = log_det + change
        return x, log_det

    def inverse(self, z, cond=None):
        for flow in reversed(self.flows):
            z = flow.inverse(z, cond)
        return z

    def inverse_and_log_det(self, z, cond=None):
        log_det = no_change(z)
        for flow in reversed(self.flows):
            z, change = inverse_and_log_det(flow, z, cond)
            log_det = log_det + change
        return z, log_det

    @property
    def translation(self) -> bool:
        return all(getattr(flow, "translation", False) for flow in self.flows)


class Inverse(Flow):
    """A flow run backwards: ``Inverse(f).inverse`` is f."""

    flow: Any

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, x, cond=None):
        return inverse_and_log_det(self.flow, x, cond)

    def inverse_and_log_det(self, z, cond=None):
        return self.flow(z, cond)

    @property
    def translation(self) -> bool:
        return getattr(self.flow, "translation", False)
