"""Every recipe: it trains, samples, saves, rebuilds and compiles, at a small size; and refuses what it can't make."""

import json
import math
import shutil

import pytest
import torch
from conftest import perturb

from fvae.atoms import total
from fvae.bound import LatentModel, fit_actnorms
from fvae.errors import UserError
from fvae.flows import InvertibleConv, Permute
from fvae.params import MeanOnly
from fvae.recipes import RECIPES

SMALL = {
    "glow": {"levels": 2, "depth": 2, "width": 8},
    "vae": {"latent": 6, "width": 8, "levels": 2},
    "f_vae": {"squeezes": 1, "blocks": 1, "hidden": 8, "levels": 2, "depth": 2, "width": 8},
}
GREY, COLOUR = (1, 8, 12), (3, 12, 8)
TABLE = {
    "glow": ("glow", GREY, {}),
    "glow, colour, shuffled, additive, 5 bits": (
        "glow",
        COLOUR,
        {"mixing": "shuffle", "coupling": "additive", "bits": 5},
    ),
    "vae": ("vae", GREY, {"bits": 3}),
    "vae, colour": ("vae", COLOUR, {"blocks": 2}),
    "f_vae": ("f_vae", GREY, {}),
    "f_vae, colour, additive, reversed, tanh": (
        "f_vae",
        COLOUR,
        {"coupling": "additive", "mixing": "reverse", "tanh": True, "hidden": 0},
    ),
    "f_vae, fixed sigma_1, 1 bit": ("f_vae", GREY, {"sigma_1": 0.3, "learn_sigma_1": False, "bits": 1}),
}
every_recipe = pytest.mark.parametrize(("name", "shape", "extra"), TABLE.values(), ids=TABLE.keys())


def make(name: str, shape: tuple, extra: dict) -> LatentModel:
    return RECIPES[name](shape, **(SMALL[name] | extra))


def bins(model: LatentModel, n: int = 6) -> torch.Tensor:
    """Smooth images with a little noise, in the model's bins: waves of random phase, the channels alike."""
    top = 2 ** model.config["settings"]["bits"] - 1
    c, h, w = model.shape
    rows, columns = torch.arange(h) / h, torch.arange(w) / w
    a, b, phase = torch.rand(3, n, 1, 1, 1)
    wave = torch.sin(2 * math.pi * (a * rows[:, None] + b * columns + phase)) + 0.1 * torch.randn(n, c, h, w)
    return ((wave + 1.3) / 2.6 * (top + 1)).floor().clamp(0, top)


def test_the_table_has_every_recipe():
    """A recipe without a row here is not tested."""
    assert {name for name, _, _ in TABLE.values()} == set(RECIPES) == set(SMALL)


@every_recipe
def test_thirty_steps_lower_the_loss(name, shape, extra):
    """After fit_actnorms and 30 steps of Adam on a batch, the loss on that batch is lower by 5 % or more."""
    model = make(name, shape, extra)
    x, u = bins(model, 16), model.noise(16)
    fit_actnorms(model, x)
    before = model(x, u=u).loss().item()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        loss = model(x).loss()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = model(x, u=u).loss().item()
    assert math.isfinite(after) and after < 0.95 * before


@every_recipe
def test_terms_have_a_value_a_sample(name, shape, extra):
    """Four terms of shape (B,) in float32, finite, and a scalar loss that is their mean."""
    model = perturb(make(name, shape, extra), 0.05)
    terms = model(bins(model))
    for term in terms:
        assert term.shape == (6,) and term.dtype == torch.float32 and term.isfinite().all()
    torch.testing.assert_close(terms.loss(), (terms.rate + terms.distortion).mean())
    assert terms.loss().shape == ()


@every_recipe
@torch.no_grad()
def test_shapes_of_codes_and_samples(name, shape, extra):
    """Codes are flat and as many as the latent's values; decoded and sampled images have the data's shape."""
    model = perturb(make(name, shape, extra), 0.05).eval()
    x = bins(model)
    e = model.encode(x)
    assert e.shape == (6, math.prod(model.latent))
    assert model.decode(e).shape == x.shape
    assert torch.equal(model.encode(x), e)
    images = model.sample(5, temperature=0.7)
    assert images.shape == (5, *shape) and images.isfinite().all()
    assert model.sample(1).shape == (1, *shape)


@every_recipe
@torch.no_grad()
def test_codes_are_recovered_through_the_prior(name, shape, extra):
    """The prior's inverse undoes it, so that a code means one z; a flow gives x back exactly."""
    model = perturb(make(name, shape, extra), 0.05).double()
    x = bins(model).double()
    e = model.encode(x)
    torch.testing.assert_close(model.prior(model.prior.inverse(e))[0], e, rtol=1e-8, atol=1e-8)
    if name == "glow":
        torch.testing.assert_close(model.decode(e), x, rtol=0, atol=1e-7)


@every_recipe
@torch.no_grad()
def test_bytes_and_floats_are_the_same_images(name, shape, extra):
    """uint8 in gives what float in gives."""
    model = perturb(make(name, shape, extra), 0.05)
    x, u = bins(model), model.noise(6)
    for a, b in zip(model(x.byte(), u=u), model(x, u=u), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(model.encode(x.byte()), model.encode(x))


@every_recipe
def test_every_parameter_gets_a_gradient(name, shape, extra):
    """One step back reaches every parameter, with a finite gradient that is not all zero."""
    model = perturb(make(name, shape, extra), 0.05)
    model(bins(model)).loss().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), parameter_name


@every_recipe
@torch.no_grad()
def test_config_and_weights_are_all_of_a_model(name, shape, extra):
    """model.config rebuilds the model, whatever the seed, once its weights are loaded."""
    model = perturb(make(name, shape, extra), 0.05)
    x, u = bins(model), model.noise(6)
    torch.manual_seed(99)
    config = model.config
    again = RECIPES[config["recipe"]](config["shape"], **config["settings"])
    assert again.config == config
    again.load_state_dict(model.state_dict())
    for a, b in zip(model(x, u=u), again(x, u=u), strict=True):
        assert torch.equal(a, b)
    e = torch.randn(2, math.prod(model.latent))
    assert torch.equal(model.decode(e), again.decode(e))


@every_recipe
def test_config_is_plain(name, shape, extra):
    """The config names each setting of the recipe and holds only what JSON holds."""
    config = make(name, shape, extra).config
    assert json.loads(json.dumps(config)) == config
    assert config["recipe"] == name and config["shape"] == list(shape)
    assert (SMALL[name] | extra).items() <= config["settings"].items()


@every_recipe
@torch.no_grad()
def test_float64(name, shape, extra):
    """In double precision all terms are double, near those of single precision."""
    model = perturb(make(name, shape, extra), 0.05)
    x, u = bins(model), model.noise(6)
    single = model(x, u=u)
    double = model.double()(x.double(), u=u.double())
    for a, b in zip(single, double, strict=True):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-2)
    assert model.sample(2).dtype == torch.float64


@every_recipe
def test_the_objective_is_one_graph(name, shape, extra):
    """torch.compile takes the whole model, terms and drawn noise, as one graph."""
    model = perturb(make(name, shape, extra | ({} if name == "vae" else {"depth": 1})), 0.05)
    x, u = bins(model), model.noise(6)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for a, b in zip(model(x, u=u), compiled(x, u=u), strict=True):
        torch.testing.assert_close(a, b)
    compiled(x).loss().backward()


@every_recipe
@torch.no_grad()
def test_autocast_keeps_terms_in_float32(name, shape, extra):
    """Under bfloat16 autocast the terms are float32, finite and near the plain ones."""
    model = perturb(make(name, shape, extra), 0.02)
    x, u = bins(model), model.noise(6)
    with torch.autocast("cpu", torch.bfloat16):
        terms = model(x, u=u)
    assert all(term.dtype == torch.float32 and term.isfinite().all() for term in terms)
    torch.testing.assert_close(terms.loss(), model(x, u=u).loss(), rtol=0.05, atol=0)


@every_recipe
@torch.no_grad()
def test_closed_form_and_sampled_terms_agree_in_mean(name, shape, extra):
    """Over many u the rate with ``sampled`` and without have the same mean; only a VAE's is known without u."""
    model = perturb(make(name, shape, extra), 0.02)
    x, u = bins(model, 1).expand(1000, *shape), model.noise(1000)
    plain, sampled = model(x, u=u), model(x, u=u, sampled=True)
    assert torch.equal(plain.log_x, sampled.log_x) and torch.equal(plain.logdet, sampled.logdet)
    if name == "vae":
        error = sampled.rate.std() / math.sqrt(len(x))
        assert (sampled.rate.mean() - plain.rate.mean()).abs() < 5 * error
        assert plain.rate.std() < 1e-4 * sampled.rate.std()
    else:
        assert torch.equal(plain.rate, sampled.rate) and plain.rate.std() > 0


@every_recipe
@torch.no_grad()
def test_generators_repeat_noise(name, shape, extra):
    """The same generator gives the same samples, another seed others."""
    model = perturb(make(name, shape, extra), 0.02)
    first, again, other = (model.sample(2, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


# What settings do


@pytest.mark.parametrize("bits", range(1, 8))
@torch.no_grad()
def test_fewer_bits_cost_fewer_bits(bits):
    """An untrained glow of uniform bins costs bits log 2 a dimension and what its code costs, whatever the bits."""
    models = {b: make("glow", GREY, {"bits": b}) for b in (bits, 8)}
    u = models[8].noise(4)
    x = torch.randint(2**bits, (4, *GREY)).float()
    models[8].load_state_dict(models[bits].state_dict())
    few, eight = (m(x * 2 ** (8 - b), u=u) for b, m in ((bits, models[bits]), (8, models[8])))
    difference = (eight.log_u - eight.logdet) - (few.log_u - few.logdet)
    torch.testing.assert_close(difference, torch.full((4,), 96 * (8 - bits) * math.log(2)), rtol=1e-4, atol=0)
    assert models[bits].decode(models[bits].encode(x)).round().equal(x)


@pytest.mark.parametrize(("mixing", "kind"), [("conv", InvertibleConv), ("shuffle", Permute), ("reverse", Permute)])
@pytest.mark.parametrize("name", ["glow", "f_vae"])
def test_mixing_and_coupling_are_what_is_asked_for(name, mixing, kind):
    """As many mixing layers of the kind as steps; MeanOnly in every additive coupling, in no affine one."""
    for coupling in ("affine", "additive"):
        model = make(name, GREY, {"mixing": mixing, "coupling": coupling})
        modules = list(model.prior.modules())
        assert sum(isinstance(m, kind) for m in modules) == 4
        assert sum(isinstance(m, MeanOnly) for m in modules) == (4 if coupling == "additive" else 0)
        orders = [m.order for m in modules if isinstance(m, Permute)]
        assert all((order.diff() == -1).all() for order in orders) == (mixing != "shuffle")


def test_a_fixed_sigma_1_is_no_parameter():
    """learn_sigma_1=False keeps sigma_1 in the weights and out of the parameters."""
    fixed, learned = (make("f_vae", GREY, {"sigma_1": 0.3, "learn_sigma_1": v}) for v in (False, True))
    key = "posterior.params.log_std"
    assert key not in dict(fixed.named_parameters()) and key in dict(learned.named_parameters())
    for model in (fixed, learned):
        assert model.state_dict()[key].item() == pytest.approx(math.log(0.3))
    model = perturb(fixed)
    assert model.state_dict()[key].item() == pytest.approx(math.log(0.3))
    assert model(bins(model)).logdet[0].item() == pytest.approx(96 * math.log(0.3), rel=1e-5)


@torch.no_grad()
def test_tanh_bounds_the_decoder():
    """With tanh decoded images stay in the range of the bins; without they may leave it."""
    bounded, free = (perturb(make("f_vae", GREY, {"tanh": v}), 0.3) for v in (True, False))
    e = 5 * torch.randn(4, 96)
    images = bounded.decode(e)
    assert images.min() >= -0.5 and images.max() <= 255.5
    assert free.decode(e).abs().max() > 300


@torch.no_grad()
def test_an_untrained_f_vae_is_a_squeeze():
    """E, G and F's couplings start as the identity: with a small sigma_1 decode(encode(x)) is x."""
    model = make("f_vae", COLOUR, {})
    x = bins(model)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=0.05)
    z, _ = model.posterior(torch.zeros(6, *model.latent), x)
    torch.testing.assert_close(total(z.square()), total(((x + 0.5) / 128 - 1).square()))


def test_the_published_size():
    """The author's configuration for 128 x 128 RGB has the 95.8 million parameters that he gives."""
    with torch.device("meta"):
        model = RECIPES["f_vae"](
            (3, 128, 128),
            squeezes=3,
            blocks=12,
            hidden=0,
            levels=4,
            depth=12,
            width=256,
            mixing="shuffle",
            coupling="additive",
            sigma_1=0.1,
        )
    assert model.latent == (192, 16, 16)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(95.8, abs=0.05)


# What is refused


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (GREY, {"breadth": 3}, r"{name} has no setting 'breadth'; its settings are .*width"),
        (GREY, {"levels": "two"}, r"{name}: levels must be a whole number; found 'two'"),
        (GREY, {"levels": 1.5}, r"{name}: levels must be a whole number; found 1.5"),
        (GREY, {"levels": True}, r"{name}: levels must be a whole number; found True"),
        (GREY, {"levels": None}, r"{name}: levels must be a whole number; found None"),
        (GREY, {"levels": 0}, r"{name}: levels must be above 0; found 0"),
        (GREY, {"width": -8}, r"{name}: width must be above 0; found -8"),
        (GREY, {"bits": 0}, r"{name}: bits must be from 1 to 8; found 0"),
        (GREY, {"bits": 9}, r"{name}: bits must be from 1 to 8; found 9"),
        ((1, 8), {}, r"{name}: shape must be \(channels, height, width\); found \(1, 8\)"),
        ((1, 8, 0), {}, r"{name}: shape must be \(channels, height, width\); found \(1, 8, 0\)"),
        ((1, 8, 8.0), {}, r"{name}: shape must be \(channels, height, width\); found \(1, 8, 8.0\)"),
        ((3, 20, 18), {"levels": 2}, r"height and width that 4 divides; found 20x18.*--data.size 20"),
        ((3, 4, 30), {"levels": 3}, r"divides; found 4x30.*--data.size 32"),
    ],
)
def test_wrong_settings_are_refused_by_name(name, shape, settings, message):
    """A UserError states what was expected and what was found, in one line."""
    extra = {"squeezes": 1} if name == "f_vae" else {}
    with pytest.raises(UserError, match=message.format(name=name)) as error:
        RECIPES[name](shape, **(extra | settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("glow", {"depth": -1}, "glow: depth must be above 0; found -1"),
        ("f_vae", {"depth": 0}, "f_vae: depth must be above 0; found 0"),
        ("glow", {"mixing": "stir"}, "glow: mixing must be one of conv, shuffle, reverse; found 'stir'"),
        ("glow", {"coupling": 3}, "glow: coupling must be one of affine, additive; found 3"),
        ("f_vae", {"tanh": 1}, "f_vae: tanh must be true or false; found 1"),
        ("f_vae", {"sigma_1": "small"}, "f_vae: sigma_1 must be a number; found 'small'"),
        ("f_vae", {"sigma_1": 0.0}, "f_vae: sigma_1 must be above 0 and finite; found 0.0"),
        ("f_vae", {"sigma_2": -0.1}, "f_vae: sigma_2 must be above 0 and finite; found -0.1"),
        ("f_vae", {"sigma_1": math.nan}, "f_vae: sigma_1 must be above 0 and finite; found nan"),
        ("f_vae", {"sigma_1": math.inf}, "f_vae: sigma_1 must be above 0 and finite; found inf"),
        ("f_vae", {"blocks": -1}, "f_vae: blocks must be 0 or more; found -1"),
        ("vae", {"latent": 0}, "vae: latent must be above 0; found 0"),
    ],
)
def test_wrong_settings_of_one_recipe_are_refused_by_name(name, settings, message):
    """As above, for settings that only some recipes have."""
    with pytest.raises(UserError, match=message):
        RECIPES[name]((1, 32, 32), **settings)


def test_sizes_count_squeezes_and_levels():
    """f_vae halves a side squeezes + levels - 1 times; the message's size is one that works."""
    with pytest.raises(UserError, match=r"that 16 divides; found 24x24.*--data.size 32"):
        RECIPES["f_vae"]((1, 24, 24), squeezes=2, levels=3)
    RECIPES["f_vae"]((1, 32, 32), squeezes=2, levels=3, blocks=0, depth=1, width=4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # Inductor's lowering warns of torch's own older names
def test_the_largest_recipe_compiles_for_real():
    """Inductor's f_vae gives the terms of the plain one: once, since generating code takes half a minute."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # of the shapes of other tests
    model = RECIPES["f_vae"]((1, 8, 8), squeezes=1, blocks=1, levels=2, depth=1, width=8)
    x, u = torch.randint(0, 256, (4, 1, 8, 8)), model.noise(4)
    for a, b in zip(model(x, u=u), torch.compile(model, fullgraph=True)(x, u=u), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
