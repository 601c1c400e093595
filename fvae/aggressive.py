"""Aggressive training of the inference network (He et al., 2019): the posterior learns until it has caught up, then
the decoder takes one step, and so on until the mutual information of x and z no longer grows."""

import math
from typing import Any

from fvae.model import LatentModel

WINDOW, MOST = 15, 100  # steps whose losses are compared, and that the posterior takes at most
FALL = 0.1  # nats of mutual information, more than its sampling and a sum's rounding make of it


class Turns:
    """Whose turn it is. ``state`` is all that a checkpoint needs."""

    def __init__(self, on: bool):
        self.state: dict[str, Any] = {"on": on, "posterior": on, "rounds": 0, "looked": 0, "mutual": -math.inf, **FRESH}

    @property
    def on(self) -> bool:
        return self.state["on"]

    @property
    def rounds(self) -> int:
        """The steps of the decoder so far, by which the rate's weight is annealed: one weight a turn of the posterior,
        whose losses are compared."""
        return self.state["rounds"]

    def take(self, model: LatentModel) -> None:
        """Let only those parameters have a gradient whose turn it is, or, when it is over, all."""
        for name, p in model.named_parameters():
            p.requires_grad_(not self.on or name.startswith("posterior.") == self.state["posterior"])

    def after(self, loss: float, size: int) -> None:
        """Go on to the next turn, after a step of this loss in all, over so many tokens or samples.

        Windows are compared a token: sentences' lengths vary more than what a window learns.
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

    def due(self, every: int) -> bool:
        """Whether it is time to look at the mutual information: after so many steps of the decoder, which is what has
        to learn to hear z. (Steps of both would be over a few turns after a start from which nothing can be told.)"""
        return self.on and self.rounds >= self.state["looked"] + every

    def evaluated(self, mutual: float) -> None:
        """It is over when the mutual information, in nats, has fallen from the largest so far."""
        largest = max(mutual, self.state["mutual"])
        self.state |= {"on": self.on and mutual > largest - FALL, "mutual": largest, "looked": self.rounds}


FRESH = {"steps": 0, "sum": 0.0, "size": 0, "before": math.inf}
