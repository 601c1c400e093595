"""Glow's steps together are the same: one flow after the other, of torch's own convolutions; kept or recomputed."""

import copy
import itertools
import math
import statistics
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from conftest import EDITS, perturb, spied
from plain import plain
from test_flows import Net
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.utils.checkpoint import checkpoint

from fvae.atoms import log_normal
from fvae.bound import LatentModel, fit_actnorms
from fvae.flows import (
    ActNorm,
    Chain,
    Coupling,
    InvertibleConv,
    Squeeze,
    Steps,
    one_by_one,
    set_reversible,
    shuffle,
)
from fvae.flows import steps as steps_module
from fvae.nets import products
from fvae.nets.conv import coupling_net
from fvae.params import MeanOnly, Split
from fvae.recipes import RECIPES

SMALL = {  # of one channel, affine couplings are by hand in the first level, and layer by layer in the second
    "glow": {"levels": 2, "depth": 2, "width": 32},
    "f_vae": {"squeezes": 1, "blocks": 1, "hidden": 8, "levels": 2, "depth": 2, "width": 32},
}
BY_HAND, BY_LAYER = 8, 2  # times that a network is wider than what leaves it, to run so on few values
every_way = pytest.mark.parametrize("times", [BY_HAND, BY_LAYER], ids=["by hand", "layer by layer"])


def together(
    k: int,
    shape: tuple[int, ...],
    params: Callable[[int, int], nn.Module] | None = None,
    mixing: Callable[[int], nn.Module] = InvertibleConv,
    times: int = BY_HAND,
) -> Steps:
    """k perturbed steps; ``params(keep, moved)`` is a coupling's, by default affine of nets ``times`` as wide."""
    c = shape[0]
    keep, moved = c // 2, c - c // 2
    make = params or (lambda keep, moved: Split(coupling_net(keep, 2 * moved, times * 2 * moved)))
    return perturb(
        Steps(*(f for _ in range(k) for f in (ActNorm(shape), mixing(c), Coupling(make(keep, moved), keep))))
    )


def density(flow: nn.Module, x: Tensor, cond=None) -> Tensor:
    """-log p(x), added over the batch: what training takes the gradient of."""
    z, logdet = flow(x, cond)
    return -(log_normal(z) + logdet).sum()


def gradients(model: nn.Module, loss: Tensor, inputs: tuple[Tensor, ...] = ()) -> dict[str, Tensor]:
    """The gradient of each parameter that is trained, and of the inputs, by name."""
    names = {**{f"input {i}": a for i, a in enumerate(inputs)}, **dict(model.named_parameters())}
    names = {name: p for name, p in names.items() if p.requires_grad}
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative difference, in norm, of tensors of the same names."""
    assert found.keys() == expected.keys()
    return max(((found[n] - expected[n]).norm() / expected[n].norm()).item() for n in expected)


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The relative difference, in norm, of all tensors together."""
    a, b = (torch.cat([t[name].double().flatten() for name in expected]) for t in (found, expected))
    return ((a - b).norm() / b.norm()).item()


# Steps together

every_recipe = pytest.mark.parametrize(
    ("name", "coupling", "mixing"),
    list(itertools.product(SMALL, ("affine", "additive"), ("conv", "shuffle", "reverse"))),
)


def made(name: str, coupling: str, mixing: str, shape=(1, 8, 12), n=5) -> tuple[LatentModel, Tensor, Tensor]:
    """A perturbed model, n images and noise."""
    model = perturb(RECIPES[name](shape, **SMALL[name], coupling=coupling, mixing=mixing), 0.1)
    x = torch.randint(256, (n, *shape)).to(torch.get_default_dtype())
    return model, x, model.noise(n)


@every_recipe
def test_a_model_is_the_plain_one(name, coupling, mixing, float64):
    """Terms and gradients of the loss are those of the plain way."""
    model, x, u = made(name, coupling, mixing)
    terms = model(x, u=u)
    found = gradients(model, terms.loss())
    with plain(model):
        expected = model(x, u=u)
        assert difference(found, gradients(model, expected.loss())) < 1e-10
    for a, b in zip(terms[:4], expected[:4], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@every_recipe
def test_codes_are_the_plain_ones(name, coupling, mixing, float64):
    """encode and decode are those of the plain way, with gradients and without, and so are decode's gradients."""
    model, x, _ = made(name, coupling, mixing)
    e = torch.randn(5, math.prod(model.latent), requires_grad=True)
    inputs = [e, *model.prior.parameters()]
    with plain(model):
        codes, images = model.encode(x), model.decode(e)
        expected = torch.autograd.grad(images.sin().sum(), inputs)
    for grad in (True, False, False):  # what is kept is made in the first pass without, and used in the second
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(model.encode(x), codes, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(model.decode(e), images, rtol=1e-10, atol=1e-8)
    for a, b in zip(torch.autograd.grad(model.decode(e).sin().sum(), inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


class PerChannel(nn.Module):
    """A shift from a network and a trained scale a channel."""

    def __init__(self, keep: int, moved: int, *ones: int):
        super().__init__()
        self.net, self.log_std = Net(keep, moved), nn.Parameter(torch.zeros(moved, *ones))

    def forward(self, x1, cond=None):
        return self.net(x1), self.log_std


@pytest.mark.parametrize("shape", [(5, 3, 3), (5, 3, 4), (5,)], ids=["square", "oblong", "vectors"])
def test_couplings_may_broadcast(shape, float64):
    """A coupling's log_std may be one a channel, (C, 1, 1), as that of ``Learned`` is."""
    flow = together(2, shape, lambda keep, moved: PerChannel(keep, moved, *(1 for _ in shape[1:])))
    x = torch.randn(3, *shape)
    with one_by_one(flow):
        z, logdet = flow(x)
    found, logdet_found = flow(x)
    torch.testing.assert_close(found, z)
    torch.testing.assert_close(logdet_found, logdet)
    torch.testing.assert_close(flow.inverse(z), x)


@pytest.mark.parametrize(
    ("flows", "found"),
    [
        ([], "found $"),
        ([ActNorm((4,)), InvertibleConv(4)], "found ActNorm, InvertibleConv$"),
        ([ActNorm((4,)), Squeeze(2), Coupling(nn.Identity(), 2)], "found ActNorm, Squeeze, Coupling$"),
        ([InvertibleConv(4), ActNorm((4,)), Coupling(nn.Identity(), 2)], "found InvertibleConv, ActNorm, Coupling$"),
        ([ActNorm((4,)), Chain(shuffle(4)), Coupling(nn.Identity(), 2)], "found ActNorm, Chain, Coupling$"),
        (
            [f for m in (shuffle, InvertibleConv) for f in (ActNorm((4,)), m(4), Coupling(nn.Identity(), 2))],
            "found ActNorm, Permute, Coupling, ActNorm, InvertibleConv, Coupling$",
        ),
        (
            [ActNorm((4,)), InvertibleConv(4), Coupling(nn.Identity(), 2), ActNorm((4,))],
            "found ActNorm, InvertibleConv, Coupling, ActNorm$",
        ),
    ],
)
def test_other_patterns_are_refused(flows, found):
    """A ValueError says what the pattern is and what was found."""
    with pytest.raises(ValueError, match=f"ActNorm, InvertibleConv or Permute, Coupling.*{found}"):
        Steps(*flows)


def test_one_by_one_ends():
    """Inside, each flow's own forward runs; once it ends, by an exception too, none does; one within another stays."""
    flow, x = together(2, (4,), lambda keep, moved: Split(Net(keep, 2 * moved))), torch.randn(3, 4)
    seen: list[nn.Module] = []
    for part in flow.flows:
        part.register_forward_hook(lambda part, *_: seen.append(part))
    flow(x)
    assert not seen
    with pytest.raises(KeyError), one_by_one(flow):
        with one_by_one(flow):
            flow(x)
        flow(x)
        assert seen == 2 * list(flow.flows)
        raise KeyError
    flow(x)
    assert len(seen) == 12


@pytest.mark.parametrize(("name", "mixing"), list(itertools.product(SMALL, ("conv", "shuffle"))))
@torch.no_grad()
def test_actnorms_of_steps_are_fitted_one_after_the_other(name, mixing, float64):
    """After fit_actnorms each actnorm's output on that batch is whitened, those after others that were set included."""
    model, _, _ = made(name, "affine", mixing)
    set_reversible(model)
    x, u = torch.randint(256, (64, 1, 8, 12)).double(), model.noise(64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "noise", lambda n: u)
        fit_actnorms(model, x)
    outputs: list[Tensor] = []
    for m in model.modules():
        if isinstance(m, ActNorm):
            m.register_forward_hook(lambda m, args, result: outputs.append(result[0].transpose(0, 1).flatten(1)))
    with one_by_one(model):
        model(x, u=u)
    assert len(outputs) == 4
    for z in outputs:
        torch.testing.assert_close(z.mean(1), torch.zeros(len(z)), rtol=0, atol=1e-9)
        torch.testing.assert_close(z.std(1, correction=0), torch.ones(len(z)), rtol=0, atol=1e-9)


# What is kept between passes without gradients


def test_what_inference_mode_leaves_behind(float64):
    """After a first pass in inference mode training goes on, with the same gradients."""
    flow, x = together(2, (4, 2, 3)), torch.randn(3, 4, 2, 3)
    with torch.inference_mode():
        flow.inverse(flow(x)[0])
    check_gradients(flow, lambda: gradients(flow, density(flow, x)))


@torch.no_grad()
def edit_in_place(model: LatentModel, x: Tensor) -> None:
    for p in model.parameters():
        p.data.mul_(1.5)


def edit_one_number(model: LatentModel, x: Tensor) -> None:
    next(m for m in model.modules() if isinstance(m, Steps)).flows[-3].params.mean.data[1].add_(0.5)  # of the last step


def another_tensor(model: LatentModel, x: Tensor) -> None:
    for p in model.parameters():
        p.data = 0.7 * p.data


def take_a_step(model: LatentModel, x: Tensor) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05)
    with torch.enable_grad():
        model(x).loss().backward()
    optimiser.step()


def load_another(model: LatentModel, x: Tensor) -> None:
    torch.manual_seed(7)  # other signs and orders too
    settings = model.config["settings"]
    model.load_state_dict(perturb(RECIPES[model.config["recipe"]](model.shape, **settings), 0.1).state_dict())


def refit(model: LatentModel, x: Tensor) -> None:
    fit_actnorms(model, x[:2])


def widen(model: LatentModel, x: Tensor) -> None:
    model.double()


CHANGES = [edit_in_place, edit_one_number, another_tensor, take_a_step, load_another, refit, widen]


@pytest.mark.parametrize("change", CHANGES, ids=[f.__name__ for f in CHANGES])
@pytest.mark.parametrize("mixing", ["conv", "shuffle"])
@torch.no_grad()
def test_what_is_kept_is_never_stale(mixing, change):
    """However parameters change, encode and decode after it are the plain ones of the new values."""
    model, x, _ = made("glow", "affine", mixing)
    model = model if change is widen else model.double()
    e = torch.randn(5, math.prod(model.latent), dtype=next(model.parameters()).dtype)
    for _ in range(2):
        before = model.encode(x), model.decode(e)
    change(model, x)
    e = e.double()
    after = model.encode(x), model.decode(e)
    with one_by_one(model):
        expected = model.encode(x), model.decode(e)
    for old, a, b in zip(before, after, expected, strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-8)
        assert change is widen or (a - old).abs().max() > 1e-3


@torch.no_grad()
def test_maps_are_made_once(monkeypatch):
    """Without gradients the second encode and decode of the same parameters assemble and invert nothing."""
    model, x, _ = made("glow", "affine", "conv")
    seen: list[str] = []
    for name in ("product", "inverse_product"):
        spied(monkeypatch, steps_module, name, seen)
    for _ in range(3):
        model.decode(model.encode(x))
    assert seen == ["product"] * 2 + ["inverse_product"] * 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
def test_forward_mode_derivatives_in_parameters(grad, float64):
    """Tangents of parameters reach z, also without gradients, after a pass that kept its maps."""
    flow, x = together(2, (4,), lambda keep, moved: Split(Net(keep, 2 * moved))), torch.randn(3, 4)
    at = {name: p.detach() for name, p in flow.named_parameters()}
    along = {name: torch.randn_like(p) for name, p in at.items()}
    small = 1e-6

    def moved(t: float) -> Tensor:
        return functional_call(flow, {n: at[n] + t * along[n] for n in at}, (x,))[0]

    with torch.set_grad_enabled(grad), one_by_one(flow):
        expected = (moved(small) - moved(-small)) / (2 * small)
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        flow(x)
        z, _ = functional_call(flow, {n: forward_ad.make_dual(at[n], along[n]) for n in at}, (x,))
        tangent = forward_ad.unpack_dual(z).tangent
    torch.testing.assert_close(tangent, expected, rtol=1e-5, atol=1e-5)


# Activations recomputed


Run = Callable[[], dict[str, Tensor]]


def kept_and_recomputed(model: nn.Module, run: Run) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What ``run`` gives with activations kept, and with activations recomputed."""
    results = []
    for reversible in (False, True):
        set_reversible(model, reversible)
        results.append(run())
    return results[0], results[1]


def check_gradients(model: nn.Module, run: Run) -> None:
    """What ``run`` gives, activations kept or recomputed, is what it gives of the plain implementation."""
    with plain(model):
        expected = run()
    for found in kept_and_recomputed(model, run):
        assert difference(found, expected) < 1e-10


@every_recipe
def test_recomputing_gives_the_same_gradients(name, coupling, mixing, float64):
    """Of a model's loss each parameter has the gradient of the plain implementation, activations recomputed or not."""
    model, x, u = made(name, coupling, mixing)
    check_gradients(model, lambda: gradients(model, model(x, u=u).loss()))


WAYS = {  # shape, width; whether steps and networks are by hand with gradients, and networks without
    "few values": ((2, 4, 6), 16, True, False),
    "few, odd": ((3, 4, 2), 32, True, False),
    "many narrow rows": ((2, 5, 6), 40, True, True),
    "many, odd": ((3, 1, 17), 80, True, True),
    "many, in a column": ((2, 30, 1), 40, True, True),
    "layer by layer": ((4, 5, 4), 8, False, False),
}


@pytest.mark.parametrize("mixing", [InvertibleConv, shuffle], ids=["conv", "shuffle"])
@pytest.mark.parametrize("additive", [False, True], ids=["affine", "additive"])
@pytest.mark.parametrize(("shape", "width", "training", "sampling"), WAYS.values(), ids=WAYS.keys())
def test_every_way_along_the_steps(shape, width, training, sampling, additive, mixing, float64, monkeypatch):
    """However steps and their networks are computed, they have the plain implementation's values and gradients."""
    monkeypatch.setattr(products, "BLOCK", 2**10)

    def params(keep: int, moved: int) -> nn.Module:
        net = coupling_net(keep, moved if additive else 2 * moved, width)
        return MeanOnly(net) if additive else Split(net, bound=0.5)

    flow, x = together(3, shape, params, mixing), torch.randn(4, *shape, requires_grad=True)
    towards, of_logdet = torch.randn_like(x), torch.randn(4)
    with plain(flow):
        expected = flow(x)
    for grad, by_hand in ((True, training), (False, sampling)):
        seen: list[str] = []
        with pytest.MonkeyPatch.context() as patch, torch.set_grad_enabled(grad):
            spied(patch, steps_module, "along_kept", seen)
            spied(patch, products, "three_products", seen)
            found = flow(x)
            assert ("three_products" in seen, "along_kept" in seen) == (by_hand, by_hand and grad)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(flow.inverse(found[0]), x, rtol=1e-8, atol=1e-8)
    for a, b in ((1, 1), (1, 0)):

        def run(a: float = a, b: float = b) -> dict[str, Tensor]:
            z, logdet = flow(x)
            return gradients(flow, a * (z.cos() * towards).sum() + b * (logdet * of_logdet).sum(), (x,))

        check_gradients(flow, run)


CONDITIONAL = {
    "affine": (InvertibleConv, lambda keep, moved: Split(Net(keep, 2 * moved, 3))),
    "additive": (InvertibleConv, lambda keep, moved: MeanOnly(Net(keep, moved, 3))),
    "permuted": (shuffle, lambda keep, moved: Split(Net(keep, 2 * moved, 3))),
    "permuted, additive": (shuffle, lambda keep, moved: MeanOnly(Net(keep, moved, 3))),
}


@pytest.mark.parametrize("shape", [(5, 3, 2), (5,)], ids=["images", "vectors"])
@pytest.mark.parametrize(("mixing", "params"), CONDITIONAL.values(), ids=CONDITIONAL.keys())
def test_recomputing_gives_the_same_gradients_of_inputs(mixing, params, shape, float64):
    """So have x and the condition, of z and log-determinant together and of each alone."""
    flow = together(4, shape, params, mixing)
    x, cond = torch.randn(3, *shape, requires_grad=True), torch.randn(3, 3, requires_grad=True)
    towards, of_logdet = torch.randn(3, *shape), torch.randn(3)

    def run(a: float, b: float) -> dict[str, Tensor]:
        z, logdet = flow(x, cond)
        loss = a * (z.cos() * towards).sum() + b * (logdet * of_logdet).sum()
        return gradients(flow, loss, (x, cond))

    for a, b in ((1, 1), (1, 0)):
        check_gradients(flow, lambda a=a, b=b: run(a, b))
    kept, recomputed = kept_and_recomputed(flow, lambda: run(0, 1))
    for name in kept:
        torch.testing.assert_close(recomputed[name], kept[name], rtol=1e-9, atol=1e-12)


class Labelled(nn.Module):
    """A map of x_1 and an embedding of labels, or of a pair of them and a vector."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.net, self.labels = Net(c_in, c_out, 3), nn.Embedding(4, c_out)

    def forward(self, x, cond):
        y, a = cond if isinstance(cond, tuple) else (cond, torch.zeros(len(cond), 3))
        return self.net(x, a) + self.labels(y)


@pytest.mark.parametrize("pair", [False, True], ids=["labels", "pair"])
def test_recomputing_takes_any_condition(pair, float64):
    """A condition is opaque: whole numbers, or several tensors, with the gradients of those that have one."""
    flow = together(3, (5,), lambda keep, moved: Split(Labelled(keep, 2 * moved)))
    x, y, a = torch.randn(3, 5), torch.tensor([0, 1, 3]), torch.randn(3, 3, requires_grad=True)
    for p in flow.parameters():
        p.requires_grad_(pair or p.shape != (6, 3))  # without the pair, what opens the vector has no gradient

    def run() -> dict[str, Tensor]:
        return gradients(flow, density(flow, x, (y, a) if pair else y), (a,) if pair else ())

    check_gradients(flow, run)


class Doubled(Split):
    """A ``Split`` that says otherwise."""

    def forward(self, *cond):
        mean, log_std = super().forward(*cond)
        return 2 * mean, log_std


def doubled(coupling: Coupling) -> None:
    coupling.params = Doubled(coupling.params.net)


def watched(coupling: Coupling) -> None:
    coupling.params.register_forward_hook(lambda params, args, pair: (pair[0].sin(), pair[1]))


ON_COUPLINGS = {
    "another Params": doubled,
    "a hook on Params": watched,
    **{name: lambda coupling, edit=edit: edit(coupling.params.net) for name, edit in EDITS.items()},
}


@pytest.mark.parametrize("which", [slice(None), slice(1, 2)], ids=["all", "one"])
@pytest.mark.parametrize("edit", ON_COUPLINGS.values(), ids=ON_COUPLINGS.keys())
def test_networks_that_were_changed(edit, which, float64):
    """Someone's own ``Params``, layers, parametrisations and hooks count, by every way."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2, requires_grad=True)
    for coupling in flow.couplings[which]:
        edit(coupling)
    check_gradients(flow, lambda: gradients(flow, density(flow, x), (x,)))
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            with plain(flow):
                z, logdet = flow(x)
            torch.testing.assert_close(flow(x), (z, logdet))
            torch.testing.assert_close(flow.inverse(z), x)


def test_a_condition_that_networks_do_not_take():
    """It is never left out in silence, as it isn't when flows run one by one."""
    flow, x, cond = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2), torch.randn(3, 3)

    def run() -> dict[str, Tensor]:
        with pytest.raises(TypeError):
            flow(x, cond)
        return {}

    with one_by_one(flow):
        run()
    kept_and_recomputed(flow, run)


@every_way
def test_steps_inside_a_checkpoint(times, float64):
    """torch's own checkpoint around a level gives the same gradients."""
    flow, x = together(3, (4, 3, 2), times=times), torch.randn(3, 4, 3, 2, requires_grad=True)

    def run() -> dict[str, Tensor]:
        z, logdet = checkpoint(flow, x, use_reentrant=False)
        return gradients(flow, -(log_normal(z) + logdet).sum(), (x,))

    check_gradients(flow, run)


@pytest.mark.parametrize(
    ("shape", "width"), [((4,), 0), ((4, 3, 2), 32), ((4, 3, 2), 8)], ids=["vectors", "by hand", "layer by layer"]
)
def test_a_shared_network(shape, width, float64):
    """A network that all couplings share has its gradients added up; frozen, it is passed by."""
    net = Split(coupling_net(2, 4, width) if width else Net(2, 4))
    flow, x = together(3, shape, lambda keep, moved: net), torch.randn(3, *shape)
    check_gradients(flow, lambda: gradients(flow, density(flow, x)))
    net.requires_grad_(False)
    check_gradients(flow, lambda: gradients(flow, density(flow, x)))


@pytest.mark.parametrize("frozen", ["mean", "log_std", "lu", "0.weight", "2.params", "flows.5", "flows", "params.net"])
@every_way
def test_frozen_parameters_are_left_alone(times, frozen, float64):
    """Parameters without requires_grad get no gradient, and all others, and x, the ones they had."""
    flow = together(3, (4, 3, 2), times=times)
    x = torch.randn(3, 4, 3, 2, requires_grad=True)
    for name, p in flow.named_parameters():
        p.requires_grad_(frozen not in name)
    assert any(not p.requires_grad for p in flow.parameters())

    def run() -> dict[str, Tensor]:
        flow.zero_grad()
        x.grad = None
        density(flow, x).backward()
        assert all((p.grad is not None) == p.requires_grad for p in flow.parameters())
        return {n: p.grad for n, p in [("x", x), *flow.named_parameters()] if p.grad is not None}

    check_gradients(flow, run)


@every_way
@pytest.mark.parametrize("k", range(3))
def test_one_step_alone(k, times, float64):
    """Its gradients, asked for alone or trained alone on an x without a gradient, are those among all."""
    flow, x = together(3, (4, 3, 2), times=times), torch.randn(3, 4, 3, 2)
    step = flow.flows[3 * k : 3 * k + 3]

    def asked_for() -> dict[str, Tensor]:
        return gradients(step, density(flow, x))

    check_gradients(flow, asked_for)
    with plain(flow):
        expected = asked_for()
    flow.requires_grad_(False)
    step.requires_grad_(True)
    for found in kept_and_recomputed(flow, asked_for):
        assert difference(found, expected) < 1e-10


def test_a_flow_without_gradients_takes_part_in_none(float64):
    """Frozen whole, on an x without a gradient, it gives what the plain way gives, without a graph."""
    flow, x = together(2, (4, 3, 2)).requires_grad_(False), torch.randn(3, 4, 3, 2)
    with plain(flow):
        expected = flow(x)
    for reversible in (False, True):
        set_reversible(flow, reversible)
        found = flow(x)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        assert not any(a.requires_grad for a in found)


def test_recomputing_without_gradients_is_the_ordinary_pass(monkeypatch):
    """In no_grad nothing is prepared for backpropagation; with gradients z and log-determinant are the same."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2)
    z, logdet = flow(x)
    set_reversible(flow)
    again, logdet_again = flow(x)
    assert again.requires_grad
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(logdet_again, logdet)
    seen: list[str] = []
    spied(monkeypatch, steps_module, "along_reversible", seen)
    with torch.no_grad():
        again, logdet_again = flow(x)
    assert not seen
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(logdet_again, logdet)


def test_a_copy_of_a_reversible_model_is_one(float64):
    """deepcopy recomputes too, of its own parameters, also after use; the state_dict knows nothing of it."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2)
    state = {name: a.clone() for name, a in flow.state_dict().items()}
    set_reversible(flow)
    density(flow, x).backward()
    with torch.no_grad():
        flow.inverse(flow(x)[0])
    assert state.keys() == flow.state_dict().keys()
    assert all(torch.equal(a, state[name]) for name, a in flow.state_dict().items())
    twin = copy.deepcopy(flow)
    assert twin.reversible and twin is not flow
    perturb(flow)
    found = gradients(twin, density(twin, x))
    with plain(twin):
        assert difference(found, gradients(twin, density(twin, x))) < 1e-10
    with torch.no_grad():
        torch.testing.assert_close(twin.inverse(twin(x)[0]), x)


def test_a_graph_is_used_twice_or_not_at_all(float64):
    """With retain_graph a second backward adds the same gradients; without, it raises."""
    flow, x = together(3, (4, 3, 2)), torch.randn(3, 4, 3, 2)
    set_reversible(flow)
    loss = density(flow, x)
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in flow.named_parameters()}
    loss.backward()
    assert difference({name: p.grad / 2 for name, p in flow.named_parameters()}, once) < 1e-12
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


every_network = pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "by autograd"])
kept_or_recomputed = pytest.mark.parametrize("reversible", [False, True], ids=["kept", "recomputed"])


def small(by_hand: bool) -> tuple[Steps, Tensor]:
    """Steps and an x, with networks that have their gradient by hand, or not."""
    if by_hand:
        return together(2, (4, 2, 2)), torch.randn(3, 4, 2, 2, requires_grad=True)
    return together(2, (4,), lambda keep, moved: Split(Net(keep, 2 * moved))), torch.randn(3, 4, requires_grad=True)


@kept_or_recomputed
@every_network
def test_second_derivatives_are_right_or_refused(by_hand, reversible, float64):
    """The gradient of a gradient is that of the plain implementation, or an error says that there is none."""
    flow, x = small(by_hand)

    def run() -> dict[str, Tensor]:
        (gradient,) = torch.autograd.grad(density(flow, x), x, create_graph=True)
        x.grad = None
        flow.zero_grad()
        gradient.sin().sum().backward()
        return {name: p.grad for name, p in [("x", x), *flow.named_parameters()] if p.grad is not None}

    with plain(flow):
        expected = run()
    set_reversible(flow, reversible)
    if by_hand or reversible:
        with pytest.raises(RuntimeError, match="once_differentiable"):
            run()
    else:
        assert difference(run(), expected) < 1e-10


@pytest.mark.parametrize("grad", [True, False], ids=["with gradients", "without"])
@kept_or_recomputed
@every_network
def test_transforms_are_right_or_refused(by_hand, reversible, grad, float64):
    """torch.func's map over weights and its Jacobian are right, or of recomputed steps an error; nothing is left."""
    flow, x = small(by_hand)
    x = x.detach()
    weights = {name: torch.stack([p.detach(), 1.1 * p.detach()]) for name, p in flow.named_parameters()}

    def mapped() -> Tensor:
        return vmap(lambda p: functional_call(flow, p, (x,))[0])(weights)

    def jacobian() -> Tensor:
        return jacrev(lambda a: flow(a)[0].sum(0))(x)

    with plain(flow):
        expected = mapped(), jacobian(), flow(x)
    set_reversible(flow, reversible)
    with torch.set_grad_enabled(grad):
        for run, right in zip((mapped, jacobian), expected[:2], strict=True):
            try:
                found = run()
            except RuntimeError as error:
                assert reversible and "functorch" in str(error)
            else:
                torch.testing.assert_close(found, right)
            torch.testing.assert_close(flow(x), expected[2])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # log_ndtr has no batching rule in torch 2.13
@pytest.mark.parametrize("name", SMALL)
def test_transforms_of_a_model(name, float64, monkeypatch):
    """torch.func's Jacobians of a model, and its gradients by sample, are those of autograd with networks by hand."""
    model, x, u = made(name, "affine", "conv", (1, 8, 8))
    e = torch.randn(1, math.prod(model.latent))
    weights = {name: p.detach() for name, p in model.named_parameters()}
    seen: list[str] = []
    spied(monkeypatch, products, "three_products", seen)

    def loss(p: dict[str, Tensor], x: Tensor, u: Tensor) -> Tensor:
        return functional_call(model, p, (x[None],), {"u": u[None]}).loss()

    found = jacrev(model.encode)(x[:1]), jacrev(model.decode)(e)
    by_sample = vmap(torch.func.grad(loss), (None, 0, 0))(weights, x, u)
    assert not seen
    jacobian = torch.autograd.functional.jacobian
    expected = jacobian(model.encode, x[:1]), jacobian(model.decode, e)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for i in range(len(x)):
        one = gradients(model, model(x[i : i + 1], u=u[i : i + 1]).loss())
        assert difference({name: a[i] for name, a in by_sample.items()}, one) < 1e-10
    assert seen


@pytest.mark.parametrize("which", ["mean", "log_std", "lu", "net", "net.1.weight"])
@kept_or_recomputed
@every_network
def test_a_change_before_backward_is_no_surprise(by_hand, reversible, which, float64):
    """Of parameters that changed since forward, either the gradient at the old values or an error."""
    flow, x = small(by_hand)
    expected = gradients(flow, density(flow, x), (x,))
    set_reversible(flow, reversible)
    loss = density(flow, x)
    with torch.no_grad():
        for name, p in flow.named_parameters():
            if which in name:
                p.add_(0.3)
    try:
        found = gradients(flow, loss, (x,))
    except RuntimeError as error:
        assert "inplace" in str(error)
    else:
        assert difference(found, expected) < 1e-10


def digits(n: int) -> Tensor:
    """Images somewhat like digits: a few bright strokes on black, in 256 bins."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    x = torch.zeros(n, 16, 16)
    for _ in range(3):
        a, b, angle = torch.rand(3, n, 1, 1)
        across = (rows - 4 - 8 * a) * torch.cos(3 * angle) + (columns - 4 - 8 * b) * torch.sin(3 * angle)
        along = (columns - 4 - 8 * b) * torch.cos(3 * angle) - (rows - 4 - 8 * a) * torch.sin(3 * angle)
        x = torch.maximum(x, torch.exp(-across.square() - (along / 4).square()))
    return (255 * x).floor()[:, None]


def trained(depth: int, width: int = 16, steps: int = 30) -> tuple[LatentModel, Tensor, Tensor]:
    """A glow after some steps of training, with images and noise."""
    model = RECIPES["glow"]((1, 16, 16), levels=2, depth=depth, width=width)
    fit_actnorms(model, digits(64))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        model(digits(8)).loss().backward()
        optimiser.step()
    return model, digits(8), model.noise(8)


def test_recomputing_in_float32_at_32_steps():
    """On a trained glow of 32 steps a level, float32 gradients are as near to float64's recomputed as they are kept."""
    model, x, u = trained(32)
    kept, recomputed = kept_and_recomputed(model, lambda: gradients(model, model(x, u=u).loss()))
    model.double()
    set_reversible(model, False)
    exact = gradients(model, model(x.double(), u=u.double()).loss())
    errors = [[((g[name] - a).norm() / a.norm()).item() for name, a in exact.items()] for g in (kept, recomputed)]
    # the median, since a ReLU at 0 may fall to the other side in either and then its gradients are off by 1e-4 or so
    assert statistics.median(b / a for a, b in zip(*errors, strict=True)) < 1.5
    assert max(errors[1]) < 1e-2 and distance(recomputed, exact) < 1e-3


def test_recomputing_under_autocast():
    """In bfloat16 autocast the networks recompute in bfloat16: what that changes is below bfloat16's own rounding."""
    model, x, u = trained(8)

    def run() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(x, u=u).loss()
        return gradients(model, loss)

    kept, recomputed = kept_and_recomputed(model, run)
    set_reversible(model, False)
    in_float32 = gradients(model, model(x, u=u).loss())
    assert difference(recomputed, kept) < 0.02
    assert distance(recomputed, kept) < 0.2 * distance(kept, in_float32) < 0.01


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes alive at once during a run, above those alive before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


def test_recomputing_takes_memory_that_does_not_grow_with_depth():
    """From 4 to 16 steps the peak of forward and backward grows by less than 5 %; with activations kept, threefold."""
    peaks: dict[tuple[int, bool], int] = {}
    for depth in (4, 16):
        model = RECIPES["glow"]((1, 32, 32), levels=1, depth=depth, width=64)
        x, u = torch.randint(256, (8, 1, 32, 32)).float(), model.noise(8)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        for reversible in (False, True):
            set_reversible(model, reversible)
            peak = peak_bytes(lambda model=model, x=x, u=u: model(x, u=u).loss().backward())
            peaks[depth, reversible] = peak
    assert peaks[16, True] < 1.05 * peaks[4, True]
    assert peaks[16, False] > 3 * peaks[4, False]
    assert peaks[4, True] < 0.5 * peaks[4, False]


# Compiled


@pytest.fixture
def compiled():
    """``compiled(f)``: f as whole graphs, without code of their own, and the list in which each one made is noted."""
    from functorch.compile import make_boxed_func  # as slow to import as torch itself
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()

    def make(f: Callable) -> tuple[Callable, list[str]]:
        graphs: list[str] = []

        def noting(kind: str) -> Callable:
            return lambda graph, inputs: graphs.append(kind) or make_boxed_func(graph.forward)

        backend = aot_autograd(fw_compiler=noting("forward"), bw_compiler=noting("backward"))
        return torch.compile(f, fullgraph=True, backend=backend), graphs

    yield make
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # Dynamo looks at attributes that warn
@pytest.mark.parametrize("name", SMALL)
def test_training_is_one_graph_for_every_batch(name, compiled, float64):
    """Of batches of any size, compiled forward and backward are one graph each, and give the model's gradients."""
    model, x, u = made(name, "affine", "conv", (1, 8, 8), 8)
    call, graphs = compiled(model)
    for b in (8, 5, 3):
        some, noise = x[:b].clone(), u[:b].clone()
        for a in (some, noise):
            torch._dynamo.mark_dynamic(a, 0)
        found = gradients(model, call(some, u=noise).loss())
        assert difference(found, gradients(model, model(x[:b], u=u[:b]).loss())) < 1e-10
    assert graphs == ["forward", "backward"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_sampling_is_one_graph_for_every_batch(name, compiled, float64):
    """Of batches of any size decode, compiled, is one graph, and gives the model's images, maps kept before or not."""
    model, _, _ = made(name, "affine", "conv", (1, 8, 8))
    call, graphs = compiled(model.decode)
    for b in (8, 5, 3):
        e = torch.randn(b, math.prod(model.latent))
        expected = model.decode(e)
        torch._dynamo.mark_dynamic(e, 0)
        torch.testing.assert_close(call(e), expected, rtol=1e-10, atol=1e-8)
    assert graphs == ["forward"]


@pytest.mark.filterwarnings("ignore")  # Dynamo looks at attributes that warn
def test_recomputing_compiles_with_breaks():
    """torch.compile, allowed to break its graph, gives the gradients of activations kept."""
    flow, x = together(2, (4,), lambda keep, moved: Split(Net(keep, 2 * moved))), torch.randn(3, 4)
    expected = gradients(flow, density(flow, x))
    set_reversible(flow)
    torch._dynamo.reset()
    compiled = torch.compile(flow, backend="eager")
    assert difference(gradients(flow, density(compiled, x)), expected) < 1e-4
