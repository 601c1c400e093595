"""Interpolation: straight lines between codes, and what a model decodes along them."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fvae.errors import InputError
from fvae.model import LatentModel
from fvae.tokens import PAD


@torch.no_grad()
def interpolate(model: LatentModel, *ends: Tensor, steps: int = 9, y: Tensor | None = None) -> Tensor:
    """Decode the straight line between the codes of two samples, or the square between those of four.

    Each end is a sample (*shape); the result is (steps, *shape) of two, (steps, steps, *shape) of four. Sentences are
    token numbers (T,), as many as each has. ``y`` are the ends' labels (2,) or (4,), where the model is conditioned on
    them: the way then leads from label to label too.
    Raises ``ValueError`` for another number of ends, ends of different shapes, or fewer than 2 steps.

    Example:
        >>> import fvae, torch
        >>> model = fvae.recipes.glow((1, 8, 8), flow=fvae.Glow(levels=1, depth=1, width=8)).eval()
        >>> a, b = torch.randint(256, (2, 1, 8, 8))
        >>> fvae.interpolate(model, a, b, steps=5).shape
        torch.Size([5, 1, 8, 8])
    """
    if wrong := [end for end in ends if not isinstance(end, Tensor)]:
        raise TypeError(f"ends: expected tensors, found {type(wrong[0]).__name__}")
    if model.modality.dims and len(shapes := {tuple(end.shape) for end in ends}) > 1:
        raise InputError(f"expected samples of one shape, found {' and '.join(map(str, sorted(shapes)))}", "ends")
    x = torch.stack(ends) if model.modality.dims else pad_sequence(list(ends), batch_first=True, padding_value=PAD)
    points, weights = grid(model.encode(x, y), steps), label_weights(model, y, steps)
    decoded = model.decode(points.flatten(0, 1), None if weights is None else weights.flatten(0, 1))
    return decoded if len(points) == 1 else decoded.unflatten(0, (steps, steps))


def direction(away: Tensor, towards: Tensor) -> Tensor:
    """The direction from the mean of some codes (N, D) to the mean of others (M, D), which leads what is added to it.

    Example:
        >>> direction(torch.zeros(3, 2), torch.ones(5, 2))
        tensor([1., 1.])
    """
    return towards.mean(0) - away.mean(0)


def grid(e: Tensor, steps: int) -> Tensor:
    """Points between two codes, (1, steps, D), or between four, (steps, steps, D), for e (2, D) or (4, D)."""
    if len(e) not in (2, 4):
        raise InputError(f"expected 2 samples (a row) or 4 (a square), found {len(e)}", "ends")
    if steps < 2:
        raise InputError(f"expected 2 or more, found {steps}", "steps")
    across = torch.linspace(0, 1, steps, dtype=e.dtype, device=e.device)[:, None]
    lines = [torch.lerp(e[i], e[i + 1], across) for i in range(0, len(e), 2)]  # each (steps, D)
    return torch.stack(lines if len(lines) == 1 else [torch.lerp(lines[0], lines[1], t) for t in across])


def label_weights(model: LatentModel, y: Tensor | None, steps: int) -> Tensor | None:
    """Weights of labels along the way, shaped as ``grid`` of the labels' indicators; None without labels."""
    if y is None:
        return None
    return grid(torch.nn.functional.one_hot(y, model.classes).to(model.like.dtype), steps)
