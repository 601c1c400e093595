"""Aggressive training's turns, by the losses and the mutual information that they are told."""

import pytest
from test_text import made

from fvae.aggressive import MOST, WINDOW, Turns
from fvae.model import LatentModel


def turns(losses: list[float], told: Turns | None = None) -> str:
    """Whose turn each step is: p of the posterior, d of the decoder, b of both."""
    told, found = told or Turns(True), ""
    for loss in losses:
        found += "b" if not told.on else "p" if told.state["posterior"] else "d"
        told.after(loss, 1)
    return found


def test_the_posterior_learns_until_its_loss_rises():
    """Windows of 15 steps: as long as each is below the one before, then a step of the decoder, and anew."""
    falling = [10.0] * WINDOW + [9.0] * WINDOW
    rising = [9.5] * WINDOW
    assert turns(falling + rising + [5.0] + falling) == "p" * 3 * WINDOW + "d" + "p" * 2 * WINDOW


def test_a_turn_has_an_end():
    """A posterior that goes on learning leaves the decoder every hundredth step or so."""
    found = turns([1 / (t + 1) for t in range(3 * MOST)])
    assert found.count("d") == 2 and found[MOST] == "d" and found[2 * MOST + 1] == "d"


def test_rounds_are_the_steps_of_the_decoder():
    """By which the rate's weight is annealed; all of them where no turns are taken."""
    told = Turns(True)
    found = turns([1.0 + t for t in range(100)], told)
    assert told.rounds == found.count("d") > 0
    told.evaluated(1.0)
    told.evaluated(0.5)
    assert turns([1.0] * 10, told) == "b" * 10 and told.rounds == found.count("d") + 10
    never = Turns(False)
    assert turns([1.0] * 10, never) == "b" * 10 and never.rounds == 10


def test_it_is_over_when_mutual_information_falls():
    """As long as it grows, or stays, but for its noise, turns go on; once it has fallen, a little at a time or at
    once, never again. At its ceiling, the logarithm of the number of samples, it stays but for the last digits."""
    told = Turns(True)
    for mutual, on in ((0.5, True), (0.5, True), (0.7, True), (0.65, True), (0.61, True), (0.59, False), (2.0, False)):
        told.evaluated(mutual)
        assert told.on == on
    told = Turns(True)
    for mutual, on in ((5.545177444479, True), (5.545177444475, True), (5.2, False)):
        told.evaluated(mutual)
        assert told.on == on


def test_it_is_looked_at_by_the_steps_of_the_decoder():
    """Each ``every`` of them, whatever the posterior takes in between; and no more once turns are over."""
    told, looks = Turns(True), []
    for t in range(400):
        told.after(1.0 + t, 1)
        if told.due(3):
            told.evaluated(1.0)
            looks.append(told.rounds)
    assert looks == list(range(3, told.rounds + 1, 3)) and len(looks) > 2
    told.evaluated(0.0)
    turns([1.0] * 10, told)
    assert not told.due(3) and not Turns(False).due(0)


def trained(model: LatentModel) -> set[str]:
    return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("prior", ["normal", "flow"])
def test_only_those_learn_whose_turn_it_is(prior):
    model, told = made(prior=prior), Turns(True)
    others = {"decoder"} | ({"prior"} if prior == "flow" else set())
    told.take(model)
    assert trained(model) == {"posterior"}
    told.state["posterior"] = False
    told.take(model)
    assert trained(model) == others
    told.state["on"] = False
    told.take(model)
    assert trained(model) == others | {"posterior"}
