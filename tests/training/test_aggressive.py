"""Aggressive training's schedule, by the losses and the mutual information that it is given."""

import pytest
from text_models import make_text_vae

from fvae.recipes import Glow, NoFlow
from fvae.training.aggressive import MOST, WINDOW, AggressiveSchedule


@pytest.fixture
def schedule() -> AggressiveSchedule:
    return AggressiveSchedule(make_text_vae(), True)


def parts(schedule: AggressiveSchedule, losses: list[float]) -> str:
    """Which part each step trains: p the posterior, d the decoder, b both."""
    found = ""
    for loss in losses:
        found += "b" if not schedule.on else "p" if schedule.state["posterior"] else "d"
        schedule.after(loss, 1)
    return found


def test_the_posterior_is_trained_until_its_loss_rises(schedule):
    """Windows of 15 steps: as long as each is below the one before, then a step of the decoder, and anew."""
    falling = [10.0] * WINDOW + [9.0] * WINDOW
    rising = [9.5] * WINDOW
    assert parts(schedule, falling + rising + [5.0] + falling) == "p" * 3 * WINDOW + "d" + "p" * 2 * WINDOW


def test_the_posterior_takes_a_limited_number_of_steps(schedule):
    """One whose loss always falls leaves the decoder every hundredth step or so."""
    found = parts(schedule, [1 / (t + 1) for t in range(3 * MOST)])
    assert found.count("d") == 2 and found[MOST] == "d" and found[2 * MOST + 1] == "d"


def test_rounds_are_the_steps_of_the_decoder(schedule):
    """By which the rate's weight is annealed; all steps where training isn't aggressive."""
    found = parts(schedule, [1.0 + t for t in range(100)])
    assert schedule.rounds == found.count("d") > 0
    schedule.evaluated(1.0)
    schedule.evaluated(0.5)
    assert parts(schedule, [1.0] * 10) == "b" * 10 and schedule.rounds == found.count("d") + 10
    never = AggressiveSchedule(make_text_vae(), False)
    assert parts(never, [1.0] * 10) == "b" * 10 and never.rounds == 10


@pytest.mark.parametrize(
    "steps",
    [
        ((0.5, True), (0.5, True), (0.7, True), (0.65, True), (0.61, True), (0.59, False), (2.0, False)),
        ((5.545177444479, True), (5.545177444475, True), (5.2, False)),
    ],
)
def test_it_is_over_when_mutual_information_falls(schedule, steps):
    """As long as it grows, or stays but for its noise, training is aggressive; once it has fallen, a little at a time
    or at once, never again. At its ceiling, the logarithm of the number of samples, it stays but for the last digits.
    """
    for mutual, on in steps:
        schedule.evaluated(mutual)
        assert schedule.on == on


def test_mutual_information_is_due_by_the_steps_of_the_decoder(schedule):
    """Each ``interval`` of them, whatever the posterior takes in between; and no more once it is over."""
    looks = []
    for t in range(400):
        schedule.after(1.0 + t, 1)
        if schedule.due(3):
            schedule.evaluated(1.0)
            looks.append(schedule.rounds)
    assert looks == list(range(3, schedule.rounds + 1, 3)) and len(looks) > 2
    schedule.evaluated(0.0)
    parts(schedule, [1.0] * 10)
    assert not schedule.due(3) and not AggressiveSchedule(make_text_vae(), False).due(0)


@pytest.mark.parametrize("flow", [NoFlow(), Glow(depth=1, width=8)])
def test_only_the_part_that_is_next_has_gradients(flow):
    model = make_text_vae(flow=flow)
    schedule = AggressiveSchedule(model, True)
    others = {"decoder"} | ({"prior"} if flow.kind == "glow" else set())
    for change, expected in (
        ({}, {"posterior"}),
        ({"posterior": False}, others),
        ({"on": False}, {"posterior"} | others),
    ):
        schedule.state |= change
        schedule.select()
        assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == expected
