"""What a latent says of the data, where the answer is known."""

import math

import numpy as np
import pytest
import torch
from conftest import perturb
from text_models import LSTM, SHAPE, as_samples, make_text_vae, sentences
from torch import nn

from fvae.data import Samples
from fvae.metrics import LatentInformation, has_gaussian_posterior, latent_information, verdict
from fvae.metrics.latent import derangement, mutual_information, mutual_information_given
from fvae.recipes import bn_vae, glow, language_model, vae
from fvae.statistics import fit_statistics
from fvae.tokens import EOS


class KnownMean(nn.Module):
    """mean(x) = the first token times ``apart``, std 1: a posterior whose information is known."""

    def __init__(self, apart: float | list[float]):
        super().__init__()
        self.apart = nn.Parameter(torch.tensor(apart))

    def forward(self, x):
        mean = self.apart * x[:, :1].to(self.apart.dtype).expand(-1, 4)
        return mean, torch.zeros(())


def test_mutual_information_of_equal_and_of_disjoint_posteriors():
    """0 where the posterior does not depend on x, log N where posteriors don't touch, and what two halves share."""
    model = make_text_vae(0.3).eval()
    first = torch.arange(40) % 2 + 4
    x = torch.stack([first, torch.full((40,), EOS)], 1)
    model.posterior.conditioner = KnownMean(0.0)
    assert latent_information(model, as_samples(x)).mutual_information == pytest.approx(0, abs=1e-5)
    model.posterior.conditioner = KnownMean(100.0)
    found = latent_information(model, as_samples(x), batch_size=7)
    assert found.mutual_information == pytest.approx(math.log(2), abs=1e-5)
    assert (found.active_units, found.units) == (4, 4)


def test_units_are_active_whose_mean_varies():
    """By more than 0.01: of variances 0, 0.005, 0.02 and 1 two do."""
    model = make_text_vae(0.3).eval()
    x = torch.stack([torch.arange(40) % 2 + 4, torch.full((40,), EOS)], 1)  # whose first token has variance 1/4
    model.posterior.conditioner = KnownMean([0.0, 0.02**0.5, 0.08**0.5, 2.0])
    assert latent_information(model, as_samples(x)).active_units == 2


def test_the_shuffled_gap_is_the_cost_of_the_latent_of_another_sample():
    """Of -log p(x|z) = |z - mean(x)|^2 / 2: half the mean square between the means of two, 0 if they are the same."""
    x = torch.stack([torch.arange(2000) % 2 + 4, torch.full((2000,), EOS)], 1)
    for apart in (0.0, 3.0):
        model = make_text_vae().eval()
        model.posterior.conditioner = known = KnownMean(apart)
        model.decoder.forward = lambda x, z, known=known: -0.5 * (z - known(x)[0]).square().sum(1)
        gap = latent_information(model, as_samples(x)).shuffled_gap
        assert gap == pytest.approx(apart**2, abs=0.5)  # 4 dimensions, half apart


def test_mutual_information_does_not_depend_on_where_means_are():
    """Far off, in double precision, as near 0."""
    mean, log_std = torch.randn(50, 3).double(), torch.full((50, 3), -6.0).double()
    z = mean + torch.exp(log_std) * torch.randn_like(mean)
    near, far = (mutual_information(mean + shift, log_std, z + shift) for shift in (0.0, 1e6))
    assert near == pytest.approx(math.log(50), abs=1e-3) and far == pytest.approx(near, abs=1e-3)


def test_mutual_information_of_two_gaussians(float64):
    """Of posteriors N(0, 1) and N(3, 1/4), which overlap, it is the integral."""
    std = torch.tensor([1.0, 0.5])
    mean, log_std = (a.repeat(50_000)[:, None] for a in (torch.tensor([0.0, 3.0]), std.log()))
    few = slice(0, 2)
    z = torch.linspace(-12, 15, 200_001)
    p = torch.exp(-0.5 * ((z - mean[few]) / std[:, None]).square()) / (std[:, None] * math.sqrt(2 * math.pi))
    exact = 0.5 * torch.trapezoid(p * torch.log(p / p.mean(0)).nan_to_num(), z).sum()
    drawn = mean + torch.exp(log_std) * torch.randn_like(mean)
    one_by_one = [mutual_information(mean[few], log_std[few], drawn[i : i + 2], 1) for i in range(0, 4000, 2)]
    assert sum(one_by_one) / 2000 == pytest.approx(float(exact), abs=0.03)


def test_the_marginal_kl_and_the_codes_moments_are_those_of_the_aggregate_posterior():
    """Of posteriors N(3 k, 1) for k = 4 or 5, in 4 dimensions, under a prior N(0, I)."""
    x = torch.stack([torch.arange(2000) % 2 + 4, torch.full((2000,), EOS)], 1)
    model = make_text_vae().eval()
    model.posterior.conditioner = KnownMean(3.0)
    found = latent_information(model, as_samples(x))
    rate = 4 * (12**2 + 15**2) / 4  # the mean of |mean|^2 / 2
    assert found.marginal_kl == pytest.approx(rate - found.mutual_information, rel=0.01)
    assert found.code_mean == pytest.approx(13.5, rel=0.01)
    assert found.code_variance == pytest.approx(1 + 1.5**2, rel=0.1)
    model.posterior.conditioner = KnownMean(0.0)
    found = latent_information(model, as_samples(x))
    assert abs(found.marginal_kl) < 0.05 and found.code_mean < 0.1 and found.code_variance == pytest.approx(1, abs=0.1)


def test_the_marginal_kl_given_labels(float64):
    """Of posteriors that say the label alone, which the prior knows too, nothing is missed, where I(x; z) is log 3."""
    labels = np.arange(600) % 3
    mean = 10.0 * torch.from_numpy(labels)[:, None].double().expand(-1, 2)
    log_std, z = torch.zeros(600, 2), mean + torch.randn(600, 2)
    assert mutual_information(mean, log_std, z) == pytest.approx(math.log(3), abs=0.01)
    assert mutual_information_given(labels, mean, log_std, z) == pytest.approx((0, math.log(200)), abs=0.01)
    model = bn_vae((4,), coder={"size": 2, "width": 8}, classes=3)
    rows = Samples(torch.randn(600, 4).numpy().astype(np.float32), [""] * 600, labels)
    fit_statistics(model, [(torch.from_numpy(rows.values).double(), torch.from_numpy(labels))])
    assert latent_information(model.eval(), rows).marginal_kl > -0.05


@pytest.mark.parametrize(
    ("posterior", "floor"),
    [({"kind": "one-sided", "gamma": 0.5}, 3 * 0.125), ({"kind": "two-sided", "tau": 0.5}, 1.5 * math.log(2))],
)
def test_the_rate_is_above_the_floor_of_its_settings(posterior, floor):
    model = perturb(bn_vae((4,), posterior=posterior, coder={"size": 3, "width": 8}), 0.3)
    rows = Samples(torch.randn(500, 4).numpy(), [""] * 500)
    fit_statistics(model, [(torch.from_numpy(rows.values), None)])
    found = latent_information(model.eval(), rows)
    assert found.rate_floor == pytest.approx(floor)
    assert found.marginal_kl + found.mutual_information > floor - 0.1


def test_the_verdict_on_a_latent():
    fine = LatentInformation(3.0, 8, 8, 20.0, 0.2, 0.05, 1.02, 0.0, False, 0.0)
    assert verdict(fine, 10_000).startswith("used: the data's codes fill the prior")
    assert verdict(fine._replace(mutual_information=9.2), 10_000).startswith(
        "used: the codes distinguish all 10000 samples"
    )
    assert verdict(fine._replace(mutual_information=0.01, shuffled_gap=0.0), 10_000).startswith("collapsed")
    assert verdict(fine._replace(marginal_kl=9.0), 10_000).startswith("holes: samples of the prior miss")
    assert verdict(fine._replace(marginal_kl=9.0, saturated=True), 10_000).startswith("used: the data's codes fill")
    assert verdict(fine._replace(code_variance=0.5), 10_000).startswith("holes: the data's codes have variance 0.5")


@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_a_derangement_leaves_nothing_in_its_position(n):
    found = derangement(n, torch.Generator().manual_seed(0))
    assert sorted(found.tolist()) == list(range(n))
    assert n == 1 or not (found == torch.arange(n)).any()


def test_information_does_not_depend_on_units(float64):
    """Of tabular data it is the same in meters and in millimeters, in every figure."""
    found = []
    for scale in (1.0, 1000.0):
        torch.manual_seed(0)
        x = torch.randn(60, 3)
        model = perturb(vae((3,), coder={"size": 2, "width": 8}), 0.3)
        model.preprocess.fit(x * scale)
        found.append(latent_information(model.eval(), Samples((x * scale).numpy(), [""] * 60)))
    assert found[0] == pytest.approx(found[1], rel=1e-6) and found[0].shuffled_gap != 0


def test_a_trained_decoder_uses_the_latent():
    """After 150 steps the latent of another sentence costs nats, as the rate and the mutual information say."""
    model, x = make_text_vae(posterior={"kind": "one-sided", "gamma": 1.0}), sentences(64)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(x).loss().backward()
        optimizer.step()
    fit_statistics(model, [(x, None)])
    found = latent_information(model.eval(), as_samples(x))
    assert found.shuffled_gap > 1 and 0.5 < found.mutual_information <= math.log(64)


def test_a_decoder_that_does_not_use_the_latent_has_no_gap():
    model = make_text_vae(0.3).eval()
    for name, p in model.decoder.net.named_parameters():
        if name in ("start", "skip"):
            p.data.zero_()
        if name == "lstm.weight_ih_l0":
            p.data[:, LSTM["embedding"] :] = 0
    assert latent_information(model, as_samples(sentences(30))).shuffled_gap == pytest.approx(0, abs=1e-5)


def test_only_gaussian_posteriors_have_figures_of_their_latent():
    """A flat latent whose posterior offers mean and deviation: not a flow's, and not without a latent."""
    x = sentences(6)
    assert has_gaussian_posterior(make_text_vae(), as_samples(x))
    assert not has_gaussian_posterior(language_model(SHAPE, decoder=LSTM), as_samples(x))
    flow, rows = glow((3,), flow={"depth": 1, "width": 8}), Samples(torch.randn(6, 3).numpy(), [""] * 6)
    assert not has_gaussian_posterior(flow, rows)
    with pytest.raises(ValueError, match="model: expected a Gaussian posterior"):
        latent_information(flow, rows)


def test_mutual_information_is_within_its_limits_far_from_the_origin():
    """Whatever rounding leaves of differences between means of any size."""
    mean = 10.0 ** torch.arange(12, dtype=torch.float64)[:, None].repeat(1, 3) * torch.tensor([1.0, -1.0, 1e20])
    found = mutual_information(mean, torch.zeros_like(mean), mean + torch.randn_like(mean))
    assert 0 <= found <= math.log(12)
