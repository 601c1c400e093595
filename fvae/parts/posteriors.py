"""The posterior q(z|x) of a recipe, with its settings."""

from typing import ClassVar, Literal

from torch import nn

from fvae import conditioners
from fvae.conditioners import ClassMeans, NetworkStd, SharedStd, by_channel, relative_to_class
from fvae.flows import ConditionalPosterior, Elementwise, Flow
from fvae.networks.by_shape import Shape, zero_layer
from fvae.parts.flows import Glow
from fvae.schema import Depth, OpenShare, Part, Positive, Width


class Posterior(Part):
    """The posterior q(z|x), Gaussian with what the encoder gives."""

    outputs: ClassVar[int] = 2
    """what the encoder gives for each latent value: a mean and a log-scale, or a mean"""

    def build(self, encoder: nn.Module, latent: Shape, means: ClassMeans | None) -> Flow:
        """The posterior as a flow of its noise, (B, *latent) to itself; ``means`` are those of the prior by label."""
        raise NotImplementedError


class GaussianPosterior(Posterior, kind="gaussian"):
    """Mean and standard deviation from the encoder (Kingma & Welling, 2014).

    Example:
        >>> model = fvae.recipes.vae((4,), posterior=fvae.GaussianPosterior(), coder=fvae.Strided(size=2, width=8))
        >>> model(torch.randn(3, 4)).kl.shape
        torch.Size([3, 2])
    """

    def build(self, encoder: nn.Module, latent: Shape, means: ClassMeans | None) -> Flow:
        return Elementwise(encoder)


class OneSided(Posterior, kind="one-sided"):
    """Batch-normalized means of fixed deviation, so that the KL can't vanish (Zhu et al., 2020).

    Example:
        >>> fvae.recipes.bn_vae((4,), posterior=fvae.OneSided(gamma=0.7)).elbo(torch.randn(8, 4)).shape
        torch.Size([8])
    """

    gamma: Positive = 0.5
    """standard deviation of the means; the KL is at least gamma^2 / 2 a dimension"""

    def build(self, encoder: nn.Module, latent: Shape, means: ClassMeans | None) -> Flow:
        normalized = conditioners.OneSidedBatchNorm(encoder, latent[0], self.gamma)
        return Elementwise(relative_to_class(normalized, means))


class TwoSided(Posterior, kind="two-sided"):
    """Means and deviations that share variance 1 over the data, so that the KL can't vanish (Su, 2020).

    Example:
        >>> fvae.recipes.bn_vae((4,), posterior=fvae.TwoSided(tau=0.3)).elbo(torch.randn(8, 4)).shape
        torch.Size([8])
    """

    tau: OpenShare = 0.5
    """least share of the means in the variance"""
    deviations: Literal["power", "batch"] = "power"
    """of deviations: divided by their root mean square, or batch-normalized as the means are (published)"""

    def build(self, encoder: nn.Module, latent: Shape, means: ClassMeans | None) -> Flow:
        normalized = conditioners.TwoSidedBatchNorm(encoder, latent[0], self.tau, self.deviations == "batch")
        return Elementwise(relative_to_class(normalized, means))


class LayerNormalized(Posterior, kind="layer-norm"):
    """Means and log-scales normalized over their dimensions: a control, as it bounds no KL (Su, 2020).

    Example:
        >>> fvae.recipes.bn_vae((4,), posterior=fvae.LayerNormalized()).elbo(torch.randn(8, 4)).shape
        torch.Size([8])
    """

    def build(self, encoder: nn.Module, latent: Shape, means: ClassMeans | None) -> Flow:
        return Elementwise(relative_to_class(conditioners.LayerNorm(encoder), means))


class FlowPosterior(Posterior, kind="flow"):
    """A flow of noise whose couplings see x, F_x(u) with x inside F (Su & Wu, 2018): exact, but not Gaussian.

    Example:
        >>> fvae.recipes.vae((4,), posterior=fvae.FlowPosterior(depth=2, width=8)).elbo(torch.randn(3, 4)).shape
        torch.Size([3])
    """

    outputs: ClassVar[int] = 3
    depth: Depth = 4
    """couplings"""
    width: Width = 64
    """hidden channels, or units, of the couplings' networks"""

    def build(self, encoder: nn.Module, latent: Shape, means: ClassMeans | None) -> Flow:
        return ConditionalPosterior(encoder, Glow(depth=self.depth, width=self.width).couplings(latent, latent[0]))


class Noise(Posterior, kind="noise"):
    """sigma_1 u + E(x): the mean from the encoder, with noise of one deviation (Su & Wu, 2018).

    Example:
        >>> fvae.recipes.f_vae_reduced((4,), posterior=fvae.Noise(sigma=0.2, std="fixed")).elbo(torch.randn(3, 4)).shape
        torch.Size([3])
    """

    outputs: ClassVar[int] = 1
    sigma: Positive = 0.005
    """sigma_1 at the start, in the units of [-1, 1] images"""
    std: Literal["scalar", "channel", "network", "fixed"] = "scalar"
    """one trained, one trained a channel, a network's output, or fixed as later latent flows have it"""
    normalize: bool = False
    """bring E(x) to mean 0 and deviation 1 by channel, so that sigma is in units of the latent's scale"""
    lr_scale: Positive = 30.0
    """learning rate of sigma, in units of the networks'"""

    def build(self, encoder: nn.Module, latent: Shape, means: ClassMeans | None) -> Flow:
        mean = nn.Sequential(encoder, conditioners.BatchNorm(latent[0], least=1e-6)) if self.normalize else encoder
        if self.std == "network":
            head = zero_layer(latent, latent[0])
            return Elementwise(NetworkStd(mean, head, self.sigma, self.lr_scale, name="sigma_1"))
        shape, trained = by_channel(latent) if self.std == "channel" else (), self.std != "fixed"
        return Elementwise(SharedStd(mean, self.sigma, trained, self.lr_scale, shape, name="sigma_1"))
