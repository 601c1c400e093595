"""The figures of every recipe on fixed weights and data: what no change of structure may change."""

import math
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import nn

from fvae.recipes import RECIPES
from fvae.renamed import renamed

GENERATOR = torch.Generator()


def normal(*shape):
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


@contextmanager
def fixed_permutations():
    """Random permutations are drawn in the order of construction, whatever else is drawn between them."""
    generator, before = torch.Generator().manual_seed(5), torch.randperm
    with mock.patch.object(torch, "randperm", lambda n, **_: before(n, generator=generator)):
        yield


@torch.no_grad()
def fix_weights(model):
    """Every random weight becomes 0.1 N(0, 1), every constant one is moved by as much."""
    model.double()
    GENERATOR.manual_seed(1)
    for p in model.parameters():
        start = p if p.numel() and (p == p.flatten()[0]).all() else torch.zeros_like(p)
        scale = min(0.1, 0.5 / math.sqrt(p[0].numel() or 1)) if p.dim() > 1 and len(p) else 0.1
        p.copy_(start + scale * normal(*p.shape))
    for m in model.modules():
        if hasattr(m, "signs"):
            m.order.copy_(torch.randperm(len(m.order), generator=GENERATOR))
            m.signs.copy_(torch.randint(2, m.signs.shape, generator=GENERATOR) * 2.0 - 1)
    return model


@torch.no_grad()
def figures(model, x, classes):
    """Rate and distortion in training and in evaluation, and a sum over codes and reconstructions."""
    GENERATOR.manual_seed(2)
    y = torch.randint(classes, (len(x),), generator=GENERATOR) if classes else None
    u = normal(len(x), *model.noise_shape)
    found = []
    for training in (True, False):
        terms = model.train(training)(x, y, u)
        found += [terms.rate.mean(), terms.distortion.mean()]
    e = model.encode(x, y)
    back = model.decode(e, y).double()
    return [float(v) for v in (*found, e.square().mean(), back.mean(), back.square().mean())]


def image_bins(shape, bits, n=6):
    GENERATOR.manual_seed(3)
    return torch.randint(2**bits, (n, *shape), generator=GENERATOR).double()


def rows(d, n=6):
    GENERATOR.manual_seed(3)
    return normal(n, d)


def sentences(length, vocabulary, n=6):
    GENERATOR.manual_seed(3)
    x = torch.randint(4, vocabulary, (n, length), generator=GENERATOR)
    for i in range(n):
        end = 1 + i % (length - 1)
        x[i, end], x[i, end + 1 :] = 2, 0
    return x.int()


# Recipe, shape, settings, number of parameters; rate and distortion in training and in evaluation, the mean square of
# codes, mean and mean square of what is decoded: recorded before the second edition, at fb626cc.
TABLE = {
    "nice": (
        "nice",
        (1, 8, 12),
        {"depth": 2, "width": 8, "hidden": 2},
        1984,
        [640.47595239, 0.0, 640.47595239, 0.0, 0.390657253731, 127.574652778, 22126.703125],
    ),
    "nice, classes": (
        "nice",
        (1, 8, 12),
        {"depth": 2, "width": 8, "hidden": 2, "classes": 3, "bits": 3},
        2272,
        [306.97337222, 0.0, 306.97337222, 0.0, 0.374677135737, 3.44965277778, 17.0364583333],
    ),
    "nice, vectors": (
        "nice",
        (5,),
        {"depth": 3, "width": 8, "hidden": 2},
        377,
        [6.19158267577, 0.0, 6.19158267577, 0.0, 0.757416398005, -0.0947836182728, 0.661517439765],
    ),
    "realnvp": (
        "realnvp",
        (1, 8, 12),
        {"levels": 2, "depth": 2, "width": 8},
        4644,
        [630.677128086, 0.0, 630.677128086, 0.0, 0.473226192443, 127.574652778, 22126.703125],
    ),
    "realnvp, colour, classes, odd depth": (
        "realnvp",
        (3, 12, 8),
        {"levels": 2, "depth": 1, "width": 8, "classes": 2},
        6932,
        [1923.43214578, 0.0, 1923.43214578, 0.0, 0.265546531713, 127.022569444, 21817.2355324],
    ),
    "realnvp, vectors": (
        "realnvp",
        (5,),
        {"levels": 2, "depth": 2, "width": 8},
        330,
        [6.0468867023, 0.0, 6.0468867023, 0.0, 0.723764319805, -0.0947836182728, 0.661517439765],
    ),
    "glow": (
        "glow",
        (1, 8, 12),
        {"levels": 2, "depth": 2, "width": 8},
        3236,
        [633.919469472, 0.0, 633.919469472, 0.0, 0.384891818641, 127.574652778, 22126.703125],
    ),
    "glow, colour, shuffled, additive, 5 bits": (
        "glow",
        (3, 12, 8),
        {"levels": 2, "depth": 2, "width": 8, "mixing": "shuffle", "coupling": "additive", "bits": 5},
        6392,
        [1347.87359049, 0.0, 1347.87359049, 0.0, 0.402554056346, 15.541087963, 326.346643519],
    ),
    "glow, without actnorm": (
        "glow",
        (1, 8, 12),
        {"levels": 2, "depth": 2, "width": 8, "actnorm": False},
        3188,
        [648.326535908, 0.0, 648.326535908, 0.0, 0.866435278189, 127.574652778, 22126.703125],
    ),
    "glow, vectors, classes": (
        "glow",
        (5,),
        {"levels": 2, "depth": 2, "width": 8, "classes": 3},
        395,
        [6.30554812147, 0.0, 6.30554812147, 0.0, 0.571834029602, -0.0947836182728, 0.661517439765],
    ),
    "noisy_flow": (
        "noisy_flow",
        (1, 8, 12),
        {"levels": 2, "depth": 2, "width": 8, "sigma": 0.1},
        3236,
        [203.16360718, 379.763043108, 203.16360718, 379.763043108, 0.738063467321, 127.574652778, 22126.703125],
    ),
    "noisy_flow, realnvp, 4 bits": (
        "noisy_flow",
        (1, 8, 12),
        {"levels": 2, "depth": 1, "width": 8, "sigma": 0.1, "flow": "realnvp", "bits": 4},
        2332,
        [187.471711328, 119.820112108, 187.471711328, 119.820112108, 0.535824960064, 7.43576388889, 76.3142361111],
    ),
    "noisy_flow, nice, classes": (
        "noisy_flow",
        (3, 12, 8),
        {"levels": 2, "depth": 2, "width": 8, "sigma": 0.1, "flow": "nice", "classes": 2},
        6496,
        [581.1415542, 1136.68477906, 581.1415542, 1136.68477906, 0.376626644175, 127.022569444, 21817.2355324],
    ),
    "noisy_flow, vectors": (
        "noisy_flow",
        (5,),
        {"levels": 2, "depth": 2, "width": 8, "sigma": 0.1},
        380,
        [
            11.6343240464,
            -4.67902029684,
            11.6343240464,
            -4.67902029684,
            0.773729712733,
            -0.0947836182728,
            0.661517439765,
        ],
    ),
    "vae": (
        "vae",
        (1, 8, 12),
        {"latent": 6, "width": 8, "levels": 2, "bits": 3},
        12766,
        [0.15181063111, 258.505471218, 0.15181063111, 258.505471218, 0.0156365299885, 2.72539274501, 7.4516608901],
    ),
    "vae, colour, channels": (
        "vae",
        (3, 12, 8),
        {"latent": 6, "width": 8, "levels": 2, "blocks": 2, "sigma_2_kind": "channel"},
        19826,
        [0.35871782527, 1834.95678084, 0.35871782527, 1834.95678084, 0.0263297888672, 120.178071593, 14678.7388349],
    ),
    "vae, classes, closed": (
        "vae",
        (1, 8, 12),
        {"latent": 6, "width": 8, "levels": 2, "classes": 3, "sigma_2_kind": "closed", "bins": "dequantised"},
        12783,
        [0.275434976755, 553.083555492, 0.275434976755, 553.083555492, 0.0502254501139, 126.897148637, 16163.5373202],
    ),
    "vae, dequantised": (
        "vae",
        (1, 8, 12),
        {"latent": 6, "width": 8, "levels": 2, "bins": "dequantised"},
        12766,
        [0.182131778301, 613.57035842, 0.182131778301, 613.57035842, 0.0191243839625, 102.77823113, 10588.24591],
    ),
    "vae, vectors, fixed": (
        "vae",
        (5,),
        {"latent": 6, "width": 8, "levels": 2, "sigma_2_kind": "fixed"},
        561,
        [
            0.165057890563,
            16.1938064125,
            0.165057890563,
            16.1938064125,
            0.00271253466618,
            0.0505960030425,
            0.0148961849508,
        ],
    ),
    "cvae": (
        "cvae",
        (1, 8, 12),
        {"latent": 6, "width": 8, "levels": 2, "classes": 3},
        12783,
        [0.275434976755, 571.332581683, 0.275434976755, 571.332581683, 0.0502254501139, 126.897148637, 16163.5373202],
    ),
    "cvae, vectors": (
        "cvae",
        (5,),
        {"latent": 6, "width": 8, "levels": 2, "classes": 3, "blocks": 0},
        275,
        [
            0.0508929601496,
            6.24022393642,
            0.0508929601496,
            6.24022393642,
            0.00967623614556,
            -0.0681907259901,
            0.0140661559689,
        ],
    ),
    "bn_vae, one-sided": (
        "bn_vae",
        (1, 8, 12),
        {"latent": 6, "width": 8, "levels": 2, "form": "one-sided"},
        12772,
        [0.926211569152, 600.691886641, 0.926211569152, 600.691886641, 0.25188382122, 109.840722408, 12115.6231311],
    ),
    "bn_vae, one-sided, vectors, classes": (
        "bn_vae",
        (5,),
        {"latent": 6, "width": 8, "levels": 2, "form": "one-sided", "classes": 3},
        586,
        [0.80601729514, 15.8046719414, 0.80601729514, 15.8046719414, 0.25188382122, -0.0599070068863, 0.00727898037037],
    ),
    "bn_vae, two-sided, classes": (
        "bn_vae",
        (3, 12, 8),
        {"latent": 6, "width": 8, "levels": 2, "form": "two-sided", "classes": 2},
        13298,
        [4.19337253663, 1904.96759045, 4.19337253663, 1904.96759045, 0.752068455371, 128.370413657, 16733.4965866],
    ),
    "bn_vae, two-sided, vectors": (
        "bn_vae",
        (5,),
        {"latent": 6, "width": 8, "levels": 2, "tau": 0.2},
        568,
        [
            2.77825157338,
            15.2090014966,
            2.77825157338,
            15.2090014966,
            0.603309528594,
            -0.0605887614953,
            0.00683147468473,
        ],
    ),
    "f_vae": (
        "f_vae",
        (1, 8, 12),
        {"squeezes": 1, "blocks": 1, "hidden": 8, "levels": 2, "depth": 2, "width": 8},
        3918,
        [494.75126477, 144839.258299, 494.75126477, 144839.258299, 0.978226084813, 130.102752392, 23028.5218254],
    ),
    "f_vae, colour, additive, reversed, tanh": (
        "f_vae",
        (3, 12, 8),
        {
            "squeezes": 1,
            "blocks": 1,
            "hidden": 0,
            "levels": 2,
            "depth": 2,
            "width": 8,
            "coupling": "additive",
            "mixing": "reverse",
            "tanh": True,
        },
        9346,
        [1476.48860256, 468437.466189, 1476.48860256, 468437.466189, 0.541602293491, 128.931627788, 21288.8082865],
    ),
    "f_vae, fixed sigma_1, 1 bit": (
        "f_vae",
        (1, 8, 12),
        {
            "squeezes": 1,
            "blocks": 1,
            "hidden": 8,
            "levels": 2,
            "depth": 2,
            "width": 8,
            "sigma_1": 0.3,
            "sigma_1_kind": "fixed",
            "bits": 1,
        },
        3917,
        [87.6646028172, 30114.6316222, 87.6646028172, 30114.6316222, 0.557255994988, 0.516953070736, 0.434710869815],
    ),
    "f_vae, channels, classes": (
        "f_vae",
        (3, 12, 8),
        {
            "squeezes": 1,
            "blocks": 1,
            "hidden": 8,
            "levels": 2,
            "depth": 2,
            "width": 8,
            "sigma_1_kind": "channel",
            "sigma_2_kind": "channel",
            "sigma_2": 0.03,
            "sigma_2_least": 0.02,
            "classes": 3,
        },
        14291,
        [1548.47236286, 31022.5698473, 1548.47236286, 31022.5698473, 1.3416195623, 127.889172919, 22857.9708636],
    ),
    "f_vae, network, normalised, convnext, closed": (
        "f_vae",
        (1, 8, 12),
        {
            "squeezes": 1,
            "blocks": 1,
            "hidden": 8,
            "levels": 2,
            "depth": 2,
            "width": 8,
            "sigma_1_kind": "network",
            "normalised": True,
            "block": "convnext",
            "sigma_2_kind": "closed",
            "bins": "dequantised",
        },
        3953,
        [524.401524191, 518.486199355, 524.401524191, 518.486199355, 1.02835195467, 118.709183287, 30592.3426686],
    ),
    "f_vae, vectors, channels": (
        "f_vae",
        (5,),
        {
            "squeezes": 1,
            "blocks": 1,
            "hidden": 8,
            "levels": 2,
            "depth": 2,
            "width": 8,
            "sigma_1_kind": "channel",
            "sigma_2_kind": "channel",
        },
        592,
        [26.0422419531, 13051.6262881, 26.0422419531, 13051.6262881, 0.558545474478, -0.191325302619, 0.722927509592],
    ),
    "f_vae, vectors, network, normalised, classes": (
        "f_vae",
        (5,),
        {
            "squeezes": 1,
            "blocks": 1,
            "hidden": 8,
            "levels": 2,
            "depth": 2,
            "width": 8,
            "sigma_1_kind": "network",
            "normalised": True,
            "classes": 3,
            "sigma_2": 0.3,
        },
        629,
        [27.3375564586, 6.69360577149, 27.3375564586, 6.69360577149, 0.997460051178, -0.0665906793916, 1.00755310889],
    ),
    "f_vae_general": (
        "f_vae_general",
        (1, 8, 12),
        {"squeezes": 1, "blocks": 1, "hidden": 8, "levels": 2, "depth": 1, "width": 8},
        4162,
        [491.221983617, 610475.790154, 491.221983617, 610475.790154, 0.814201939953, 132.517767796, 24898.8451536],
    ),
    "f_vae_general, three rounds, additive, classes": (
        "f_vae_general",
        (1, 8, 12),
        {
            "squeezes": 1,
            "blocks": 1,
            "hidden": 8,
            "levels": 2,
            "depth": 1,
            "width": 8,
            "rounds": 3,
            "coupling": "additive",
            "classes": 3,
        },
        5096,
        [494.628620449, 587237.181075, 494.628620449, 587237.181075, 1.0931429131, 137.795603924, 26491.8205437],
    ),
    "f_vae_general, dequantised, channels, 4 bits": (
        "f_vae_general",
        (3, 12, 8),
        {
            "squeezes": 1,
            "blocks": 1,
            "hidden": 8,
            "levels": 2,
            "depth": 1,
            "width": 8,
            "bins": "dequantised",
            "sigma_2_kind": "channel",
            "bits": 4,
        },
        16716,
        [1523.46641253, 1628029.39207, 1523.46641253, 1628029.39207, 1.04056599844, 7.70736918141, 102.930126818],
    ),
    "f_vae_general, vectors": (
        "f_vae_general",
        (5,),
        {"squeezes": 1, "blocks": 1, "hidden": 8, "levels": 2, "depth": 2, "width": 8},
        1075,
        [26.8906810812, 21018.4222319, 26.8906810812, 21018.4222319, 1.21841762338, 0.0863314843505, 0.974309636863],
    ),
    "f_vae_reduced": (
        "f_vae_reduced",
        (1, 8, 12),
        {"latent": 6, "width": 8, "levels": 2, "flow_depth": 2, "flow_width": 8},
        12609,
        [9.91029837697, 648.28305528, 9.91029837697, 648.28305528, 0.062650791612, 155.518562303, 24287.6225429],
    ),
    "f_vae_reduced, normalised, fixed, classes": (
        "f_vae_reduced",
        (3, 12, 8),
        {
            "latent": 6,
            "width": 8,
            "levels": 2,
            "flow_depth": 2,
            "flow_width": 8,
            "normalised": True,
            "sigma_1": 0.4,
            "sigma_1_kind": "fixed",
            "classes": 3,
        },
        13140,
        [7.21010501445, 1808.80320615, 7.21010501445, 1808.80320615, 1.23740192012, 125.23011182, 15874.1597446],
    ),
    "f_vae_reduced, vectors, network, closed": (
        "f_vae_reduced",
        (5,),
        {
            "latent": 3,
            "width": 8,
            "levels": 2,
            "flow_depth": 2,
            "flow_width": 8,
            "sigma_1_kind": "network",
            "sigma_2_kind": "closed",
        },
        753,
        [6.00510606949, 6.03377715546, 6.00510606949, 6.03377715546, 0.0673412384893, 0.028390204656, 0.00716805590857],
    ),
    "text_vae": (
        "text_vae",
        (9, 30),
        {"latent": 4, "embedding": 6, "hidden": 8, "layers": 1, "heads": 2, "dropout": 0.0},
        1914,
        [2.81345569389, 15.2564874072, 2.81345569389, 15.2564874072, 0.755033793956, 4.0, 16.0],
    ),
    "text_vae, gaussian, transformer": (
        "text_vae",
        (9, 30),
        {
            "latent": 4,
            "embedding": 6,
            "hidden": 8,
            "layers": 1,
            "heads": 2,
            "dropout": 0.0,
            "posterior": "gaussian",
            "decoder": "transformer",
        },
        2258,
        [0.00115864597367, 15.3950665646, 0.00115864597367, 15.3950665646, 0.000362294586813, 10.875, 142.875],
    ),
    "text_vae, fixed, flow, adaptive": (
        "text_vae",
        (9, 30),
        {
            "latent": 4,
            "embedding": 6,
            "hidden": 8,
            "layers": 1,
            "heads": 2,
            "dropout": 0.0,
            "posterior": "fixed",
            "prior": "flow",
            "flow_depth": 2,
            "flow_width": 8,
            "softmax": "adaptive",
        },
        2119,
        [2.61683355226, 18.7821261251, 2.61683355226, 18.7821261251, 0.0747157875488, 4.0, 16.0],
    ),
    "text_vae, one-sided, classes, no skip": (
        "text_vae",
        (9, 30),
        {
            "latent": 4,
            "embedding": 6,
            "hidden": 8,
            "layers": 1,
            "heads": 2,
            "dropout": 0.0,
            "posterior": "one-sided",
            "classes": 3,
            "skip": False,
        },
        1894,
        [0.725604181564, 15.4770017502, 0.725604181564, 15.4770017502, 0.362246214801, 20.0, 400.0],
    ),
    "text_vae, two-sided, classes, flow": (
        "text_vae",
        (9, 30),
        {
            "latent": 4,
            "embedding": 6,
            "hidden": 8,
            "layers": 1,
            "heads": 2,
            "dropout": 0.0,
            "classes": 3,
            "prior": "flow",
            "flow_depth": 2,
            "flow_width": 8,
        },
        2246,
        [4.0948369053, 15.2347907477, 4.0948369053, 15.2347907477, 0.800915212191, 4.0, 16.0],
    ),
    "language_model": (
        "language_model",
        (9, 30),
        {"embedding": 6, "hidden": 8, "layers": 1, "heads": 2, "dropout": 0.0},
        962,
        [0.0, 15.3834393745, 0.0, 15.3834393745, math.nan, 17.0, 289.0],
    ),
    "language_model, transformer": (
        "language_model",
        (9, 30),
        {"embedding": 6, "hidden": 8, "layers": 1, "heads": 2, "dropout": 0.0, "decoder": "transformer"},
        1470,
        [0.0, 15.3772909586, 0.0, 15.3772909586, math.nan, 16.625, 348.375],
    ),
    "nice, defaults, (1, 8, 8)": (
        "nice",
        (1, 8, 8),
        {},
        12272256,
        [427.494925394, 0.0, 427.494925394, 0.0, 0.396415941038, 129.950520833, 22708.3828125],
    ),
    "nice, defaults, (7,)": (
        "nice",
        (7,),
        {},
        12044028,
        [8.73101263094, 0.0, 8.73101263094, 0.0, 0.683053554319, -0.127215546614, 0.691252342079],
    ),
    "realnvp, defaults, (1, 8, 8)": (
        "realnvp",
        (1, 8, 8),
        {"levels": 2},
        97508,
        [476.812669431, 0.0, 476.812669431, 0.0, 2.85641865215, 129.950520833, 22708.3828125],
    ),
    "realnvp, defaults, (7,)": (
        "realnvp",
        (7,),
        {},
        14864,
        [9.37748138639, 0.0, 9.37748138639, 0.0, 0.811099348992, -0.127215546614, 0.691252342079],
    ),
    "glow, defaults, (1, 8, 8)": (
        "glow",
        (1, 8, 8),
        {"levels": 2},
        1389564,
        [421.675914992, 0.0, 421.675914992, 0.0, 0.372821806027, 129.950520833, 22708.3828125],
    ),
    "glow, defaults, (7,)": (
        "glow",
        (7,),
        {},
        551494,
        [12.9348712364, 0.0, 12.9348712364, 0.0, 1.86982571937, -0.127215546614, 0.691252342079],
    ),
    "noisy_flow, defaults, (1, 8, 8)": (
        "noisy_flow",
        (1, 8, 8),
        {"levels": 2},
        1389564,
        [260.002855858, 148.073133012, 260.002855858, 148.073133012, 1.22374667935, 129.950520833, 22708.3828125],
    ),
    "noisy_flow, defaults, (7,)": (
        "noisy_flow",
        (7,),
        {},
        551494,
        [30.0834600977, -17.1037088713, 30.0834600977, -17.1037088713, 1.86982571937, -0.127215546614, 0.691252342079],
    ),
    "vae, defaults, (1, 8, 8)": (
        "vae",
        (1, 8, 8),
        {"levels": 2},
        872578,
        [7.06022830167, 471.515456549, 7.06022830167, 471.515456549, 0.0366834446908, 142.187625568, 22410.3204857],
    ),
    "vae, defaults, (7,)": (
        "vae",
        (7,),
        {},
        42632,
        [6.19857964526, 30.6754253397, 6.19857964526, 30.6754253397, 0.0366384551273, 0.0388753487902, 0.0149698886664],
    ),
    "cvae, defaults, (1, 8, 8)": (
        "cvae",
        (1, 8, 8),
        {},
        182401,
        [1.4803349268, 382.804031565, 1.4803349268, 382.804031565, 0.0531035013549, 129.769000535, 17514.9132771],
    ),
    "cvae, defaults, (7,)": (
        "cvae",
        (7,),
        {},
        6535,
        [
            0.713812834043,
            9.06263159014,
            0.713812834043,
            9.06263159014,
            0.0447659372368,
            0.0820017377811,
            0.0272360777935,
        ],
    ),
    "bn_vae, defaults, (1, 8, 8)": (
        "bn_vae",
        (1, 8, 8),
        {},
        724962,
        [22.2831410723, 512.076208445, 22.2831410723, 512.076208445, 0.749646462046, 82.8245847043, 8645.55961476],
    ),
    "bn_vae, defaults, (7,)": (
        "bn_vae",
        (7,),
        {},
        24040,
        [22.4056400088, 30.4104470603, 22.4056400088, 30.4104470603, 0.749646462046, -0.208565110065, 0.0883429544922],
    ),
    "f_vae, defaults, (1, 8, 8)": (
        "f_vae",
        (1, 8, 8),
        {"levels": 2},
        441222,
        [352.834103228, 276053.911878, 352.834103228, 276053.911878, 1.99366724775, 125.614382016, 22621.9777011],
    ),
    "f_vae, defaults, (7,)": (
        "f_vae",
        (7,),
        {},
        148054,
        [43.0644859108, 55614.8051008, 43.0644859108, 55614.8051008, 2.326675427, 0.112787058542, 1.09553899054],
    ),
    "f_vae_general, defaults, (1, 8, 8)": (
        "f_vae_general",
        (1, 8, 8),
        {"levels": 2},
        478774,
        [388.146257111, 502639.487234, 388.146257111, 502639.487234, 2.21756933273, 119.632111018, 22463.0010803],
    ),
    "f_vae_general, defaults, (7,)": (
        "f_vae_general",
        (7,),
        {},
        221863,
        [38.7415607449, 40620.0241175, 38.7415607449, 40620.0241175, 1.58214522929, -0.00923328293978, 0.699649653748],
    ),
    "f_vae_reduced, defaults, (1, 8, 8)": (
        "f_vae_reduced",
        (1, 8, 8),
        {"levels": 2},
        1862915,
        [290.498291561, 560.120738882, 290.498291561, 560.120738882, 1.00549411693, 71.8418425733, 7539.54381592],
    ),
    "f_vae_reduced, defaults, (7,)": (
        "f_vae_reduced",
        (7,),
        {},
        1090313,
        [290.323591985, 26.6820169219, 290.323591985, 26.6820169219, 1.04472895828, -0.0648333660246, 0.0366435345075],
    ),
    "text_vae, defaults, (9, 30)": (
        "text_vae",
        (9, 30),
        {},
        1141310,
        [22.184410831, 15.5430633718, 22.184410831, 15.5430633718, 0.749646462046, 17.3333333333, 333.333333333],
    ),
    "language_model, defaults, (9, 30)": (
        "language_model",
        (9, 30),
        {},
        541726,
        [0.0, 15.499712711, 0.0, 15.499712711, math.nan, 20.0, 400.0],
    ),
}


@pytest.mark.parametrize(("recipe", "shape", "settings", "parameters", "expected"), TABLE.values(), ids=TABLE.keys())
def test_figures_on_fixed_weights(recipe, shape, settings, parameters, expected):
    """As many parameters, and the same rate, distortion, codes and reconstructions, as recorded."""
    with fixed_permutations():
        torch.manual_seed(0)
        model = RECIPES[recipe](shape, **renamed(recipe, settings))
    assert sum(p.numel() for p in model.parameters()) == parameters
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fix_weights(model)
    settings = model.config["settings"]
    x = {1: rows, 2: sentences, 3: lambda *shape: image_bins(shape, settings["bits"])}[len(shape)](*shape)
    found = figures(model, x, settings.get("classes", 0))
    torch.testing.assert_close(
        torch.tensor(found).double(), torch.tensor(expected).double(), rtol=1e-8, atol=1e-8, equal_nan=True
    )
