"""The settings of a run, as typed dataclasses: their texts are the command line's help.

This module imports nothing heavy, so that the command answers ``--help`` at once.
A model's settings are not here: they are the arguments of its recipe.
"""

from dataclasses import dataclass
from typing import Literal

from fvae.errors import UserError


@dataclass
class DataSettings:
    """Where the data come from and what is done to them once, when they are read."""

    source: str = ""
    """digits, a Hugging Face data set (mnist, cifar10, user/name), or a path: a folder of images, a .zip or
    .parquet of images, an .npz with `images` (N, H, W, C) uint8 and maybe `labels`, an idx .gz; or rows of numbers:
    a .csv, a .parquet, an .npz with `x` (N, D) and maybe `labels`; or sentences, one a line: a .txt, a .txt.gz"""
    size: int | None = None
    """resize the shorter side to this many pixels and crop the centre to a square (default: as they are)"""
    colour: Literal["auto", "grey", "rgb"] = "auto"
    """channels of the model's images; auto: grey where every image is grey, else rgb"""
    split: str | None = None
    """the source's split to train on (default: train where the source has splits, else all but the held-out part)"""
    held_out: float = 0.05
    """share held out for evaluation where the source has no test split of its own"""
    tokens: Literal["word", "character", "bpe"] = "word"
    """of text: words between spaces, characters, or byte pairs"""
    vocabulary: int = 10_000
    """of text: tokens that are told apart, the most frequent ones; others are unknown"""
    longest: int = 200
    """of text: tokens of a sentence; longer ones are cut"""
    labels: str | None = None
    """of text: a file with a label a line (a .txt or .gz; default: none)"""


@dataclass
class TrainSettings:
    """How a model is trained."""

    steps: int | None = None
    """optimiser steps in all (default: 2000 where no minutes are given)"""
    minutes: float | None = None
    """time in all, with evaluations and a resumed run's earlier sessions; with steps: whichever ends first"""
    batch_size: int = 32
    """images, rows or sentences a step, over all devices together"""
    lr: float = 1e-3
    """AdamW's learning rate after the warm-up"""
    warmup: int = 100
    """steps over which the learning rate rises to its value"""
    weight_decay: float = 0.0
    """AdamW's weight decay, of the networks' weights alone"""
    clip: float = 10.0
    """largest norm of the gradient of the loss, in bits/dim of images and nats of rows and sentences"""
    beta: float = 1.0
    """weight of the rate in the loss; figures are always told at 1"""
    anneal: Literal["none", "linear", "cyclical"] = "none"
    """let that weight rise from 0: once, or again and again, half of each cycle at its end"""
    anneal_steps: int = 1000
    """steps of such a rise"""
    free_nats: float = 0.0
    """nats of the rate that are free: below them nothing is gained"""
    free_nats_each: float = 0.0
    """the same for each dimension of a Gaussian posterior"""
    aggressive: bool = False
    """let the posterior learn until it has caught up with each step of the decoder (He et al., 2019), as long as the
    mutual information doesn't fall, looked at each `every` steps of the decoder"""
    ema: float = 0.999
    """decay of the averaged weights, which are what is evaluated, sampled and saved; 0 takes the last weights"""
    every: int = 200
    """steps between evaluations, checkpoints and pictures of samples"""
    test_images: int = 256
    """held-out images, rows or sentences in those evaluations (`fvae evaluate` takes all of them)"""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed: the networks compute in bfloat16, the flow's own path stays in float32"""
    reversible: bool = False
    """recompute the flows' activations in backpropagation: memory no longer grows with the depth, at about a third
    more time"""
    compile: bool = False
    """run the model through torch.compile: needs a C++ compiler, and minutes before the first step"""
    seed: int = 0
    """seed of the initial weights, the order of the images and the noise"""
    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: int = 1
    """devices a machine; each step's images are shared out between them"""
    nodes: int = 1
    """machines"""
    strategy: str = "auto"
    """Lightning's strategy: auto, ddp, ..."""

    @property
    def max_steps(self) -> int:
        """The step to end at; -1 where time alone ends the run."""
        return self.steps or (2000 if self.minutes is None else -1)

    def check(self) -> None:
        """Refuse values that can't be meant, by their flags; raises ``UserError``."""
        above = "steps minutes batch_size lr clip anneal_steps every test_images devices nodes"
        for name in above.split():
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--train.{name}: expected a number above 0, found {value}")
        for name in ("warmup", "weight_decay", "beta", "free_nats", "free_nats_each", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--train.{name}: expected 0 or more, found {getattr(self, name)}")
        for name, most in (("seed", 2**32 - 1), ("minutes", 1e6)):
            if (getattr(self, name) or 0) > most:
                raise UserError(f"--train.{name}: expected at most {most:g}, found {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise UserError(f"--train.ema: expected 0 or more and below 1, found {self.ema}")
        if self.reversible and self.compile:
            raise UserError(
                "--train.reversible and --train.compile: expected one of them; a graph can't run a step backwards"
            )
        if self.aggressive and self.devices * self.nodes > 1:
            raise UserError("--train.aggressive: expected one device, whose loss says whose turn it is")
        if self.batch_size % (self.devices * self.nodes):
            raise UserError(
                f"--train.batch_size: expected a multiple of the {self.devices * self.nodes} devices, "
                f"found {self.batch_size}"
            )
