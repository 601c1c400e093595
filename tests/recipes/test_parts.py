"""What the settings of recipes and of their parts do."""

import inspect
import math
import re

import pytest
import torch
from conftest import perturb
from recipe_table import COLOR, GREY, VECTOR, batch, data, make, row

from fvae.conditioners import SharedStd
from fvae.conditioners.constant import by_channel
from fvae.density import total
from fvae.flows import Checkerboard, Coupling, Flatten, InvertibleConv, Permute
from fvae.networks.residual import Residual
from fvae.recipes import RECIPES, FlowPart, Glow, Grid, Noise, Squeezing, Strided, bn_vae, glow, recipe, vae, variant
from fvae.statistics import initialize
from fvae.transforms import Additive


def test_the_published_size():
    """The author's configuration for 128 x 128 RGB has the 95.8 million parameters that he gives."""
    with torch.device("meta"):
        model = RECIPES["f_vae"](
            (3, 128, 128),
            coder=Squeezing(squeezes=3, blocks=12, hidden=0),
            posterior=Noise(sigma=0.1),
            flow=Glow(levels=4, depth=12, width=256, mixing="shuffle", coupling="additive"),
        )
    assert model.latent == (192, 16, 16)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(95.8, abs=0.05)


# Flows


@pytest.mark.parametrize("bits", range(1, 8))
@torch.no_grad()
def test_fewer_bits_cost_fewer_bits(bits):
    """An untrained glow of uniform bins costs bits log 2 a dimension and what its code costs, whatever the bits."""
    models = {b: make("glow", GREY, bits=b) for b in (bits, 8)}
    u = models[8].noise(4)
    x = torch.randint(2**bits, (4, *GREY)).float()
    models[8].load_state_dict(models[bits].state_dict())
    few, eight = (m(x * 2 ** (8 - b), u=u) for b, m in ((bits, models[bits]), (8, models[8])))
    difference = (eight.log_u - eight.log_det) - (few.log_u - few.log_det)
    torch.testing.assert_close(difference, torch.full((4,), 96 * (8 - bits) * math.log(2)), rtol=1e-4, atol=0)
    assert models[bits].decode(models[bits].encode(x)).round().equal(x)


@pytest.mark.parametrize(("mixing", "kind"), [("conv", InvertibleConv), ("shuffle", Permute), ("reverse", Permute)])
@pytest.mark.parametrize("coupling", ["affine", "additive"])
@pytest.mark.parametrize("name", ["glow", "f_vae"])
def test_mixing_and_coupling_are_what_is_asked_for(name, coupling, mixing, kind):
    """As many mixing layers of the kind as steps; every coupling is of the transform."""
    modules = list(make(name, GREY, flow={"mixing": mixing, "coupling": coupling}).prior.modules())
    assert sum(isinstance(m, kind) for m in modules) == 4
    additive = [isinstance(m.transform, Additive) for m in modules if isinstance(m, Coupling)]
    assert additive == 4 * [coupling == "additive"]
    orders = [m.order for m in modules if isinstance(m, Permute)]
    assert all((order.diff() == -1).all() for order in orders) == (mixing != "shuffle")


@torch.no_grad()
def test_realnvp_alternates_and_nice_interleaves():
    """realnvp's checkerboards change color; nice's first coupling keeps even dimensions, the second odd ones."""
    model = make("realnvp", GREY, flow={"levels": 1, "depth": 4})
    assert [m.color for m in model.modules() if type(m) is Checkerboard] == [0, 1, 0, 1]
    x = torch.randn(4, 5)
    for depth, changed, kept in [(1, slice(2, None), slice(0, None, 2)), (2, slice(3, None), slice(1, None, 2))]:
        model = make("nice", VECTOR, flow={"depth": depth})
        perturb(model.prior.flows[2 * depth])  # the last coupling
        code = model.encode(x)
        assert torch.equal(code[:, changed], x[:, kept]) and not torch.isin(code[:, : changed.start], x).any()


@pytest.mark.parametrize("shape", [GREY, (4,)])
@pytest.mark.parametrize("seed", range(6))
def test_realnvp_leaves_no_channel_alone(shape, seed):
    """Whatever the shuffles are, two couplings in a row change all channels of a scale: four after the squeeze."""
    torch.manual_seed(seed)
    order, changed = torch.arange(4), set()
    for m in make("realnvp", shape, flow={"depth": 2}).modules():
        if isinstance(m, Permute) and len(m.order) == 4:
            order = order[m.order]
        elif type(m) is Coupling and len(changed) < 4:
            changed |= set(order[m.keep :].tolist())
    assert changed == {0, 1, 2, 3}


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_each_round_is_a_flow_and_a_condition_more(rounds):
    """n rounds have n conditional maps in the posterior and n - 1 flows between them; the n-th is the prior's."""
    model = make("f_vae_general", GREY, rounds=rounds)
    kinds = [type(flow).__name__ for flow in model.posterior.flows]
    assert kinds == ["Elementwise", *["Chain", "Elementwise"] * (rounds - 1)]


# Standard deviations


@pytest.mark.parametrize("kind", ["scalar", "channel", "network", "fixed"])
@pytest.mark.parametrize("name", ["f_vae", "f_vae_reduced"])
def test_sigma_1_is_of_the_kind_asked_for(name, kind):
    """It starts as given, one or one a channel, in the weights; a fixed one is not trained, a network's is of x."""
    model = make(name, GREY, posterior={"sigma": 0.3, "std": kind})
    (conditioner, x), d = (model.posterior.conditioner, data(model)), math.prod(model.latent)
    torch.testing.assert_close(model(x).log_det, torch.full((6,), d * math.log(0.3)))
    perturb(model)
    if kind == "network":
        assert conditioner(x)[1].shape == (6, *model.latent) and conditioner(x)[1].std(0).min() > 0
    else:
        log_std, trained = conditioner.log_std, kind != "fixed"
        assert log_std.shape == (by_channel(model.latent) if kind == "channel" else ())
        assert ("log_std" in dict(conditioner.named_parameters())) == trained and "log_std" in conditioner.state_dict()
        assert torch.allclose(log_std, torch.tensor(0.3).log(), atol=1e-6) != trained


@pytest.mark.parametrize("kind", ["scalar", "channel", "optimal", "fixed"])
@pytest.mark.parametrize("name", ["vae", "cvae", "bn_vae", "f_vae", "f_vae_general", "f_vae_reduced"])
@pytest.mark.parametrize("shape", [COLOR, VECTOR], ids=["images", "vectors"])
def test_sigma_2_is_of_the_kind_asked_for(name, kind, shape):
    """It starts as given, one or one a channel, in the weights; a fixed or optimal one is no parameter."""
    likelihood = "density" if kind == "optimal" else "discretized"
    model = make(name, shape, decoder={"sigma": 0.3, "std": kind, "likelihood": likelihood})
    conditioner = model.decoder.conditioner
    before = conditioner.metrics()["sigma_2"].item()
    assert before == pytest.approx(0.3)
    assert conditioner.log_std.shape == (by_channel(shape) if kind == "channel" else ())
    assert ("log_std" in dict(conditioner.named_parameters())) == (kind in ("scalar", "channel"))
    model(*batch(model))
    assert (conditioner.metrics()["sigma_2"].item() == before) == (kind != "optimal")


def test_the_learning_rates_scale_is_that_of_sigmas_alone():
    """``lr_scale`` of posterior and decoder is on sigma_1 and sigma_2, for the optimizer to find."""
    scales = {"posterior": {"lr_scale": 7.0}, "decoder": {"lr_scale": 5.0}}
    model = make("f_vae", GREY, flow={"mixing": "shuffle"}, **scales)
    found = [(type(m), m.lr_scale) for m in model.modules() if hasattr(m, "lr_scale")]
    assert found == [(SharedStd, 7.0), (SharedStd, 5.0)]


# Coders


@torch.no_grad()
def test_normalized_means_have_deviation_one():
    """With ``normalize`` E(x) has mean 0 and deviation 1 by channel in training, in images and in vectors."""
    for name, shape in [("f_vae", COLOR), ("f_vae", VECTOR), ("f_vae_reduced", GREY), ("f_vae_reduced", VECTOR)]:
        model = row(name, shape, posterior={"normalize": True}).moved()
        mean, _ = model.posterior.conditioner(model.preprocess(data(model, 8))[0])
        a = mean.transpose(0, 1).flatten(1)
        torch.testing.assert_close(a.mean(1), torch.zeros(len(a)), rtol=0, atol=1e-4)
        torch.testing.assert_close(a.std(1, correction=0), torch.ones(len(a)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("block", "kernel"), [("residual", 3), ("convnext", 7)])
def test_blocks_are_those_asked_for(block, kernel):
    """E and G are made of the blocks named: as many as asked for, after each squeeze and before each unsqueeze."""
    model = make("f_vae", GREY, coder={"block": block, "blocks": 3, "squeezes": 2}, flow={"levels": 1})
    kernels = [m.body[0].kernel_size for m in model.modules() if isinstance(m, Residual)]
    assert kernels == 12 * [(kernel, kernel)]


@torch.no_grad()
def test_tanh_bounds_the_decoder():
    """With tanh decoded images stay in the range of the bins; without they may leave it."""
    models = (make("f_vae", GREY, coder={"tanh": v}, decoder={"likelihood": "density"}) for v in (True, False))
    e = 5 * torch.randn(4, 96)
    bounded, free = (perturb(model, 0.3).decode(e) for model in models)
    assert bounded.min() >= -0.5 and bounded.max() <= 255.5
    assert free.abs().max() > 300


@pytest.mark.parametrize(
    ("name", "extra"),
    [("f_vae", {}), ("f_vae", {"coder": {"block": "convnext"}}), ("f_vae_general", {"rounds": 3})],
    ids=["", "convnext", "rounds"],
)
@torch.no_grad()
def test_an_untrained_f_vae_is_a_squeeze(name, extra):
    """E, G and the flows' couplings start as the identity: with a small sigma_1 decode(encode(x)) is x."""
    model = make(name, COLOR, **extra)
    x = data(model)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=0.05)
    z, _ = model.posterior(torch.zeros(6, *model.latent), x)
    torch.testing.assert_close(total(z.square()), total(((x + 0.5) / 128 - 1).square()))


# Choices


def test_a_variant_differs_in_its_defaults_alone():
    """Also of a variant: arguments, their checks and their order are the base's, name and text its own."""
    try:

        @variant(bn_vae, coder=Strided(size=3))
        def small_bn_vae() -> None:
            """A small one."""

        model, arguments = small_bn_vae((4,)), inspect.signature(small_bn_vae).parameters
        assert model.latent == (3,) and model.config["recipe"] == "small_bn_vae"
        assert model.config["settings"] == bn_vae((4,), Strided(size=3)).config["settings"]
        assert list(arguments) == list(inspect.signature(vae).parameters) and arguments["coder"].default.size == 3
        assert (small_bn_vae.__doc__ or "").startswith("A small one.\n")
    finally:
        RECIPES.pop("small_bn_vae", None)


def test_some_settings_of_a_part_change_the_recipes_own():
    """A part of the recipe's kind begins from the recipe's settings of it, one of another kind from its own."""
    width = lambda **flow: RECIPES["f_vae"].settings(**flow).flow.model_dump().get("width")  # noqa: E731
    assert width() == width(flow={"depth": 2}) == width(flow="glow") == width(flow={"kind": "glow"}) == 128
    assert width(flow=Glow(depth=2)) == 256 and width(flow={"kind": "nice"}) == 1000


def test_a_subclass_is_a_choice_and_a_function_a_recipe():
    """Both in one place, and known to all recipes, and to the table of recipes."""
    choices = FlowPart.choices()

    class Scaled(FlowPart, kind="scaled"):
        """A flow by name."""

        size: int = 2

        def build(self, shape, squeeze_first=True):
            return Flatten(shape)

    @recipe
    def scaled_vae(shape: tuple[int, ...], flow: FlowPart = Scaled(size=3)):  # noqa: B008
        return vae(shape, flow=flow)

    try:
        assert FlowPart.choices() == choices | {"scaled": Scaled}
        model = RECIPES["scaled_vae"]((4,), flow={"kind": "scaled"})
        assert model.config["settings"] == {"flow": {"kind": "scaled", "size": 3}}
        assert isinstance(glow((4,), flow="scaled").prior, Flatten)
    finally:
        del RECIPES["scaled_vae"]
        Scaled.kind = ""


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_source_and_explains_its_settings(name):
    """The first line ends in authors and year; each setting, of each kind of a part, has its line."""
    assert re.search(r"\([A-Z][\w& .,:;-]*, (19|20)\d\d[^()]*\)\.$", RECIPES[name].__doc__.split("\n")[0])
    for setting in RECIPES[name].settings.model_fields.values():
        parts = setting.annotation.choices().values() if hasattr(setting.annotation, "choices") else []
        assert setting.description or (all(part.__doc__ for part in parts) and parts)
        assert all(field.description for part in parts for field in part.model_fields.values())


@torch.no_grad()
def test_a_generator_of_images_starts_at_their_mean():
    """Of dark images, too, whose bound is then below uniform bins before any step."""
    model = make("vae", (3, 9, 8), decoder={"sigma": 0.1})
    x = torch.randint(20, (64, 3, 9, 8)) + torch.tensor([0, 5, 10])[:, None, None]
    initialize(model, x)
    mean = model.sample(200).mean((0, 2, 3))
    torch.testing.assert_close(mean, x.float().mean((0, 2, 3)), rtol=0, atol=6)
    assert -model.elbo(x).mean() < 8 * math.log(2) * 216


def test_latents_on_a_grid_of_any_size():
    """With images of sides that neither the coder nor the flow divides, too."""
    for shape, levels, latent in (((3, 16, 16), 2, (5, 4, 4)), ((1, 12, 9), 1, (5, 6, 6)), ((1, 12, 9), 2, (5, 4, 4))):
        coder, flow = Grid(channels=5, levels=levels, width=4), Glow(levels=2, depth=1, width=4)
        model = RECIPES["f_vae_reduced"](shape, coder=coder, flow=flow)
        assert model.latent == latent and model.elbo(torch.randint(256, (3, *shape))).isfinite().all()
        assert model.sample(2).shape == (2, *shape)
    with pytest.raises(ValueError, match=r"^coder: expected images, whose latents are on a grid, found vectors$"):
        RECIPES["f_vae_reduced"]((4,), coder="grid")
