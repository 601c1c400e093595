"""Fast paths of Glow's steps, with the numbers of the ordinary layers, which are the reference.

Only the architectures make these (``fuse``, ``CouplingNet``); ``set_reversible`` and ``plain`` switch
them. docs/performance.md says what each is worth.
"""

from fvae.flows.fused.network import CouplingNet
from fvae.flows.fused.steps import FusedSteps, fuse, one_by_one, set_reversible

__all__ = ["CouplingNet", "FusedSteps", "fuse", "one_by_one", "set_reversible"]
