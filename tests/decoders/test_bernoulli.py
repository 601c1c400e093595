"""The Bernoulli decoder of binary images: its probability, its start and its draws."""

import torch
from torch.distributions import Bernoulli, Independent

from fvae import initialize
from fvae.recipes import BernoulliDecoder, Strided, vae

SHAPE = (2, 8, 8)


def make():
    return vae(SHAPE, coder=Strided(size=3, width=4, levels=1), decoder=BernoulliDecoder(), bits=1)


@torch.no_grad()
def test_its_probability_start_and_draws():
    """log p as torch has it; p begins at the data's mean by channel; draws have p as their mean."""
    model, share = make(), torch.tensor([0.1, 0.6])[:, None, None]
    x = (torch.rand(500, *SHAPE) < share).float()
    z = torch.randn(500, 3)
    p = model.decoder.mean(z)
    torch.testing.assert_close(model.decoder(x, z), Independent(Bernoulli(p), 3).log_prob(x))
    model.decoder.net[-1].weight.zero_()
    initialize(model, x)
    p = model.decoder.mean(z)
    torch.testing.assert_close(p, x.mean((0, 2, 3), keepdim=True).expand_as(p))
    drawn = model.decoder.draw(z, noise=torch.randn(500, *SHAPE))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean((0, 2, 3)), share.flatten(), atol=0.02, rtol=0)
    assert torch.equal(model.decoder.draw(z, noise=torch.zeros(500, *SHAPE)), (p > 0.5).float())
    sampled = model.sample(3, decoder_temperature=1.0)
    assert set(sampled.unique().tolist()) == {0.0, 1.0}
