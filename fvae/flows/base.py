"""The contract of a flow, and the ways to make one of several."""

from typing import Any

from torch import Tensor, nn


class Flow(nn.Module):
    """An invertible map z = f(x; cond).

    To write one, define both methods:

    - ``forward(x, cond=None) -> (z, logdet)``: ``z`` of shape (B, *out) and log |det dz/dx| in nats, shape (B,),
      float32 or wider;
    - ``inverse(z, cond=None) -> x``.

    ``cond`` is opaque to a flow: it hands it on to the flows and ``Params`` inside it.
    """

    @property
    def translates(self) -> bool:
        """Whether z is x, moved by what doesn't depend on it: log-determinant 0."""
        return False

    def forward(self, x: Tensor, cond=None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, z: Tensor, cond=None) -> Tensor:
        raise NotImplementedError


class Chain(Flow):
    """Composition in the order written: z = f_n(... f_1(x)), log-determinants added."""

    flows: Any  # nn.ModuleList of flows

    def __init__(self, *flows: Flow):
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def forward(self, x, cond=None):
        logdet = 0.0
        for flow in self.flows:
            x, change = flow(x, cond)
            logdet = logdet + change
        return x, logdet

    def inverse(self, z, cond=None):
        for flow in reversed(self.flows):
            z = flow.inverse(z, cond)
        return z

    @property
    def translates(self) -> bool:
        return all(flow.translates for flow in self.flows)


class Unconditional(Flow):
    """A flow that is not told the condition, which those beside it need."""

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(self, x, cond=None):
        return self.flow(x)

    def inverse(self, z, cond=None):
        return self.flow.inverse(z)

    @property
    def translates(self) -> bool:
        return self.flow.translates


class Inverse(Flow):
    """A flow run backwards: ``Inverse(f).inverse`` is f.

    Its forward needs the log-determinant at the point it finds: one inverse and one forward of ``flow``.
    """

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow

    def forward(self, x, cond=None):
        z = self.flow.inverse(x, cond)
        return z, -self.flow(z, cond)[1]

    def inverse(self, z, cond=None):
        return self.flow(z, cond)[0]
