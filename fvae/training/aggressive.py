"""Aggressive training of the inference network (He et al., 2019): the posterior is trained until it has caught up,
then the decoder takes one step, and so on until the mutual information of x and z no longer grows."""

import math
from typing import Any

from torch import nn

WINDOW, MOST = 15, 100  # steps whose losses are compared, and that the posterior takes at most
FALL = 0.1  # nats of mutual information, more than sampling and rounding account for


class AggressiveSchedule:
    """Which part of a model is trained next. ``state`` is all that a checkpoint needs."""

    def __init__(self, model: nn.Module, on: bool):
        self.parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.state: dict[str, Any] = {"on": on, "posterior": on, "rounds": 0, "looked": 0, "mutual": -math.inf, **FRESH}

    @property
    def on(self) -> bool:
        return self.state["on"]

    @property
    def rounds(self) -> int:
        """The steps of the decoder so far, by which the rate's weight is annealed: the posterior's losses, which are
        compared with each other, then have one weight."""
        return self.state["rounds"]

    def select(self) -> None:
        """Give gradients to the parameters that are trained next only or, when it is over, to all."""
        for name, p in self.parameters:
            p.requires_grad_(not self.on or name.startswith("posterior.") == self.state["posterior"])

    def restore(self) -> None:
        """Give gradients to all parameters that had them."""
        for _, p in self.parameters:
            p.requires_grad_(True)

    def after(self, loss: float, size: int) -> None:
        """Advance, after a step of this loss in all, over so many tokens or samples.

        Windows are compared by the token: sentences' lengths vary more than what a window learns.
        """
        s = self.state
        if not (s["on"] and s["posterior"]):
            s |= {"posterior": True, "rounds": s["rounds"] + 1, **FRESH}
            return
        s["steps"] += 1
        s["sum"] += loss
        s["size"] += size
        if s["steps"] % WINDOW == 0:
            mean = s["sum"] / s["size"]
            s["posterior"] = mean <= s["before"]
            s |= {"before": mean, "sum": 0.0, "size": 0}
        if s["steps"] >= MOST:
            s["posterior"] = False

    def due(self, interval: int) -> bool:
        """Whether to compute the mutual information: every so many steps of the decoder, which is what has to learn
        to use z. (By steps of both it would be over before anything can be seen.)"""
        return self.on and self.rounds >= self.state["looked"] + interval

    def evaluated(self, mutual: float) -> None:
        """It is over when the mutual information, in nats, has fallen from the largest so far."""
        largest = max(mutual, self.state["mutual"])
        self.state |= {"on": self.on and mutual > largest - FALL, "mutual": largest, "looked": self.rounds}


FRESH = {"steps": 0, "sum": 0.0, "size": 0, "before": math.inf}
