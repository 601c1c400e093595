"""Sentences: the language models, text_vae in all its forms, and what a latent says."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import perturb
from small import each
from text_models import FLOW, LSTM, SHAPE, TABLE, TRANSFORMER, make_text_vae, sentences
from torch import Tensor

from fvae.decoders.language import choose
from fvae.model import LatentModel, Terms
from fvae.recipes import Noise, OneSided, TwoSided, language_model
from fvae.statistics import fit_statistics, initialize
from fvae.tokens import BOS, EOS, PAD, UNK
from fvae.training.optimization import parameter_groups

DECODERS = {"lstm": LSTM, "transformer": TRANSFORMER}
every = pytest.mark.parametrize("extra", TABLE.values(), ids=TABLE.keys())
softmaxes = pytest.mark.parametrize("softmax", ["full", "adaptive"])
decoders = pytest.mark.parametrize("decoder", ["lstm", "transformer"])


def made(amount: float = 0.0, decoder: str = "lstm", shape=SHAPE, posterior: Any = "two-sided", **settings: Any):
    """A small text_vae, perturbed; further settings are the decoder's."""
    return make_text_vae(amount, shape, posterior=posterior, decoder=DECODERS[decoder] | settings)


@every
def test_forty_steps_lower_the_loss(extra):
    """By a fifth at least, in training and, with the batch's statistics, in evaluation."""
    model = make_text_vae(**extra)
    x, y = sentences(32), model.draw_labels(32)
    initialize(model, x, y)
    before = model(x, y).loss().item()
    optimizer = torch.optim.Adam(parameter_groups(model, 1e-2, 0.0))
    for _ in range(40):
        optimizer.zero_grad()
        model(x, y).loss().backward()
        optimizer.step()
    fit_statistics(model, [(x, y)])
    for train in (True, False):
        assert model.train(train)(x, y).loss().item() < 0.8 * before


@pytest.mark.parametrize("posterior", ["one-sided", "two-sided"])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_flow_as_the_prior_leaves_normalized_means_alone(posterior, classes):
    """The flow's own means, and those of its classes, are in its codes: the posterior knows nothing of them."""
    model, x = make_text_vae(0.3, posterior=posterior, flow=FLOW, classes=classes), sentences(32)
    y = model.draw_labels(32)
    before = model.posterior.conditioner(model.condition(x, y))
    perturb(model.prior, 1.0)
    for a, b in zip(before, model.posterior.conditioner(model.condition(x, y)), strict=True):
        assert torch.equal(a, b)


@every
def test_every_parameter_has_a_gradient(extra):
    model = make_text_vae(0.1, **extra)
    x = sentences(8)
    model(x, model.draw_labels(8)).loss().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and (p.grad.any() or not p.numel()), name


@every
def test_the_bound_is_the_mean_of_its_samples(extra, float64):
    """A rate in closed form is the mean of the sampled ones, and its parts by dimension add up to it."""
    model = make_text_vae(0.1, **extra).eval()
    x, y = sentences(3), model.draw_labels(3)
    terms = model(x, y, model.noise(3))
    assert (terms.kl is not None) == ("flow" not in extra)
    if terms.kl is None:
        return
    torch.testing.assert_close(terms.kl.sum(1), terms.rate, rtol=1e-10, atol=1e-10)
    draws = torch.stack([t.rate for t in model.draws(x, y, [model.noise(3) for _ in range(4000)], sampled=True)])
    assert ((draws.mean(0) - terms.rate).abs() < 5 * draws.std(0) / math.sqrt(4000)).all()


@every
def test_terms_do_not_depend_on_padding_or_on_the_batch(extra, float64):
    """A sentence alone, among others, or with more padding has the same terms."""
    model = make_text_vae(0.1, **extra).eval()
    x, y = sentences(5), model.draw_labels(5)
    u = model.noise(5)
    together = each(model(x, y, u))
    for i, row in enumerate(x):
        alone = row[row != PAD][None]
        label = None if y is None else y[i : i + 1]
        torch.testing.assert_close(each(model(alone, label, u[i : i + 1])), together[i : i + 1], rtol=1e-9, atol=1e-9)


def by_steps(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x|z) token by token, with the state that sampling keeps."""
    net = model.decoder.net
    token, state, found = torch.full((len(x),), BOS), net.begin(z), 0.0
    for column in x.T:
        h, state = net.step(token, state)
        log_p = net.out.log_prob(h)
        found = found + torch.where(column == PAD, 0.0, log_p.gather(1, column[:, None])[:, 0])
        token = column
    return found


@decoders
@softmaxes
@torch.no_grad()
def test_the_kept_state_says_what_the_whole_sentence_does(decoder, softmax, float64):
    model = made(0.3, decoder=decoder, softmax=softmax).eval()
    x, z = sentences(7), torch.randn(7, 4)
    torch.testing.assert_close(by_steps(model, x, z), model.decoder(x, z), rtol=1e-10, atol=1e-10)


@decoders
@torch.no_grad()
def test_a_token_depends_on_those_before_it_alone(decoder, float64):
    """What comes later changes no probability before it; what came before, and z, do."""
    model = made(0.3, decoder=decoder).eval()
    z = torch.randn(1, 4)
    x = torch.tensor([[5, 6, 7, 8, EOS]])
    other = torch.tensor([[5, 6, 9, 8, EOS]])
    h, changed = (model.decoder.net(F.pad(a[:, :-1], (1, 0), value=BOS), z) for a in (x, other))
    assert torch.equal(h[:, :3], changed[:, :3]) and not torch.isclose(h[:, 3:], changed[:, 3:]).all(-1).any()
    assert not torch.isclose(model.decoder.net(x, z + 1), model.decoder.net(x, z)).all(-1).any()


@decoders
@softmaxes
@torch.no_grad()
def test_sentences_and_those_that_go_on_have_probability_one(decoder, softmax, float64):
    """Of all sentences of up to three tokens, and all beginnings of three, over all tokens of a small vocabulary."""
    model = made(0.3, decoder, (4, 6), softmax=softmax).eval()
    z = torch.randn(1, 4)
    total = 0.0
    for n in range(4):
        for tokens in itertools.product([BOS, UNK, 4, 5], repeat=n):  # not the end, and not padding, which hides
            x = torch.tensor([[*tokens, EOS]])
            log_p = model.decoder(x, z)
            h = model.decoder.net(F.pad(x[:, :-1], (1, 0), value=BOS), z)
            stop = model.decoder.net.out.log_prob(h[:, -1])[0]
            padded = stop[PAD].exp() * torch.exp(log_p - stop[EOS])
            total += (log_p.exp() if n < 3 else torch.exp(log_p - stop[EOS])) + (padded if n < 3 else 0.0)
    assert float(total) == pytest.approx(1, abs=1e-10)


@decoders
@torch.no_grad()
def test_greedy_is_cold_narrow_and_a_beam_of_one(decoder):
    """Temperature 0, the least top_p and a beam of width 1 write the same; so does ``mean``."""
    model = made(0.5, decoder=decoder).eval()
    z = torch.randn(5, 4)
    greedy = model.decoder.draw(z, 0.0)
    assert greedy.shape[0] == 5 and greedy.shape[1] < SHAPE[0]  # the longest and no end
    for other in (model.decoder.draw(z, 1.0, 1e-9), model.decoder.beam(z, 1), model.decoder.mean(z)):
        assert torch.equal(other, greedy)
    ends = (greedy == EOS).int().cumsum(1)
    assert not ((greedy == BOS) | ((greedy == PAD) & (ends == 0))).any()  # nothing that can't be written
    assert (greedy[ends - (greedy == EOS).int() > 0] == PAD).all()  # nothing after the end


@decoders
@torch.no_grad()
def test_a_wide_beam_finds_the_most_probable_sentence(decoder, float64):
    """As wide as all there is, it finds the best of all sentences of up to two tokens, cut ones included."""
    model = made(0.5, decoder, (3, 6)).eval()
    z = torch.randn(4, 4)
    found = model.decoder.beam(z, 64)
    for row, code in zip(found, z, strict=True):
        best, score = None, -math.inf
        for n in range(3):
            for tokens in itertools.product([UNK, 4, 5], repeat=n):
                x = torch.tensor([[*tokens, EOS][:2]])
                value = by_steps(model, x, code[None]).item()
                if value > score:
                    best, score = x[0], value
        assert torch.equal(row[row != PAD], best)


def test_tokens_are_drawn_by_their_probability():
    """At a temperature, and of the most probable ones that have top_p together."""
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)
    for temperature, top_p, expected in (
        (1.0, 1.0, [0.5, 0.3, 0.15, 0.05]),
        (1.0, 0.6, [0.625, 0.375, 0, 0]),
        (1.0, 0.5, [1, 0, 0, 0]),
        (0.5, 1.0, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
    ):
        found = choose(logits, temperature, top_p, generator).bincount(minlength=4) / len(logits)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=0.02)


def test_no_temperature_is_too_low():
    logits = torch.tensor([[-3.0, -1.0, -1.5, -math.inf]])
    for temperature in (1e-3, 1e-30, 1e-39, 1e-45):
        assert choose(logits, temperature, 1.0, None).item() == 1


def test_word_dropout_hides_what_came_before():
    """In training alone; where all is hidden, only how many came before can matter."""
    model = made(0.3, word_dropout=0.999999)
    x, z = sentences(6), torch.randn(6, 4)
    other = torch.where(x > UNK, 4, x)
    h = {}
    for train in (True, False):
        model.train(train)
        seen = []
        model.decoder.net.register_forward_pre_hook(lambda net, args, seen=seen: seen.append(args[0]))
        for a in (x, other):
            model.decoder(a, z)
        h[train] = seen[:2]
    assert torch.equal(*h[True]) and not torch.equal(*h[False])
    assert (h[True][0][:, 0] == BOS).all()  # the beginning is never hidden


@pytest.mark.parametrize(
    ("posterior", "floor"),
    [
        (Noise(sigma=0.4, std="fixed"), 2 * (0.4**2 - 1 - math.log(0.4**2))),
        (OneSided(gamma=0.7), 2 * 0.7**2),
        (TwoSided(), -2 * math.log(0.5)),
    ],
)
def test_the_rate_has_its_floor(posterior, floor):
    """At step 0 and after training on the rate alone: d/2 (s^2 - 1 - log s^2), d/2 gamma^2, -d/2 log(1 - tau).

    That of a free Gaussian posterior goes to 0.
    """
    for least, model in ((floor, made(posterior=posterior)), (0.0, made(posterior="gaussian"))):
        perturb(model.posterior, 0.3)
        x = sentences(64)
        optimizer = torch.optim.Adam(model.parameters(), 3e-2)
        rates = []
        for _ in range(160):
            rate = model(x).rate.mean()
            optimizer.zero_grad()
            rate.backward()
            optimizer.step()
            rates.append(rate.item())
        assert min(rates) >= least - 1e-4 and rates[-1] < least + 0.5
        assert least or rates[0] > 0.5


def test_free_nats_are_free():
    """max(rate, free_nats) and sum_j max(kl_j, free_nats_per_dim), with no gradient below; and beta's weight."""
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]], requires_grad=True)
    zero = torch.zeros(2)
    terms = Terms(kl.sum(1), zero, torch.tensor([-1.0, -3.0]), zero, kl)
    assert terms.loss().item() == pytest.approx(2 + 3.2)
    assert terms.loss(beta=0.5).item() == pytest.approx(2 + 1.6)
    assert terms.loss(free_nats=5.0).item() == pytest.approx(2 + 5)
    assert terms.loss(free_nats=3.0).item() == pytest.approx(5.2)
    assert terms.loss(free_nats_per_dim=0.5).item() == pytest.approx(2 + 0.5 + 3)
    slope = torch.autograd.grad(terms.loss(free_nats_per_dim=0.5), kl)[0]
    assert torch.equal(slope, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))
    assert not torch.autograd.grad(terms.loss(free_nats=5.0), kl)[0].any()
    with pytest.raises(ValueError, match="free_nats_per_dim: expected a Gaussian posterior and prior"):
        terms._replace(kl=None).loss(free_nats_per_dim=0.5)


@decoders
def test_dropout_leaves_out_in_training_alone(decoder):
    """Two looks differ in training and not in evaluation; where all is left out, all is alike to the decoder."""
    model, x = made(0.3, decoder=decoder, dropout=0.5), sentences(6)
    u = model.noise(6)
    assert not torch.equal(each(model(x, u=u)), each(model(x, u=u)))
    model.eval()
    assert torch.equal(each(model(x, u=u)), each(model(x, u=u)))
    model = made(0.3, decoder=decoder, dropout=1 - 1e-9)
    fed = []
    if decoder == "lstm":
        model.decoder.net.lstm.register_forward_pre_hook(lambda net, args: fed.append(args[0].data))
    h = model.decoder.net(x, u)
    assert (h == h[0, 0]).all() and not any(a[:, : LSTM["embedding"]].any() for a in fed)
    assert len(fed) == (decoder == "lstm")


@decoders
def test_a_language_model_is_one_without_a_latent(decoder, float64):
    """Its rate is 0, its code empty, and it is the decoder alone."""
    model = perturb(language_model(SHAPE, decoder=DECODERS[decoder]), 0.3).eval()
    x = sentences(6)
    terms = model(x)
    assert not terms.rate.any() and model.encode(x).shape == (6, 0)
    torch.testing.assert_close(terms.log_x, by_steps(model, x, torch.zeros(6, 0)), rtol=1e-10, atol=1e-10)
    assert model.sample(3).shape[0] == 3


def test_a_transformer_refuses_sentences_longer_than_it_was_built_for():
    model = made(decoder="transformer")
    model(sentences(4))
    with pytest.raises(ValueError, match="expected sentences of at most 9 tokens, ends counted; found 12"):
        model(sentences(40, 11))
