"""The settings of data and of training; the texts under their fields are the help of the flags.

A model's settings are not here: they are the arguments of its recipe.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from fvae.schema import Count, Natural, NonNegative, OpenShare, Positive, Settings, Share


def image_size(value: Any) -> int | str | None:
    """N, [height, width] or "HxW" as N, if it is a square, or "HxW"; raises ``ValueError``."""
    text = "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    if value is not None and not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})?", text):
        raise ValueError(f"expected a number of pixels, as 64, or height x width, as 48x64, found {text:.40}")
    height, _, width = text.partition("x")
    return None if value is None else text if width not in ("", height) else int(height)


class DataSettings(Settings):
    """Where the data come from and how they are read.

    Example:
        >>> fvae.DataSettings(source="photos", size=64).color
        'auto'
    """

    source: str = ""
    """digits, a Hugging Face data set (mnist, cifar10, user/name), or a path: a folder of images, a .zip or .parquet
    of images, an .npz with `images` (N, H, W, C) uint8 and optionally `labels`, an idx .gz; or a table of numbers: a
    .csv, a .parquet, an .npz with `x` (N, D) and optionally `labels`; or text, a sentence a line: a .txt, a .txt.gz"""
    size: Annotated[int | str | None, BeforeValidator(image_size)] = None
    """images: resize them to height x width, as 48x64, or to a square of N pixels a side (default: as they are)"""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """images, with a size: scale them to cover it and crop the center, scale them to fit inside it (of images of one
    shape: all are then of one size, which a model pads by itself), or stretch each side"""
    color: Literal["auto", "gray", "rgb"] = "auto"
    """images: their channels; auto: gray where every image is gray, else rgb"""
    split: str | None = None
    """images: the split to train on (default: train where the source has splits, else all but the held-out part)"""
    held_out: OpenShare = 0.05
    """share held out for evaluation where the source has no test split of its own"""
    tokenizer: Literal["word", "character", "bpe"] = "word"
    """text: words between spaces, characters, or byte pairs, of the text as it is: no Unicode normalization is done"""
    vocabulary_size: int = Field(default=10_000, ge=5, le=2**24)
    """text: the most frequent tokens, which the model knows; others are unknown"""
    max_length: int = Field(default=200, ge=1, le=2**20)
    """text: tokens a sentence; longer ones are truncated"""
    labels: str | None = None
    """text: a file with a label a line (a .txt or .gz; default: none)"""
    types: str = "auto"
    """tables: numbers, of which a density is modelled; detect, which finds each column's type (continuous, whole or
    rounded numbers, categories, dates), for f_vae, vae and the like; a schema.json; auto: numbers, where the table
    holds nothing else"""
    allow_degenerate: bool = False
    """tables: train on columns that have no density: rounded, mostly one value, or a combination of others"""


class TrainSettings(Settings):
    """How a model is trained.

    Example:
        >>> fvae.TrainSettings(minutes=5, lr=3e-4).max_steps is None
        True
    """

    steps: Count | None = None
    """optimizer steps in all (default: 2000 where no minutes are given)"""
    minutes: float | None = Field(default=None, gt=0, le=1e6, allow_inf_nan=False)
    """time in all, evaluations and a resumed run's earlier sessions included; with steps: whichever ends first"""
    batch_size: int = Field(default=32, ge=1, le=1_000_000)
    """samples a step, over all devices together"""
    accumulate: Count = 1
    """parts that each batch is computed in, one after the other, with the same gradient: saves memory"""
    lr: float = Field(default=1e-3, gt=0, le=10)
    """AdamW's learning rate after the warm-up"""
    warmup: Natural = 100
    """steps over which the learning rate rises to its value"""
    lr_decay: Literal["none", "cosine"] = "none"
    """let the learning rate, after the warm-up, follow a cosine that falls to 0 over the budget of steps or minutes"""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """AdamW's weight decay, of the networks' weights only"""
    clip: Positive = 10.0
    """largest norm of the gradient of the loss, which is in bits/dim for images and in nats for tables and text"""
    flip: bool = False
    """images: mirror half of the training images, at random; bounds are those of images as they are"""
    shift: int = Field(default=0, ge=0, le=100)
    """images: move training images by up to so many pixels up or down and left or right, at random"""
    init: str = ""
    """a run whose weights this one begins from, where names and shapes are the same"""
    freeze: str = ""
    """parts of the model that are not trained, of posterior, decoder and prior, or modules in these by their names, as
    `decoder.conditioner`, with commas between them"""
    beta: NonNegative = 1.0
    """weight of the rate in the loss; figures are always reported at 1"""
    anneal: Literal["none", "linear", "cyclical"] = "none"
    """let that weight rise from 0: once, or in cycles that spend their second half at its end"""
    anneal_steps: Count = 1000
    """steps of such a rise"""
    free_nats: NonNegative = 0.0
    """nats of the rate that are free: nothing is gained below them"""
    free_nats_per_dim: NonNegative = 0.0
    """the same for each dimension of a Gaussian posterior (free bits)"""
    aggressive: bool = False
    """train the posterior until it has caught up before each step of the decoder (He et al., 2019), as long as the
    mutual information does not fall; it is computed every `eval_interval` steps of the decoder"""
    ema: Share = 0.999
    """decay of the averaged weights, which are evaluated, sampled from and saved; 0 takes the last weights"""
    eval_interval: Count = 200
    """steps between evaluations, of which the best one's weights are kept"""
    eval_samples: Count = 256
    """held-out samples in those evaluations, at most (`fvae evaluate` takes all of them)"""
    patience: Natural = 0
    """end after so many evaluations without a better held-out bound; 0: never"""
    checkpoint_minutes: float = Field(default=5, gt=0, le=1e6, allow_inf_nan=False)
    """time between checkpoints, the first after a minute at most; evaluations and interruptions write one, too"""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """bf16-mixed: the networks compute in bfloat16, the flow's own path stays in float32"""
    reversible: bool = False
    """recompute the flows' activations in backpropagation: a fraction of the memory, at about a third more time"""
    compile: bool = False
    """use torch.compile: needs a C++ compiler, and minutes before the first step"""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """seed of the order of the samples and of the noise; `fvae train` draws the initial weights by it, too"""
    accelerator: str = "auto"
    """Lightning Fabric's accelerator: auto, cpu, gpu, ..."""
    devices: Count = 1
    """devices a machine; each step's samples are divided between them"""
    nodes: Count = 1
    """machines"""
    strategy: str = "auto"
    """Lightning Fabric's strategy: auto, ddp, ..."""

    @property
    def max_steps(self) -> int | None:
        """The step to end at; None where time alone ends the training."""
        return self.steps or (2000 if self.minutes is None else None)

    @property
    def frozen(self) -> list[str]:
        """The names in ``freeze``."""
        return [name.strip() for name in self.freeze.split(",") if name.strip()]

    @model_validator(mode="after")
    def consistent(self) -> Any:
        world = self.devices * self.nodes
        if self.reversible and self.compile:
            raise ValueError(
                "reversible: expected false with compile, since a graph cannot run a step backwards, found true"
            )
        for name in self.frozen:
            if name.split(".")[0] not in ("posterior", "decoder", "prior"):
                raise ValueError(f"freeze: expected parts of posterior, decoder, prior, found {name}")
        if self.aggressive and world > 1:
            raise ValueError(
                f"aggressive: expected 1 device, whose loss says which part is trained next, found {world}"
            )
        if self.batch_size % (world * self.accumulate):
            of = f"{world} devices times {self.accumulate} parts" if self.accumulate > 1 else f"the {world} devices"
            raise ValueError(f"batch_size: expected a multiple of {of}, found {self.batch_size}")
        return self


# Names of before 0.2, accepted until 1.0
OLD_DATA = {"colour": "color", "tokens": "tokenizer", "vocabulary": "vocabulary_size", "longest": "max_length"}
OLD_TRAIN = {"every": "eval_interval", "test_images": "eval_samples", "free_nats_each": "free_nats_per_dim"}


def with_new_names(settings: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Settings of data or of training under today's names."""
    found = {names.get(name, name): value for name, value in settings.items()}
    return found | ({"color": "gray"} if found.get("color") == "grey" else {})
