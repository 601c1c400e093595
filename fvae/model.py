"""The one objective. A latent model is three parts, posterior, decoder and prior, on one path from noise to noise:

    x                      x                       y
    v                      ^ decoder p(x|z)        v
    u --> posterior F_x --> z ------------> prior P_y --> e ~ N(0, I)
          + log|det|                        + log|det|

    loss = log N(u) - log|det F_x| - log p(x|z) - ( log N(e) + log|det P_y| )

in the mean over u an upper bound on -log p(x), in nats (Su & Wu, 2018). VAE, flows and f-VAE are choices of the parts.
With Kingma & Welling's letters q(z|x) is the posterior, here the law of F_x(u), and p(z) the prior's density.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fvae.conditioners.base import declared
from fvae.data.files import argument_named
from fvae.data.modality import Modality
from fvae.density import log_normal, mean_log_normal, total, without_nan
from fvae.errors import InputError
from fvae.flows import Chain
from fvae.terms import Terms
from fvae.transforms import Affine

MAX_TEMPERATURE = 100.0  # of samples
IMPUTED = 16_384  # candidates for rows with gaps that are drawn at once


class LatentModel(nn.Module):
    """Posterior, decoder and prior in one model; see the top of this module.

    ``shape`` is a data sample's shape and ``latent`` that of z (and of u, unless the posterior declares another
    ``noise_shape``); images enter and leave in bins 0 .. 2^bits - 1, other data on their own scale, from which
    ``preprocess`` (a flow) brings them to the networks'; its volume counts for log p(x|z). The prior ends in flat
    codes, to which those of a decoder with a latent of its own are added: D = ``code_values`` in all.

    The parts may be any modules of their contracts (``fvae.flows.Flow`` for posterior and prior, ``fvae.decoders``).
    One that declares ``classes`` (or ``context``), itself or in a module inside it, is conditioned on y: the prior is
    called with y as its condition, such a posterior with (x, y) instead of x, such a decoder as ``decoder(x, z, y)``
    and ``mean(z, y)``.
    y is (B,) labels, (B, classes) weights of labels, or (B, context) numbers. ``modality`` says what the data are to
    training and evaluation (``fvae.data``; default: numbers).

    Calling the model gives the ``Terms`` to train on.

    Example:
        >>> model = fvae.recipes.f_vae((4,), flow=fvae.Glow(depth=1, width=8))
        >>> type(model.posterior).__name__, type(model.decoder).__name__, type(model.prior).__name__
        ('Elementwise', 'Gaussian', 'Chain')
    """

    shape: Any
    posterior: Any  # Any, since mypy takes every attribute of a module for a tensor
    decoder: Any
    prior: Any
    preprocess: Any
    config: dict[str, Any]  # recipe, shape and settings; empty where no recipe made it
    initialized = False  # whether ``initialize``, ``fit`` or ``load`` has set what is set from data
    step: int | None = None  # the training step whose weights these are, where it is known

    def __init__(
        self,
        posterior: nn.Module,
        decoder: nn.Module,
        prior: nn.Module,
        shape: tuple[int, ...],
        latent: tuple[int, ...],
        preprocess: nn.Module | None = None,
        modality: Modality | None = None,
    ):
        super().__init__()
        self.posterior, self.decoder, self.prior = posterior, decoder, prior
        self.preprocess = Chain() if preprocess is None else preprocess
        self.shape, self.latent, self.config = tuple(shape), tuple(latent), {}
        self.modality = Modality(self.shape) if modality is None else modality
        self.posterior_noise = getattr(posterior, "noise_shape", self.latent)
        self.decoder_noise = getattr(decoder, "noise_shape", None)  # of a decoder that draws some
        self.code_values = math.prod(self.latent) + getattr(decoder, "code_values", 0)
        values = math.prod(self.posterior_noise) + math.prod(self.decoder_noise or (0,))
        self.noise_shape = self.posterior_noise if self.decoder_noise is None else (values,)
        self.classes, self.context = declared(self, "classes"), declared(self, "context")
        self.takes_y = {
            name: bool(declared(part, "classes") or declared(part, "context"))
            for name, part in (("posterior", posterior), ("decoder", decoder))
        }

    def forward(self, x: Tensor, y: Tensor | None = None, u: Tensor | None = None, sampled: bool = False) -> Terms:
        """The objective's terms for x (B, *shape), with u (B, *noise_shape) given or drawn.

        Of a Gaussian posterior and prior, log N(u) and log p(z) are given as their means over u, so that the rate is
        KL = 1/2 sum (mu^2 + sigma^2 - log sigma^2 - 1) without noise: near collapse the sampled one's gradient has
        thousands of times the variance. With ``sampled`` every term is that of the u at hand.
        """
        u = self.noise(len(x)) if u is None else u
        return self.draws(x, y, [u], sampled)[0]

    def draws(self, x: Tensor, y: Tensor | None, us: list[Tensor], sampled: bool = False) -> list[Terms]:
        """``forward`` for several u, in one pass of a Gaussian posterior's network, which doesn't see them."""
        self.check(y)
        x, volume = self.preprocess(x)
        gaussian, pairs = self.gaussian_of(x, y), [self.split_noise(u) for u in us]
        if gaussian is None:
            return [self.terms(x, y, volume, u, v, *self.posterior(u, self.condition(x, y))) for u, v in pairs]
        mean, log_std = (a.expand_as(pairs[0][0]) for a in gaussian)
        log_det, kl = total(log_std), None
        if getattr(self.prior, "translation", False):
            e = self.prior(mean, y)[0]
            kl = 0.5 * (e.square() + (torch.exp(2 * log_std) - 2 * log_std - 1).flatten(1))
        paths = [(u, v, Affine()(u, mean, log_std)[0]) for u, v in pairs]
        return [self.terms(x, y, volume, u, v, z, log_det, kl, sampled) for u, v, z in paths]

    def terms(
        self,
        x: Tensor,
        y: Tensor | None,
        volume: Tensor,
        u: Tensor,
        noise: dict[str, Tensor],
        z: Tensor,
        log_det: Tensor,
        kl: Tensor | None = None,
        sampled: bool = False,
    ) -> Terms:
        """The terms of one path, u to z to e, with those of the decoder's own latent where it has one.

        ``noise`` is what the decoder draws. ``kl`` is the rate by dimension where it is known: it takes the place of
        the rate of u, unless that is wanted (``sampled``).
        """
        closed = kl is not None and kl.numel() > 0 and not sampled
        if kl is None or sampled:
            e, log_det_prior = self.prior(z, y)
            log_u, log_z = log_normal(u), log_normal(e) + log_det_prior
        else:
            log_u = torch.full_like(log_det, mean_log_normal(kl.shape[1]))
            log_z = log_u - log_det - total(kl)
        found = self.decoder(x, z, *self.decoder_condition(y), **noise)
        if isinstance(found, Terms):
            return Terms(log_u, log_det, volume, log_z, closed=closed).with_latent(found)
        return Terms(log_u, log_det, found + volume.to(found.dtype), log_z, kl, closed)

    # What the parts are conditioned on

    def condition(self, x: Tensor, y: Tensor | None) -> Any:
        """The posterior's condition: preprocessed x, and y where it declares that it takes that too."""
        return (x, y) if self.takes_y["posterior"] else x

    def decoder_condition(self, y: Tensor | None) -> tuple[Tensor | None, ...]:
        """What the decoder is called with after z: y where it declares that it takes it."""
        return (y,) if self.takes_y["decoder"] else ()

    @property
    def expected_y(self) -> str:
        return f"labels 0 .. {self.classes - 1}" if self.classes else f"a context of {self.context} numbers"

    def check(self, y: Tensor | None) -> None:
        """Refuse a y that no part takes, or none where one does; raises ``ValueError``."""
        if y is None and (self.classes or self.context):
            raise InputError(f"expected {self.expected_y}, found none: this model is conditioned on them", "y")
        if y is not None and not (self.classes or self.context):
            raise InputError("expected no labels: this model was made without classes", "y")

    def inputs(
        self, y: Tensor | None, x: Tensor | None = None, e: Tensor | None = None, continuous: bool = False
    ) -> tuple[Tensor, Any]:
        """Data x or codes e, and y, of the types that the parts take; raises ``ValueError`` for those they don't take.

        The methods below begin with it. Training doesn't call it, since it waits for the device: it looks at values.
        ``continuous`` allows images that are not whole numbers to leave the bins, as decoded ones may.
        """
        self.check(y)
        if self.like.dtype in (torch.float16, torch.bfloat16):
            needs = (
                "expected a model of float32 or float64, whose densities need them; autocast lets networks take less"
            )
            raise InputError(f"{needs}; found {self.like.dtype}")
        for name, value in (("x" if e is None else "e", x if e is None else e), ("y", y)):
            if not isinstance(value, Tensor) and (name != "y" or y is not None):
                raise TypeError(f"{name}: expected a tensor, found {type(value).__name__}")
        if x is not None:
            with argument_named("x"):
                self.modality.check_input(x.detach(), continuous)
            values = self.modality.cast(x, self.like.dtype)
        else:
            assert e is not None
            if e.ndim != 2 or e.shape[1] != self.code_values or not len(e):
                raise InputError(f"expected codes (N, {self.code_values}), found {tuple(e.shape)}", "e")
            values = e.to(self.like.dtype)
        if y is None:
            return values, None
        n, k = len(values), self.classes or self.context
        labels = self.classes and y.ndim == 1
        if tuple(y.shape) != ((n,) if labels else (n, k)):
            raise InputError(f"expected {self.expected_y} for each of {n} samples, found shape {tuple(y.shape)}", "y")
        if not labels:
            return values, y.to(self.like.dtype)
        if y.is_floating_point():
            raise InputError(f"expected {self.expected_y} of an integer type, found {y.dtype}", "y")
        if len(wrong := y[(y < 0) | (y >= k)]):
            raise InputError(f"expected {self.expected_y}, found {wrong[0]}", "y")
        return values, y.long()

    def gaussian_of(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Mean and log standard deviation of q(z|x) for preprocessed x; None where the posterior offers none."""
        offered = getattr(self.posterior, "gaussian", None)
        return None if offered is None else offered(self.condition(x, y))

    # Noise and codes

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """u ~ N(0, I): (n, *noise_shape), of the model's type and on its device, wherever the generator draws."""
        return self.normal(n, self.noise_shape, generator)

    def split_noise(self, u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The posterior's noise and, by the name of its argument, that of a decoder which takes some."""
        if self.decoder_noise is None:
            return u, {}
        n = math.prod(self.posterior_noise)
        return u[:, :n].unflatten(1, self.posterior_noise), {"noise": u[:, n:].unflatten(1, self.decoder_noise)}

    def codes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """e ~ N(0, I): (n, D), of the model's type and on its device, wherever the generator draws."""
        return self.normal(n, (self.code_values,), generator)

    def normal(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        like = self.like
        device = like.device if generator is None else generator.device
        return torch.randn(n, *shape, dtype=like.dtype, device=device, generator=generator).to(like.device)

    @property
    def like(self) -> Tensor:
        """A parameter (or buffer), which tells the model's type and device."""
        return next(self.parameters(), next(self.buffers(), torch.empty(0)))

    def draw_labels(self, n: int, generator: torch.Generator | None = None) -> Tensor | None:
        """n labels drawn evenly from those that the model knows; None where it takes none."""
        if not self.classes:
            return None
        return torch.randint(self.classes, (n,), generator=generator).to(self.like.device)

    # What a model is for

    def elbo(self, x: Tensor, y: Tensor | None = None, samples: int = 1) -> Tensor:
        """A lower bound on log p(x), or on log p(x|y), in nats: (B, *shape) -> (B,).

        With one sample the evidence lower bound, -(rate + distortion), with the rate in closed form where it has one;
        with K > 1 the importance-weighted bound of K draws, which is tighter (Burda et al., 2016). It is exact where
        nothing is drawn. Raises ``ValueError`` for data or labels that the model doesn't take, as do the methods below,
        and for those of which it can only make NaN; a bound, unlike a code or a sample, may be infinite.
        """
        x, y = self.inputs(y, x)
        if samples < 1:
            raise ValueError(f"samples: expected 1 or more, found {samples}")
        if samples == 1:
            terms = self(x, y)
            return without_nan(-(terms.rate + terms.distortion), "bound", infinite=True)
        draws = self.draws(x, y, [self.noise(len(x)) for _ in range(samples)], sampled=True)
        return without_nan(-importance_bound(draws).to(draws[0].log_x), "bound", infinite=True)

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The exact log-density of continuous data, in nats, of a model that is a flow: (B, *shape) -> (B,).

        Of a flow of images, x is continuous on the scale of bins: values in [0, 2^bits), as integers plus noise are.
        Raises ``ValueError`` for a model without an exact likelihood, whose ``elbo`` is a lower bound.
        """
        exact_latent = getattr(self.posterior, "exact_latent", None)
        if exact_latent is None:
            raise ValueError("log_prob: this model has no exact likelihood; elbo gives a lower bound on it")
        x, y = self.inputs(y, x, continuous=True)
        x, volume = self.preprocess(x)
        z, log_det = exact_latent(x)
        e, log_det_prior = self.prior(z, y)
        return without_nan(log_normal(e) + log_det_prior + log_det + volume, "log-density", infinite=True)

    def encode(self, x: Tensor, y: Tensor | None = None, names: Sequence[str] = ()) -> Tensor:
        """The code of x at u = 0 (the mean of a Gaussian posterior; the middle of the bin): (B, *shape) -> (B, D).

        The codes of z, then those of the decoder's own latent where it has one.
        ``names`` are those of the samples, for an error.
        """
        x, y = self.inputs(y, x, continuous=True)
        u = torch.zeros(len(x), *self.posterior_noise, dtype=self.like.dtype, device=self.like.device)
        x = self.preprocess(x)[0]
        z, _ = self.posterior(u, self.condition(x, y))
        e = self.prior(z, y)[0]
        if e.shape[1] < self.code_values:
            e = torch.cat([e, self.decoder.encode(x, z, *self.decoder_condition(y))], 1)
        return without_nan(e, "code", names=names)

    def decode(
        self,
        e: Tensor,
        y: Tensor | None = None,
        decoder_temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The decoder's mean at a code: (B, D) -> (B, *shape); images in bins, not rounded.

        With a ``decoder_temperature`` T, a draw from the decoder instead, with T times its standard deviation; raises
        ``ValueError`` for decoders without ``draw``.
        """
        e, y = self.inputs(y, e=e)
        n = math.prod(self.latent)
        z, given, own = self.prior.inverse(e[:, :n], y), self.decoder_condition(y), e[:, n:]
        shape = self.decoder_noise or self.shape
        noise = math.prod(shape) - own.shape[1]  # beside the codes of the decoder's own latent
        draws = hasattr(self.decoder, "draw") and self.modality.dims is not None and noise > 0
        if decoder_temperature and not (0 <= decoder_temperature <= MAX_TEMPERATURE and draws):
            expected = f"0 to {MAX_TEMPERATURE:g}" if draws else "0, of a decoder of means"
            raise InputError(f"expected {expected}, found {decoder_temperature:g}", "decoder_temperature")
        if own.shape[1] or decoder_temperature:
            drawn = self.normal(len(e), (noise,), generator) if decoder_temperature else e.new_zeros(len(e), noise)
            x = self.decoder.draw(z, *given, noise=torch.cat([own, decoder_temperature * drawn], 1).unflatten(1, shape))
        else:
            x = self.decoder.mean(z, *given)
        return without_nan(self.preprocess.inverse(x), "decoded value")

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        decoder_temperature: float | None = None,
    ) -> Tensor:
        """n samples from e ~ temperature N(0, I): (n, *shape), images in bins; sentences greedily, (n, T).

        They are means of the decoder, or draws where there is a ``decoder_temperature``, as of a flow (default: 0.7).
        Raises ``ValueError`` for a temperature that is not 0 to 100, and for n below 1.
        """
        if not hasattr(n, "__index__") or n < 1:
            raise InputError(f"expected a whole number of 1 or more, found {n}", "n")
        if not 0 <= temperature <= MAX_TEMPERATURE:
            raise InputError(f"expected 0 to {MAX_TEMPERATURE:g}, found {temperature:g}", "temperature")
        if decoder_temperature is None:
            decoder_temperature = self.decoder_temperature
        return self.decode(temperature * self.codes(n, generator), y, decoder_temperature, generator)

    @torch.no_grad()
    def impute(
        self, x: Tensor, y: Tensor | None = None, candidates: int = 32, generator: torch.Generator | None = None
    ) -> Tensor:
        """Rows of a table with their missing cells drawn from p(missing|observed), approximately: (B, C) to itself.

        Each row is one of ``candidates``: z from the posterior given what is observed, and cells from the decoder,
        resampled with weights p(observed|z) p(z) / q(z|observed), which is exact for many candidates. Raises
        ``ValueError`` for models without a decoder by column.
        """
        if not hasattr(self.decoder, "fill"):
            raise InputError("expected a model of a table with a schema, found another")
        x, y = self.inputs(y, x)
        size = max(1, IMPUTED // candidates)
        if len(x) > size:
            parts = [(x[i : i + size], None if y is None else y[i : i + size]) for i in range(0, len(x), size)]
            return torch.cat([self.impute(*part, candidates, generator) for part in parts])
        n, given = len(x), x
        x, y = x.repeat(candidates, 1), None if y is None else y.repeat(candidates, *(y.ndim - 1) * [1])
        u, noise = (self.normal(len(x), shape, generator) for shape in (self.posterior_noise, self.shape))
        z, log_det = self.posterior(u, self.condition(x, y))
        e, log_det_prior = self.prior(z, y)
        filled = self.decoder.fill(x, z, noise)
        observed = total(self.decoder.by_column(filled, z).masked_fill(x.isnan(), 0.0))
        log_weights = log_normal(e) + log_det_prior + observed - log_normal(u) + log_det
        weights = log_weights.double().unflatten(0, (candidates, n)).softmax(0).T
        shares = torch.rand(n, 1, dtype=weights.dtype, generator=generator).to(weights.device)
        chosen = (shares > weights.cumsum(1)[:, :-1]).sum(1)
        drawn = filled.unflatten(0, (candidates, n))[chosen, torch.arange(n, device=x.device)]
        return torch.where(given.isnan(), drawn, given)

    @property
    def decoder_temperature(self) -> float:
        """The temperature of the decoder that samples are drawn at, 0 where they are its means."""
        return getattr(self.decoder, "temperature", 0.0)


def importance_bound(terms: Iterable[Terms]) -> Tensor:
    """The K-sample bound on -log p(x), in nats (B,): -log 1/K sum_k exp(-(rate_k + distortion_k)).

    It is computed in float64, on the CPU, since not every device has that type.

    In the mean over the draws it falls towards -log p(x) as K grows (Burda et al., 2016). Raises ``ValueError`` for
    terms that were not sampled, whose weights are not those of their draws.
    """
    terms = list(terms)
    if any(t.closed for t in terms):
        raise ValueError("terms: expected those of model(x, sampled=True), found a rate in closed form")
    log_weights = torch.stack([-(t.rate + t.distortion).cpu().double() for t in terms])
    return math.log(len(log_weights)) - torch.logsumexp(log_weights, 0)
