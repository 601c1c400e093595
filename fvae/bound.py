"""The one objective. A latent model is three rooms, posterior, decoder and prior, on one path from noise to noise:

    x                      x                       y
    v                      ^ decoder q(x|z)        v
    u --> posterior F_x --> z ------------> prior P_y --> e ~ N(0, I)
          + log|det|                        + log|det|

    loss = log N(u) - log|det F_x| - log q(x|z) - ( log N(e) + log|det P_y| )

in the mean over u an upper bound on -log q(x), in nats (Su & Wu, 2018). VAE, flows and f-VAE are choices of the rooms.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fvae.atoms import colour, log_normal, mean_log_normal, total
from fvae.flows import ActNorm, Chain, Colour, Flow, one_by_one
from fvae.params import ClassMeans, Relative, Running, across

Number = TypeVar("Number", float, Tensor)


class Terms(NamedTuple):
    """The four terms of the objective, in nats, each (B,)."""

    log_u: Tensor  # log N(u; 0, I)
    logdet: Tensor  # log |det dF_x(u)/du|
    log_x: Tensor  # log q(x|z)
    log_z: Tensor  # log q(z|y): log N(e) + log |det| of the prior
    kl: Tensor | None = None  # (B, d): the rate by dimension, where posterior and prior are both Gaussian

    @property
    def rate(self) -> Tensor:
        """log p(z|x) - log q(z|y): what z costs; its mean over u is KL(p(z|x) || q(z|y))."""
        return self.log_u - self.logdet - self.log_z

    @property
    def distortion(self) -> Tensor:
        """-log q(x|z): what x costs once z is known."""
        return -self.log_x

    def loss(self, beta: float = 1.0, free: float = 0.0, free_each: float = 0.0) -> Tensor:
        """Mean over the batch of distortion + beta rate: a scalar, nats a sample.

        Of the rate's mean, ``free`` nats cost nothing less: max(rate, free) is what counts, so that nothing is gained
        by a rate below it; of that of each dimension, ``free_each`` (free bits; Kingma et al., 2016). Raises
        ``ValueError`` for ``free_each`` where the rate has no parts.
        """
        rate = self.rate.mean()
        if free_each:
            if self.kl is None:
                raise ValueError(
                    "free_each: expected a Gaussian posterior and prior, whose rate has a part a dimension"
                )
            rate = across(self.kl.mean(0)).clamp(min=free_each).sum()
        return self.distortion.mean() + beta * (across(rate).clamp(min=free) if free else rate)


def bits_per_dim(nats: Number, dims: int) -> Number:
    """Nats a sample to bits a dimension: the one place where they are converted."""
    return nats / (dims * math.log(2))


class LatentModel(nn.Module):
    """Posterior, decoder and prior in one model; see the top of this module.

    ``shape`` is a data sample's shape and ``latent`` that of z (and of u, unless the posterior says otherwise); images
    enter and leave in bins 0 .. 2^bits - 1, other data on their own scale, from which ``scale`` (a flow) brings them to
    the networks'; its volume counts for log q(x|z). The prior ends in flat codes e of D values, and may take labels y.
    Calling the model gives the ``Terms`` to train on; labels to a recipe's model without classes raise ``ValueError``.
    """

    shape: Any
    posterior: Any  # Flow; Any, since mypy takes every attribute of a module for a tensor
    decoder: Any  # a likelihood
    prior: Any  # Flow
    scale: Any  # Flow
    config: dict[str, Any]  # recipe, shape and settings; empty where no recipe made it

    def __init__(
        self,
        posterior: Flow,
        decoder: nn.Module,
        prior: Flow,
        shape: tuple[int, ...],
        latent: tuple[int, ...],
        scale: Flow | None = None,
    ):
        super().__init__()
        self.posterior, self.decoder, self.prior = posterior, decoder, prior
        self.scale = Chain() if scale is None else scale
        self.shape, self.latent, self.config = shape, latent, {}
        self.noise_shape = getattr(posterior, "noise_shape", latent)

    @property
    def gaussian(self) -> bool:
        """Whether posterior and prior are both Gaussian, so that the rate's mean over u is known: see ``forward``."""
        return isinstance(self.posterior, Colour) and self.prior.translates

    def forward(self, x: Tensor, y=None, u: Tensor | None = None, sampled: bool = False) -> Terms:
        """The objective's terms for x (B, *shape), with u (B, *noise_shape) given or drawn.

        Of a Gaussian posterior and prior, log N(u) and log q(z) are given as their means over u, so that the rate is
        KL = 1/2 sum (mu^2 + sigma^2 - log sigma^2 - 1) without noise: near collapse the sampled one's gradient has
        thousands of times the variance. With ``sampled`` every term is that of the u at hand.
        """
        u = self.noise(len(x)) if u is None else u
        return self.draws(x, y, [u], sampled)[0]

    def draws(self, x: Tensor, y: Any, us: list[Tensor], sampled: bool = False) -> list[Terms]:
        """``forward`` for several u, in one pass of a Gaussian posterior's network, which doesn't see them."""
        x, volume = self.scale(x)
        given = self.given(x, y)
        if not isinstance(self.posterior, Colour):
            return [self.terms(x, y, volume, u, *self.posterior(u, given)) for u in us]
        mean, log_std = (a.expand_as(us[0]) for a in self.posterior.params(given))
        found = [self.terms(x, y, volume, u, *colour(u, mean, log_std)) for u in us]
        if not self.gaussian:
            return found
        e = self.prior(mean, y)[0]
        kl = 0.5 * (e.square() + (torch.exp(2 * log_std) - 2 * log_std - 1).flatten(1))
        if sampled:
            return [t._replace(kl=kl) for t in found]
        log_u = torch.full_like(found[0].log_u, mean_log_normal(e[0].numel()))
        return [t._replace(log_u=log_u, log_z=log_u - t.logdet - total(kl), kl=kl) for t in found]

    def terms(self, x: Tensor, y: Any, volume: Tensor | float, u: Tensor, z: Tensor, logdet: Tensor) -> Terms:
        """The four terms of one path, u to z to e."""
        e, logdet_prior = self.prior(z, y)
        return Terms(log_normal(u), logdet, self.decoder(x, z) + volume, log_normal(e) + logdet_prior)

    @property
    def classes(self) -> int:
        """How many labels the prior knows; 0 where it takes none."""
        last = self.prior.flows[-1] if isinstance(self.prior, Chain) else self.prior
        means = getattr(last, "params", None)
        return len(means.mean) if isinstance(means, ClassMeans) else 0

    def given(self, x: Tensor, y: Any) -> Any:
        """The posterior's condition: x, and y where a part of it wants that too."""
        self.need_classes(y)
        return (x, y) if isinstance(getattr(self.posterior, "params", None), Relative) else x

    def need_classes(self, y: Any) -> None:
        """Refuse labels that a recipe's model has no place for; raises ``ValueError``."""
        if y is not None and self.config and not self.classes:
            raise ValueError("expected no labels y: this model was made without classes")

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """u ~ N(0, I): (n, *noise_shape), of the model's type and on its device, wherever the generator draws."""
        return self.normal(n, self.noise_shape, generator)

    def codes(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """e ~ N(0, I): (n, D), of the model's type and on its device, wherever the generator draws."""
        return self.normal(n, self.latent, generator).flatten(1)

    def normal(self, n: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        like = next(self.parameters())
        device = like.device if generator is None else generator.device
        return torch.randn(n, *shape, dtype=like.dtype, device=device, generator=generator).to(like.device)

    def encode(self, x: Tensor, y=None) -> Tensor:
        """The code of x at u = 0 (the mean of a Gaussian posterior; the middle of the bin): (B, *shape) -> (B, D)."""
        like = next(self.parameters())
        u = torch.zeros(len(x), *self.noise_shape, dtype=like.dtype, device=like.device)
        z, _ = self.posterior(u, self.given(self.scale(x)[0], y))
        return self.prior(z, y)[0]

    def decode(self, e: Tensor, y=None) -> Tensor:
        """The decoder's mean at a code: (B, D) -> (B, *shape); images in bins, not rounded."""
        self.need_classes(y)
        return self.scale.inverse(self.decoder.mean(self.prior.inverse(e, y)))

    @torch.no_grad()
    def sample(self, n: int, y=None, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """n samples from e ~ temperature N(0, I): (n, *shape), images in bins; sentences greedily, (n, T)."""
        return self.decode(temperature * self.codes(n, generator), y)


def some_labels(model: LatentModel, n: int, generator: torch.Generator | None = None) -> Tensor | None:
    """n labels drawn evenly from those that the prior knows; None where it takes none."""
    if not model.classes:
        return None
    return torch.randint(model.classes, (n,), generator=generator).to(next(model.parameters()).device)


def fit_actnorms(model: nn.Module, x: Tensor, y=None) -> None:
    """Set every ``ActNorm`` from one batch, in one pass: each sees the output of those before it, already set.

    Call it once, before training (and before compiling or wrapping for several devices), with a large batch x
    (256 is enough). A loaded model needs none.
    """
    hooks = [
        m.register_forward_pre_hook(lambda flow, args: flow.fit(args[0]))
        for m in model.modules()
        if isinstance(m, ActNorm)
    ]
    try:
        with torch.no_grad(), one_by_one(model):
            model(x, y)
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def fit_statistics(model: LatentModel, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Set what evaluation knows of the data, in batch-normalised posteriors and best deviations, from these batches.

    The statistics of averaged weights are not the average of statistics. A model without any is left alone.
    """
    known = [m for m in model.modules() if isinstance(m, Running)]
    if not known:
        return
    for running in known:
        running.restart()
    in_decoder = any(isinstance(m, Running) for m in model.decoder.modules())
    before, generator = model.training, torch.Generator().manual_seed(0)
    model.train()
    for x, y in batches:
        u = model.noise(len(x), generator)
        if in_decoder:
            model(x, y, u)
        else:
            model.posterior(u, model.given(model.scale(x)[0], y))
    model.train(before)


def importance_bound(terms: Iterable[Terms]) -> Tensor:
    """The K-sample bound on -log q(x), in nats (B,): -log 1/K sum_k exp(-(rate_k + distortion_k)).

    In the mean over the draws it falls towards -log q(x) as K grows (Burda et al., 2016). Raises ``ValueError`` for
    terms that were not sampled, whose weights are not those of their draws.
    """
    terms = list(terms)
    if any(t.kl is not None and t.kl.numel() and (t.log_u == mean_log_normal(t.kl.shape[1])).all() for t in terms):
        raise ValueError("expected terms of model(x, sampled=True), found a rate in closed form")
    log_weights = torch.stack([-(t.rate + t.distortion).cpu().double() for t in terms])
    return math.log(len(log_weights)) - torch.logsumexp(log_weights, 0)
