"""Training: ``fit`` trains a model in memory or into a run folder."""

from fvae.training.fit import fit
from fvae.training.trainer import Callback, Trainer

__all__ = ["Callback", "Trainer", "fit"]
