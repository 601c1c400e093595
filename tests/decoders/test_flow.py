"""The conditional flow as the decoder: its density, and its draws."""

import math

import pytest
import torch
from conftest import perturb
from small import bins
from torch.distributions import Normal

from fvae.networks.conv import ToImages
from fvae.networks.residual import zeroed
from fvae.parts.decoders import FlowDecoder
from fvae.recipes import Glow, Grid, f_vae_reduced

SHAPE = (2, 8, 4)


@pytest.fixture
def model(float64):
    settings = FlowDecoder(flow=Glow(levels=2, depth=2, width=6), features=3)
    made = f_vae_reduced(SHAPE, coder=Grid(channels=4, levels=1, width=4), flow="none", decoder=settings, bits=3)
    return perturb(made, 0.2).eval()


@torch.no_grad()
def test_it_is_the_density_of_the_noisy_bins(model):
    """By the Jacobian of the whole map from noisy bins to e: log N(e) + log |det de/d(x + U)|."""
    decoder, x, z, noise = model.decoder, bins(3, SHAPE, 3), torch.randn(3, 4, 4, 2), torch.randn(3, *SHAPE)
    found = decoder(x, z, noise=noise)

    def code(noisy, z):
        mean, log_std = decoder.parameters_for(z[None])
        t = noisy[None] / 4 - 1
        return decoder.flow((t - mean) * torch.exp(-log_std), decoder.features(mean, z[None]))[0][0]

    for i in range(3):
        noisy = x[i] + Normal(0, 1).cdf(noise[i])
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(lambda a, i=i: code(a, z[i]), noisy).flatten(1)
        expected = Normal(0, 1).log_prob(code(noisy, z[i])).sum() + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(found[i], expected)


@torch.no_grad()
def test_a_draw_is_the_image_of_its_code(model):
    """Which the flow takes back to it, where nothing leaves the bins' range."""
    decoder, z, e = model.decoder, 0.1 * torch.randn(5, 4, 4, 2), 0.01 * torch.randn(5, *SHAPE)
    zeroed(next(m for m in decoder.modules() if isinstance(m, ToImages)))
    decoder.conditioner.log_std.fill_(-5)
    x = decoder.draw(z, noise=e)
    inside = ((x > 0) & (x < 7)).flatten(1).all(1)
    assert inside.any()
    mean, log_std = decoder.parameters_for(z)
    t = (x + 0.5) / 4 - 1
    back = decoder.flow((t - mean) * torch.exp(-log_std), decoder.features(mean, z))[0]
    torch.testing.assert_close(back[inside], e.flatten(1)[inside])
    assert torch.equal(decoder.mean(z), decoder.draw(z, noise=torch.zeros_like(e)))


def test_the_temperature_of_the_decoder(model):
    """It has a seed, a range, and a default of its own; at 0 a sample is the decoder's mean."""
    e, seeds = model.codes(4), [torch.Generator().manual_seed(i) for i in (0, 0, 1)]
    a, b, c = (model.decode(e, None, 0.7, g) for g in seeds)
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, model.decode(e))
    assert model.decoder_temperature == 0.7
    one, other = (
        model.sample(2, generator=torch.Generator().manual_seed(0), decoder_temperature=t) for t in (None, 0.7)
    )
    assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"^decoder_temperature: expected 0 to 100, found -1$"):
        model.decode(e, None, -1)


def test_the_bound_takes_the_decoder_s_noise_as_part_of_u(model):
    x = bins(4, SHAPE, 3)
    assert model.noise_shape == (4 * 4 * 2 + math.prod(SHAPE),)
    u = model.noise(4)
    terms = model(x, u=u)
    z = model.posterior(u[:, :32].view(4, 4, 4, 2), x)[0]
    torch.testing.assert_close(terms.log_x, model.decoder(x, z, noise=u[:, 32:].view(4, *SHAPE)))


def test_sizes_that_the_flow_cannot_halve_are_refused():
    with pytest.raises(ValueError, match=r"^decoder: expected images whose height and width are multiples of 4, found"):
        f_vae_reduced((1, 8, 6), coder=Grid(levels=1, width=4), decoder="flow")
    with pytest.raises(ValueError, match=r"^decoder: expected images"):
        f_vae_reduced((3,), decoder="flow")
