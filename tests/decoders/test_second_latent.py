"""The decoder with a latent of its own: its bound, term by term, and its draws."""

import math

import numpy as np
import pytest
import torch
from conftest import perturb
from small import bins
from torch.distributions import Independent, Normal

from fvae import fit, initialize
from fvae.data import Samples
from fvae.flows import ActNorm
from fvae.flows.fused import one_by_one
from fvae.metrics import latent_information
from fvae.model import importance_bound
from fvae.recipes import FlowDecoder, Glow, Grid, LatentDecoder, f_vae_reduced
from fvae.terms import log_likelihood

SHAPE, FINE = (2, 8, 4), (3, 4, 2)
PARTS = {"coder": Grid(channels=3, levels=1, width=4), "flow": Glow(levels=1, depth=2, width=6), "features": 3}
COARSE = {"coder": Grid(channels=4, levels=2, width=4), "flow": "none", "bits": 3}


@pytest.fixture
def model(float64):
    return perturb(f_vae_reduced(SHAPE, **COARSE, decoder=LatentDecoder(**PARTS)), 0.2).eval()


def given(decoder, x, z):
    """The inner encoder's input, the image on the grid, and what the inner decoder sees beside w."""
    m, log_std = decoder.parameters_for(z)
    t = (x + 0.5) / 2 ** (decoder.bits - 1) - 1
    return torch.cat([(t - m) / log_std.exp(), m], 1), *decoder.on_the_grid(m, z)


@torch.no_grad()
def test_its_terms_are_those_of_the_finer_latent(model):
    """log q(w|x,z) = log N(v) - log |det|, log p(w|z) by the Jacobian of its flow, and log p(x|z,w)."""
    decoder, x, z, noise = model.decoder, bins(3, SHAPE, 3), torch.randn(3, 4, 2, 1), torch.randn(3, math.prod(FINE))
    found, v = decoder(x, z, noise=noise), noise.view(3, *FINE)
    seen, small, h = given(decoder, x, z)
    mean, log_std = decoder.posterior.gaussian(seen)
    w = mean + log_std.exp() * v
    log_q = Independent(Normal(mean, log_std.exp().expand_as(mean)), 3).log_prob(w)
    torch.testing.assert_close(found.log_u - found.log_det, log_q)
    features = decoder.features(small, z)
    for i in range(3):
        cond = {height: f[i : i + 1] for height, f in features.items()}
        code = lambda w, cond=cond: decoder.prior(w[None], cond)[0][0]  # noqa: E731
        with torch.enable_grad():
            jacobian = torch.autograd.functional.jacobian(code, w[i]).flatten(1)
        expected = Normal(0, 1).log_prob(code(w[i])).sum() + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(found.log_z[i], expected)
    torch.testing.assert_close(found.log_x, decoder.decoder(x, torch.cat([h, w], 1)))
    torch.testing.assert_close(log_likelihood(found), found.log_x + found.log_z - log_q)


@torch.no_grad()
def test_the_bound_adds_the_terms_of_both_latents(model):
    """Its rate is that of z and of w given z, so that what weighs the rate in training weighs both."""
    x, u = bins(4, SHAPE, 3), model.noise(4)
    assert u.shape == (4, 8 + math.prod(FINE))
    terms = model(x, u=u, sampled=True)
    z, log_det = model.posterior(u[:, :8].view(4, 4, 2, 1), x)
    inner = model.decoder(x, z, noise=u[:, 8:])
    rate = Normal(0, 1).log_prob(u[:, :8]).sum(1) - log_det - Normal(0, 1).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(terms.rate, rate + inner.rate)
    torch.testing.assert_close(terms.distortion, inner.distortion)
    assert terms.kl is None
    closed = torch.stack([model(x).rate for _ in range(4000)]).mean(0)
    sampled = torch.stack([model(x, sampled=True).rate for _ in range(4000)]).mean(0)
    torch.testing.assert_close(closed, sampled, atol=0.3, rtol=0.02)


@torch.no_grad()
def test_two_estimates_of_its_likelihood_agree(float64):
    """log p(x|z) by w from the prior, and importance-weighted by w from the posterior."""
    parts = PARTS | {"coder": Grid(channels=2, levels=1, width=4)}
    model = f_vae_reduced((1, 4, 4), **COARSE | {"coder": Grid(channels=1, levels=2, width=4)}, decoder=LatentDecoder(
        **parts, posterior={"kind": "noise", "sigma": 1.3, "std": "fixed"}, decoder={"sigma": 1.0}
    ))  # fmt: skip
    decoder = perturb(model, 0.1).eval().decoder
    x, z, n = bins(1, (1, 4, 4), 3), torch.randn(1, 1, 1, 1), 40_000
    many_x, many_z = x.expand(n, -1, -1, -1), z.expand(n, -1, -1, -1)
    terms = decoder(many_x, many_z, noise=torch.randn(n, 8))
    by_posterior = torch.logsumexp(log_likelihood(terms), 0) - math.log(n)
    _, small, h = given(decoder, many_x, many_z)
    w = decoder.prior.inverse(torch.randn(n, 8), decoder.features(small, many_z))
    by_prior = torch.logsumexp(decoder.decoder(many_x, torch.cat([h, w], 1)), 0) - math.log(n)
    assert abs(by_posterior - by_prior) < 0.05
    assert log_likelihood(terms).mean() < by_prior - 0.05  # a bound, and not a tight one here


@torch.no_grad()
@pytest.mark.parametrize("inner", [{}, {"decoder": FlowDecoder(flow=Glow(levels=1, depth=1, width=4), features=3)}])
def test_a_draw_is_the_image_of_its_codes(float64, inner):
    """w's code, and the noise of the decoder that it gives way to."""
    model = perturb(f_vae_reduced(SHAPE, **COARSE, decoder=LatentDecoder(**PARTS, **inner)), 0.2).eval()
    decoder, z, noise = model.decoder, torch.randn(3, 4, 2, 1), model.normal(3, model.decoder_noise, None)
    assert noise.shape[1] == math.prod(FINE) + (math.prod(SHAPE) if inner else 0)
    m, _ = decoder.parameters_for(z)
    small, h = decoder.on_the_grid(m, z)
    w = decoder.prior.inverse(noise[:, : math.prod(FINE)], decoder.features(small, z))
    seen = torch.cat([h, w], 1)
    rest = {"noise": noise[:, math.prod(FINE) :].view(3, *SHAPE)} if inner else {}
    expected = decoder.decoder.draw(seen, **rest) if inner else decoder.decoder.mean(seen)
    torch.testing.assert_close(decoder.draw(z, noise=noise), expected)
    assert torch.equal(decoder.mean(z), decoder.draw(z, noise=torch.zeros_like(noise)))
    assert model.decoder_temperature == (0.7 if inner else 0) and model.sample(2).shape == (2, *SHAPE)


@torch.no_grad()
def test_latents_of_three_scales(float64):
    """A decoder in a decoder in a decoder: the bound of one draw is the sum of all terms."""
    finest = LatentDecoder(**PARTS | {"coder": Grid(channels=2, levels=1, width=4)})
    middle = LatentDecoder(**PARTS | {"coder": Grid(channels=3, levels=2, width=4)}, decoder=finest)
    model = f_vae_reduced((1, 16, 16), **COARSE | {"coder": Grid(channels=4, levels=3, width=4)}, decoder=middle)
    x, values = bins(2, (1, 16, 16), 3), (4 * 4, 3 * 16, 2 * 64)
    assert model.noise_shape == (sum(values),) and model.elbo(x).isfinite().all()
    assert model.sample(2).shape == x.shape
    assert model(x, u=torch.zeros(2, sum(values)), sampled=True).log_u[0] == pytest.approx(
        -0.5 * sum(values) * math.log(2 * math.pi)
    )


def test_sizes_that_it_cannot_halve_are_refused():
    with pytest.raises(ValueError, match=r"^decoder: expected images whose height and width are multiples of 16"):
        f_vae_reduced((1, 8, 12), coder=Grid(levels=1, width=4), decoder="latent")
    with pytest.raises(ValueError, match=r"^decoder: expected images"):
        f_vae_reduced((3,), decoder="latent")
    fine = {"kind": "latent", "coder": {"levels": 1}}
    with pytest.raises(ValueError, match=r"^decoder.flow: expected one that takes a condition, as glow, found nice$"):
        f_vae_reduced((1, 8, 8), coder=Grid(levels=2, width=4), flow=Glow(levels=1), decoder=fine | {"flow": "nice"})
    inner = fine | {"decoder": {"kind": "flow", "flow": {"levels": 5}}}
    with pytest.raises(ValueError, match=r"^decoder.decoder: expected images whose height and width are multiples"):
        f_vae_reduced((1, 16, 16), coder=Grid(levels=2, width=4), flow=Glow(levels=1), decoder=inner)
    coarser = r"^decoder.coder.levels: expected a grid no coarser than .* 8 x 8, found 4 x 4$"
    with pytest.raises(ValueError, match=coarser):
        f_vae_reduced((1, 16, 16), coder=Grid(levels=1, width=4), decoder="latent")


@torch.no_grad()
@pytest.mark.parametrize("scales", [2, 3])
def test_the_codes_of_both_latents_give_the_reconstruction(float64, scales):
    """Which is the inner decoder's mean at the posteriors' means; codes of one are drawn with those of the other."""
    inner = {"decoder": LatentDecoder(**PARTS)} if scales == 3 else {}
    decoder = LatentDecoder(**PARTS | {"coder": Grid(channels=3, levels=scales - 1, width=4)}, **inner)
    coarse = COARSE | {"coder": Grid(channels=4, levels=scales, width=4)}
    model = perturb(f_vae_reduced((2, 8 * scales - 8, 8), **coarse, decoder=decoder), 0.2).eval()
    x = bins(3, model.shape, 3)
    e = model.encode(x)
    assert e.shape == (3, model.code_values) and model.codes(3).shape == e.shape
    z = model.posterior(torch.zeros(3, *model.latent), x)[0]
    decoder, seen = model.decoder, z
    for _ in range(scales - 1):
        m, of_posterior = decoder.seen(x, seen, None)
        w = decoder.posterior.gaussian(of_posterior)[0]
        seen, decoder = torch.cat([decoder.on_the_grid(m, seen)[1], w], 1), decoder.decoder
    torch.testing.assert_close(model.decode(e), decoder.mean(seen))
    with pytest.raises(ValueError, match=r"^e: expected codes \(N, "):
        model.decode(e[:, :-1])
    with pytest.raises(ValueError, match=r"^decoder_temperature: expected 0, of a decoder of means, found 0.5$"):
        model.decode(e, None, 0.5)


def test_its_actnorms_and_those_of_a_flow_start_from_the_difference_to_the_mean():
    """On dark images, whose mean G begins with: the flow's input then has deviation 1 and mean 0."""
    x = torch.randint(20, (200, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    for decoder in ({"kind": "flow", "flow": {"levels": 1, "depth": 1}}, LatentDecoder(**PARTS)):
        model = f_vae_reduced((1, 16, 16), coder=Grid(channels=4, levels=2, width=4), flow="none", decoder=decoder)
        seen = []
        flows = model.decoder.flow if isinstance(decoder, dict) else model.decoder.prior
        first = next(m for m in flows.modules() if isinstance(m, ActNorm))
        initialize(model, x)
        first.register_forward_hook(lambda flow, args, out, seen=seen: seen.append(out[0].detach()))
        with one_by_one(model):
            model(x)
        assert seen[0].mean((0, 2, 3)).abs().max() < 0.2 and (seen[0].std((0, 2, 3)) - 1).abs().max() < 0.2
        if isinstance(decoder, dict):
            assert -model.elbo(x).mean() / 256 / math.log(2) < 8


def test_closed_rates_are_refused_by_the_importance_weighted_bound():
    model = f_vae_reduced(SHAPE, **COARSE, decoder=LatentDecoder(**PARTS))
    x = bins(2, SHAPE, 3).float()
    assert importance_bound([model(x, sampled=True)]).isfinite().all()
    with pytest.raises(ValueError, match=r"^terms: expected those of model\(x, sampled=True\)"):
        importance_bound([model(x)])


def test_each_deviation_is_reported():
    """Two of one name by the path of the second."""
    decoder = LatentDecoder(**PARTS, posterior={"kind": "noise", "sigma": 0.3, "std": "fixed"})
    model = f_vae_reduced(SHAPE, **COARSE, decoder=decoder)
    x = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), dtype=np.uint8)
    last = fit(model, x, steps=2, batch_size=8, progress=False)[-1]
    found = {name for name in last if "sigma" in name}
    assert found == {"sigma_1", "sigma_2", "sigma_coarse", "decoder.posterior.conditioner.sigma_1"}
    assert last["decoder.posterior.conditioner.sigma_1"] == pytest.approx(0.3)


@torch.no_grad()
def test_what_the_second_latent_costs_is_reported(float64):
    """By ``latent_information``, which speaks of the first one otherwise: it is the difference of the rates."""
    model = perturb(f_vae_reduced(SHAPE, **COARSE, decoder=LatentDecoder(**PARTS)), 0.05).eval()
    data = Samples(bins(100, SHAPE, 3).numpy().astype(np.uint8) * 32, [""] * 100, modality=model.modality)
    found = latent_information(model, data)
    x = bins(100, SHAPE, 3)
    inner = model.decoder(x, model.posterior(torch.zeros(100, *model.latent), x)[0], noise=torch.randn(100, 24))
    assert found.second_rate == pytest.approx(float(inner.rate.mean()), rel=0.3)
    assert found.units == 8
