"""A decoder with a latent of its own, on a finer grid, for what G(z) does not show of an image."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.conditioners.base import Conditioned
from fvae.density import log_normal, to_unit
from fvae.terms import Terms
from fvae.transforms import Affine


class ConditionalLatent(Conditioned):
    """p(x|z) = E p(x|z,w) over p(w|z) of images: an f-VAE of x whose prior sees z, with the same objective.

        log p(x|z) >= E_v [ log p(x|h,w) - log N(v) + log|det dF_x/dv| + log N(e) + log|det df/dw| ],
        m, log std = conditioner(z),  h = (m, z),  w = F_x(v),  e = f(w; features(h))

    The posterior F_x sees the image's difference to m, in units of std, and m (B, 2C, H, W); ``decoder`` takes h and w
    (B, *, h, w) on the grid of w, ``latent`` (channels, h, w). Returns the terms that w adds, with log p(x|h,w) as
    log_x. ``noise`` (B, n) is v and that of ``decoder`` where it draws some. The codes e, ``code_values`` of them, are
    part of the model's. It is a hierarchical VAE of two latents, and of more where ``decoder`` is one again.
    """

    decoder: Any
    posterior: Any
    prior: Any
    features: Any

    def __init__(
        self,
        conditioner: nn.Module,
        posterior: nn.Module,
        prior: nn.Module,
        features: nn.Module,
        decoder: nn.Module,
        latent: tuple[int, ...],
        bits: int,
    ):
        super().__init__(conditioner, Affine(bound=6.0))
        self.posterior, self.prior, self.features, self.decoder = posterior, prior, features, decoder
        self.latent, self.bits, self.inner_noise = tuple(latent), bits, getattr(decoder, "noise_shape", None)
        self.noise_shape = (math.prod(self.latent) + math.prod(self.inner_noise or (0,)),)
        self.inner_codes = getattr(decoder, "code_values", 0)
        self.code_values = math.prod(self.latent) + self.inner_codes
        self.likelihood = getattr(decoder, "likelihood", "")
        self.temperature = getattr(decoder, "temperature", 0.0)

    def forward(self, x, z, y=None, *, noise):
        v, inner = self.split_noise(noise)
        m, seen = self.seen(x, z, y)
        w, log_det = self.posterior(v, seen)
        small, h = self.on_the_grid(m, z)
        e, log_det_prior = self.prior(w, self.features(small, z))
        found = self.decoder(x, torch.cat([h, w], 1), **inner)
        own = Terms(log_normal(v), log_det, torch.zeros_like(log_det), log_normal(e) + log_det_prior)
        return own.with_latent(found) if isinstance(found, Terms) else own._replace(log_x=found)

    def encode(self, x, z, y=None):
        """The codes of x given z, at v = 0: (B, code_values)."""
        m, seen = self.seen(x, z, y)
        w, _ = self.posterior(seen.new_zeros(len(x), *self.latent), seen)
        small, h = self.on_the_grid(m, z)
        e = self.prior(w, self.features(small, z))[0]
        return torch.cat([e, self.decoder.encode(x, torch.cat([h, w], 1))], 1) if self.inner_codes else e

    def mean(self, z, y=None):
        """The image at e = 0, in bins, unrounded."""
        return self.draw(z, y, z.new_zeros(len(z), *self.noise_shape))

    def draw(self, z, y=None, noise=None):
        """The image at e and the inner decoder's noise, ``noise`` (B, n), in bins, unrounded."""
        e, inner = self.split_noise(noise)
        small, h = self.on_the_grid(self.parameters_for(z, y)[0], z)
        given = torch.cat([h, self.prior.inverse(e.flatten(1), self.features(small, z))], 1)
        return self.decoder.draw(given, **inner) if inner else self.decoder.mean(given)

    def seen(self, x: Tensor, z: Tensor, y: Any) -> tuple[Tensor, Tensor]:
        """m, and what the posterior of w sees: the difference of x to it, and m."""
        m, log_std = self.parameters_for(z, y)
        return m, torch.cat([(to_unit(x, self.bits) - m) * torch.exp(-log_std), m], 1)

    def split_noise(self, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """v (B, *latent), and the inner decoder's noise by the name of its argument."""
        n = math.prod(self.latent)
        inner = {} if self.inner_noise is None else {"noise": noise[:, n:].unflatten(1, self.inner_noise)}
        return noise[:, :n].unflatten(1, self.latent), inner

    def on_the_grid(self, m: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The image m on the grid of w, each value of a block a channel, and h: the same and z."""
        small = F.pixel_unshuffle(m, m.shape[2] // self.latent[1])
        z = z if z.dim() == 4 else z[:, :, None, None]
        return small, torch.cat([small, F.interpolate(z, size=small.shape[2:])], 1)


class WithImage(nn.Module):
    """Adds a network's output to the image in the first C k^2 channels of its input, k x k values each.

    (B, C k^2 + ..., h, w) -> (B, C, k h, k w), ``factor`` k.
    """

    def __init__(self, net: nn.Module, channels: int, factor: int):
        super().__init__()
        self.net, self.channels, self.factor = net, channels * factor**2, factor

    def forward(self, given: Tensor) -> Tensor:
        return F.pixel_shuffle(given[:, : self.channels], self.factor) + self.net(given)
