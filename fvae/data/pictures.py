"""Images out of a model, and sheets of them."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fvae.files import replacing

GAP = 2
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf")


def to_uint8(x: Tensor, bits: int) -> np.ndarray:
    """Bins (N, C, H, W), unrounded, to 8-bit images (N, H, W, C): rounded, clipped, and spread over 0 .. 255."""
    top = 2**bits - 1
    bins = x.detach().float().cpu().round().clamp(0, top)
    return (bins * 255 / top).round().byte().permute(0, 2, 3, 1).numpy()


def to_image(a: np.ndarray) -> Image.Image:
    """(H, W, C) uint8 to a picture, gray for one channel."""
    return Image.fromarray(a[:, :, 0] if a.shape[2] == 1 else a)


def sheet(rows: list[np.ndarray], labels: list[str] | None = None) -> Image.Image:
    """A picture of rows of images, each (n, H, W, C) uint8, with a label before each row.

    Small images are enlarged by a whole factor, so that a person can look at them.
    """
    height, width, channels = rows[0].shape[1:]
    scale = max(1, round(48 / max(height, width)))
    font = ImageFont.load_default(14)
    left = max(int(font.getlength(label)) for label in labels) + 12 if labels else GAP
    columns = max(len(row) for row in rows)
    size = (left + columns * (width * scale + GAP), GAP + len(rows) * (height * scale + GAP))
    picture = Image.new("RGB" if channels == 3 else "L", size, "white")
    for i, row in enumerate(rows):
        top = GAP + i * (height * scale + GAP)
        if labels:
            ImageDraw.Draw(picture).text((6, top + height * scale // 2), labels[i], "black", font, anchor="lm")
        for j, a in enumerate(row):
            tile = to_image(a).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            picture.paste(tile, (left + j * (width * scale + GAP), top))
    return picture


def square(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """All images (n, H, W, C) on one sheet, as near to a square as possible."""
    columns = columns or round(len(images) ** 0.5 + 0.49)
    return sheet([images[i : i + columns] for i in range(0, len(images), columns)])


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all; the format is that of the name. Raises ``MachineError``."""
    kind = Image.registered_extensions()[path.suffix.lower()]
    with replacing(path) as part:
        picture.save(part, format=kind)


def save_scatter(data: np.ndarray, samples: np.ndarray, columns: list[str], path: Path, most: int = 4) -> None:
    """Samples (n, D) over data (N, D), the first columns against each other and as histograms on the diagonal."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    d = min(most, data.shape[1])
    figure = Figure(figsize=(2.4 * d, 2.4 * d), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(d, d, squeeze=False, sharex="col")
    few = len(data) < 300
    bins, dots = (16, {"ms": 4, "alpha": 0.6}) if few else (40, {"ms": 2, "alpha": 0.5})
    low, high = np.quantile(data[:, :d], [0.001, 0.999], axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 1)  # a column may be constant in the data at hand
    ranges = np.stack([low - margin, high + margin], 1)
    for i, j in np.ndindex(d, d):
        ax = axes[i, j]
        ax.set_xlim(*ranges[j])
        if j > i:
            ax.axis("off")
            continue
        for values, color in ((data, "#737373"), (samples, "#d95f02")):
            if i == j:
                counts, edges = np.histogram(values[:, i], bins, tuple(ranges[i]))
                ax.stairs(counts / len(values), edges, color=color)
            else:
                ax.plot(values[:, j], values[:, i], "o", mew=0, color=color, **dots)
        if i == j:
            ax.set_yticks([])
        else:
            ax.set_ylim(*ranges[i])
    for j in range(d):
        axes[d - 1, j].set_xlabel(columns[j])
    figure.suptitle("gray: held-out data, orange: samples", fontsize=9)
    with replacing(path) as part:
        figure.savefig(part, dpi=80, format="png")
