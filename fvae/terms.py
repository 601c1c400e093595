"""The four terms of the objective, of which training takes the mean."""

from typing import NamedTuple

from torch import Tensor

from fvae.conditioners import mean_over_processes


class Terms(NamedTuple):
    """The four terms of the objective, in nats, each (B,); of a decoder with a latent of its own, of both latents.

    Example:
        >>> terms = fvae.recipes.vae((4,))(torch.randn(8, 4))
        >>> torch.allclose(terms.loss(), (terms.rate + terms.distortion).mean())
        True
    """

    log_u: Tensor  # log N(u; 0, I)
    log_det: Tensor  # log |det dF_x(u)/du|
    log_x: Tensor  # log p(x|z)
    log_z: Tensor  # log p(z|y): log N(e) + log |det| of the prior
    kl: Tensor | None = None  # (B, d): the rate by dimension, where posterior and prior are both Gaussian
    closed: bool = False  # whether log_u and log_z, or a part of them, are means over u in closed form

    @property
    def rate(self) -> Tensor:
        """log q(z|x) - log p(z|y): what z costs; its mean over u is KL(q(z|x) || p(z|y))."""
        return self.log_u - self.log_det - self.log_z

    @property
    def distortion(self) -> Tensor:
        """-log p(x|z): what x costs once z is known."""
        return -self.log_x

    def loss(self, beta: float = 1.0, free_nats: float = 0.0, free_nats_per_dim: float = 0.0) -> Tensor:
        """Mean over the batch of distortion + beta rate: a scalar, nats a sample.

        With free nats, the rate counts as at least that much, so that nothing is gained by a rate below it: of the
        whole mean, or of each dimension's (free bits; Kingma et al., 2016). Raises ``ValueError`` for
        ``free_nats_per_dim`` where the rate has no parts.
        """
        rate = self.rate.mean()
        if free_nats_per_dim:
            if self.kl is None:
                raise ValueError(
                    "free_nats_per_dim: expected a Gaussian posterior and prior, whose rate has a part a dimension"
                )
            rate = mean_over_processes(self.kl.mean(0)).clamp(min=free_nats_per_dim).sum()
        return self.distortion.mean() + beta * (mean_over_processes(rate).clamp(min=free_nats) if free_nats else rate)

    def with_latent(self, inner: "Terms") -> "Terms":
        """These with those of a second latent, whose density is given z: each term of both, and all of log_x."""
        log_u, log_det, log_x, log_z = (a + b for a, b in zip(self[:4], inner[:4], strict=True))
        return Terms(log_u, log_det, log_x, log_z, closed=self.closed or inner.closed)


def log_likelihood(found: Tensor | Terms) -> Tensor:
    """What a decoder returns as log p(x|z), or its bound where the decoder has a latent of its own: (B,)."""
    return found if isinstance(found, Tensor) else -(found.rate + found.distortion)
