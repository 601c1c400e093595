"""What the methods of a model are given: types are adapted, what does not fit is refused in one sentence."""

import math

import pytest
import torch
from text_models import SHAPE, make_text_vae, sentences

from fvae import interpolate
from fvae.recipes import cvae, glow, realnvp, vae

SMALL = {"size": 2, "width": 4, "levels": 1}
FLOW = {"levels": 1, "depth": 1, "width": 4}
IMAGES = torch.randint(32, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1])
MODELS = {
    "images": lambda: glow((1, 4, 4), flow=FLOW, bits=5),
    "table": lambda: vae((2,), coder=SMALL),
    "labels": lambda: cvae((2,), classes=3, coder=SMALL),
    "text": make_text_vae,
}


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_data_of_every_type_are_taken(name, double):
    """Numbers of other types are cast to the model's, labels to int64; a bound of K samples is of its type, too."""
    model = MODELS[name]().double() if double else MODELS[name]()
    x = {"images": IMAGES, "text": sentences()}.get(name, ROWS)
    y = LABELS if name == "labels" else None
    for other in (x.byte(), x.short()) if name == "images" else (x.int(),) if name == "text" else (x.double(),):
        codes = model.encode(other, y)
        assert codes.dtype == model.elbo(other, y, samples=2).dtype == model.like.dtype
        torch.testing.assert_close(codes, model.encode(x, None if y is None else y.to(torch.int32)))
        torch.testing.assert_close(model.decode(codes.double(), y), model.decode(codes, y))


def changed(x: torch.Tensor, value: float) -> torch.Tensor:
    x = x.clone()
    x.view(-1)[0] = value
    return x


@pytest.mark.parametrize(
    ("name", "x", "y", "message"),
    [
        ("images", IMAGES[0], None, r"x: expected \(N, 1, 4, 4\) for this model, found \(1, 4, 4\), one sample: add"),
        ("images", changed(IMAGES, 32), None, r"x: expected 0 .. 31, found \d+ .. 32: divide 8-bit values by 8"),
        ("images", changed(IMAGES, -1), None, r"x: expected 0 .. 31, found -1 .. \d+"),
        ("images", IMAGES / 255, None, r"x: expected 0 .. 31, found 0.* .. 0.*: multiply by 31 and round"),
        ("images", IMAGES / 16 - 1, None, r"x: expected 0 .. 31, found -.* .. 0\.\d+$"),
        ("table", ROWS.T, None, r"x: expected \(N, 2\) for this model, found \(2, 3\)"),
        ("text", sentences().float(), None, r"x: expected token numbers \(N, T\) .*, found float32 \(6, 9\)"),
        ("text", changed(sentences(), 12), None, "x: expected token numbers 0 .. 11, found 12"),
        ("labels", ROWS, None, "y: expected labels 0 .. 2, found none"),
        ("labels", ROWS, LABELS - 1, "y: expected labels 0 .. 2, found -1"),
        ("labels", ROWS, LABELS + 1, "y: expected labels 0 .. 2, found 3"),
        ("labels", ROWS, LABELS / 2, "y: expected labels 0 .. 2 of an integer type, found torch.float32"),
        ("labels", ROWS, LABELS[:2], r"y: expected labels 0 .. 2 for each of 3 samples, found shape \(2,\)"),
        ("table", ROWS, LABELS, "y: expected no labels"),
    ],
)
def test_what_does_not_fit_is_refused(name, x, y, message):
    model = MODELS[name]()
    for call in (model.elbo, model.encode):
        with pytest.raises(ValueError, match=f"^{message}"):
            call(x, y)
    if message.startswith("y"):
        with pytest.raises(ValueError, match=f"^{message}"):
            model.sample(3, y)
    with pytest.raises(ValueError, match=r"^e: expected codes \(N, \d+\), found \(3, 1\)"):
        model.decode(torch.zeros(3, 1), model.draw_labels(3))


def test_decoded_images_have_codes_and_densities():
    """Also where they leave the bins; but no probability."""
    model = MODELS["images"]()
    images = model.sample(50, temperature=100)
    assert images.max() > 31 and model.encode(images).isfinite().all() and model.log_prob(images).isfinite().all()
    with pytest.raises(ValueError, match="x: expected 0 "):
        model.elbo(images)


@torch.no_grad()
def test_values_beyond_float32_are_errors():
    """Codes and decoded values that are not finite; a log-density is minus infinity there."""
    model, far = realnvp((3,), flow={"depth": 1, "width": 4}).eval(), torch.tensor([[0.0] * 3, [3e38] * 3])
    assert model.log_prob(far)[0].isfinite() and model.log_prob(far)[1] == -math.inf
    for call, log_std in ((model.encode, -3.0), (model.decode, 3.0)):
        model.preprocess.constant.log_std.fill_(log_std)
        assert call(far[:1]).isfinite().all()
        with pytest.raises(ValueError, match=r"found NaN or infinity for 1 of 2 samples, the first number 1$"):
            call(far)


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf, 101.0])
def test_temperatures_out_of_range_are_refused(temperature):
    with pytest.raises(ValueError, match=r"^temperature: expected 0 to 100, found"):
        MODELS["images"]().sample(1, temperature=temperature)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    for make in MODELS.values():
        model = make().eval().to(dtype)
        if model.classes:
            continue
        for call in (lambda m=model: m.sample(2), lambda m=model: m.decode(m.codes(2))):
            with pytest.raises(ValueError, match=f"^expected a model of float32 or float64, .*; found {dtype}$"):
                call()


def test_numbers_and_shapes_that_make_no_sense_are_refused():
    model = MODELS["images"]()
    for n in (0, 2.5, "3"):
        with pytest.raises(ValueError, match=rf"^n: expected a whole number of 1 or more, found {n}$"):
            model.sample(n)
    x, e = torch.zeros(2, *model.shape), model.codes(2)
    for call, name in ((model.elbo, "x"), (model.encode, "x"), (model.decode, "e")):
        with pytest.raises(TypeError, match=rf"^{name}: expected a tensor, found ndarray$"):
            call((e if name == "e" else x).numpy())
    with pytest.raises(TypeError, match=r"^x: expected a tensor, found NoneType$"):
        model.elbo(None)
    with pytest.raises(ValueError, match=r"^e: expected codes \(N, \d+\), found \(0, \d+\)$"):
        model.decode(e[:0])
    with pytest.raises(ValueError, match=r"^x: expected whole numbers 0 .. \d+, found 3.25; round them$"):
        model.elbo(x + 3.25)
    a, b = torch.zeros(model.shape), torch.zeros(model.shape)[:, :-1]
    with pytest.raises(ValueError, match=r"^ends: expected samples of one shape, found "):
        interpolate(model, a, b)


def test_interpolation_between_sentences():
    """Of different lengths, in rows and squares: every point of the line is one sentence, decoded as it is alone."""
    model = make_text_vae(0.3).eval()
    ends = [row[row != 0] for row in sentences(4)]
    row, square = interpolate(model, *ends[:2], steps=5), interpolate(model, *ends, steps=3)
    assert row.shape[0] == 5 and square.shape[:2] == (3, 3) and max(row.shape[-1], square.shape[-1]) <= SHAPE[0]
    for end, found in ((ends[0], row[0]), (ends[1], row[-1]), (ends[0], square[0, 0]), (ends[3], square[2, 2])):
        alone = model.decode(model.encode(end[None]))[0]
        assert torch.equal(found[found != 0], alone[alone != 0])
