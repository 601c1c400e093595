"""The settings of a run, as typed dataclasses: their texts are the command line's help.

This module imports nothing heavy, so that the command answers ``--help`` at once.
A model's settings are not here: they are the arguments of its recipe.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass
class DataSettings:
    """Where the images come from and what is done to them once, when they are read."""

    source: str = ""
    """digits, a Hugging Face data set (mnist, cifar10, user/name), or a path: a folder of images, a .zip or
    .parquet of images, an .npz with `images` (N, H, W, C) uint8 and maybe `labels`, an idx .gz"""
    size: int | None = None
    """resize the shorter side to this many pixels and crop the centre to a square (default: as they are)"""
    colour: Literal["auto", "grey", "rgb"] = "auto"
    """channels of the model's images; auto: grey where every image is grey, else rgb"""
    split: str | None = None
    """the source's split to train on (default: train where the source has splits, else all but the held-out part)"""
    held_out: float = 0.05
    """share held out for evaluation where the source has no test split of its own"""
