"""Run folders: the model to use, the settings and figures of its training, and the checkpoint to resume from."""

from fvae.runs.model import load, save

__all__ = ["load", "save"]
