"""What a module declares that it is conditioned on, and the parameters that it gives a transform."""

from typing import Any

from torch import Tensor, nn

from fvae.precision import widen
from fvae.transforms import Transform


def declared(part: nn.Module, name: str) -> int:
    """What a part, or a module inside it, declares as ``classes`` (labels 0 .. classes - 1) or ``context`` (columns).

    0 where none does; raises ``ValueError`` where two declare different numbers.
    """
    found = {n for m in part.modules() if isinstance(n := getattr(m, name, 0), int) and n}
    if len(found) > 1:
        raise ValueError(f"{name}: expected one number in all of {type(part).__name__}, found {sorted(found)}")
    return found.pop() if found else 0


def takes_condition(module: nn.Module) -> bool:
    """Whether a module, or one inside it, declares ``classes``, ``context`` or ``conditional``: that it is called with
    the condition as its last argument."""
    return any(declared(module, name) for name in ("classes", "context", "conditional"))


def parameters_of(conditioner: nn.Module, transform: Transform, *given: Any) -> tuple[Tensor, ...]:
    """The transform's parameters, in float32 or wider.

    A conditioner returns a tuple of them, or, as a network does, one tensor (B, P C, *), which is split into P of C
    channels each and constrained to the parameters' range.
    """
    raw = conditioner(*given)
    if isinstance(raw, Tensor):
        return transform.constrain(*widen(raw).chunk(transform.parameters, 1))
    return tuple(widen(part) for part in raw)


class Conditioned(nn.Module):
    """A layer whose conditioner computes a transform's parameters from x and, where it takes it, the condition."""

    def __init__(self, conditioner: nn.Module, transform: Transform):
        super().__init__()
        self.conditioner, self.transform = conditioner, transform
        self.conditional = takes_condition(conditioner)

    def parameters_for(self, x: Tensor, cond: Any = None) -> tuple[Tensor, ...]:
        return parameters_of(self.conditioner, self.transform, *((x, cond) if self.conditional else (x,)))
