"""One Glow, built from the layers of each library, and its coupling networks alone.

Three levels on 3x32x32 images. A step is actnorm, a mixing of the channels, and an affine coupling with a bounded scale
and the network conv3x3 - ReLU - conv1x1 - ReLU - conv3x3 (Kingma & Dhariwal, 2018). The coupling networks have
equally many weights (``network_weights``); other differences are documented at each builder. Where a library offers
several layers, the fastest is used. The other libraries' prior is N(0, I): only fvae has Glow's learned prior of the
channels that are factored out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import FrEIA.framework as ff
import FrEIA.modules as fm
import nflows.flows
import normflows as nf
import torch
from nflows import transforms as nt
from nflows.distributions import StandardNormal
from nflows.utils import create_mid_split_binary_mask
from torch import Tensor, nn

from fvae import initialize
from fvae.flows.fused import CouplingNet
from fvae.recipes import Glow, glow

SHAPE = (3, 32, 32)
SCALES = [(12, 16, 16), (24, 8, 8), (48, 4, 4)]  # each level's shape, after its squeeze


@dataclass
class Contender:
    """A model and the functions that are timed: images are in bins 0 .. 255, codes in the library's own format."""

    name: str
    kind: Literal["limit", "networks", "peer", "fvae"]
    module: nn.Module
    loss: Callable[[Tensor], Tensor]  # scalar
    encode: Callable[[Tensor], Any]
    sample: Callable[[int], Any]
    decode: Callable[[Any], Tensor] | None = None  # the inverse of encode


def network_convolutions(module: nn.Module, width: int) -> list[nn.Conv2d]:
    """The convolutions of the coupling networks, the only ones with ``width`` channels."""
    return [m for m in module.modules() if isinstance(m, nn.Conv2d) and width in (m.in_channels, m.out_channels)]


def network_weights(module: nn.Module, width: int) -> int:
    """The number of weights of the coupling networks."""
    networks = [m for m in module.modules() if isinstance(m, CouplingNet)]
    return sum(p.numel() for m in [*network_convolutions(module, width), *networks] for p in m.parameters())


def prepare(contender: Contender, width: int, x: Tensor) -> Contender:
    """Move it to x's device, give its last convolutions nonzero weights, as in training, and initialize its actnorms.

    fvae initializes actnorms in a separate pass, the other libraries at the first batch.
    """
    contender.module.to(x.device)
    for conv in network_convolutions(contender.module, width):
        conv.reset_parameters()
    for net in contender.module.modules():
        if isinstance(net, CouplingNet):
            nn.init.kaiming_uniform_(net.weight_3, math.sqrt(5))
    if contender.kind == "fvae":
        initialize(contender.module, x)
    with torch.no_grad():
        assert contender.loss(x).isfinite(), contender.name
    return contender


def channels_last(contender: Contender) -> Contender:
    """The same contender with weights and images in channels_last."""
    layout = torch.channels_last
    contender.module.to(memory_format=layout)
    return replace(
        contender,
        name=f"{contender.name}, channels_last",
        loss=lambda x: contender.loss(x.contiguous(memory_format=layout)),
        encode=lambda x: contender.encode(x.contiguous(memory_format=layout)),
    )


def network(c_in: int, c_out: int, width: int) -> nn.Sequential:
    """The coupling network from torch's own modules, as users of the other libraries would write it."""
    return nn.Sequential(
        nn.Conv2d(c_in, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.ReLU(),
        nn.Conv2d(width, c_out, 3, padding=1),
    )


def dequantized(x: Tensor) -> Tensor:
    """Bins to [0, 1], with uniform noise."""
    return (x + torch.rand_like(x)) / 256


def middle(x: Tensor) -> Tensor:
    """Bins to their middles in [0, 1]."""
    return (x + 0.5) / 256


def bins(v: Tensor) -> Tensor:
    """[0, 1] to bins, unrounded: the inverse of ``middle``."""
    return 256 * v - 0.5


def fvae_glow(depth: int, width: int) -> Contender:
    """The recipe with this depth and width."""
    model = glow(SHAPE, flow=Glow(levels=len(SCALES), depth=depth, width=width))
    return Contender("fvae", "fvae", model, lambda x: model(x).loss(), model.encode, model.sample, model.decode)


def normflows_glow(depth: int, width: int) -> Contender:
    """normflows' ``GlowBlock``: 1x1 convolution in LU form, scale sigmoid(s + 2), its own coupling network."""
    flows, merges, bases = [], [], []
    for i, (c, h, w) in reversed(list(enumerate(SCALES))):  # normflows runs from the codes to the image
        last = i == len(SCALES) - 1
        flows.append([*(nf.flows.GlowBlock(c, width) for _ in range(depth)), nf.flows.Squeeze()])
        bases.append(nf.distributions.DiagGaussian((c if last else c // 2, h, w), trainable=False))
        merges += [] if last else [nf.flows.Merge()]
    model = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)
    return Contender(
        "normflows",
        "peer",
        model,
        loss=lambda x: model.forward_kld(dequantized(x)),
        encode=lambda x: model.inverse_and_log_det(middle(x))[0],
        sample=lambda n: bins(model.sample(n)[0]),
        decode=lambda codes: bins(model.forward_and_log_det(codes)[0]),
    )


def freia_glow(depth: int, width: int) -> Contender:
    """FrEIA's ``AllInOneBlock``: coupling with scale exp(2 tanh), then scale and shift by channel, then a rotation.

    FrEIA has no learned 1x1 convolution: the rotation is fixed, and the "actnorm" not set from data. The
    alternatives (ActNorm, PermuteRandom or Fixed1x1Conv, AffineCouplingOneSided; one learned Householder reflection)
    were not measurably faster, nor was ``GLOWCouplingBlock``, which has half as many actnorms and mixings.
    """
    subnet = partial(network, width=width)
    block = {"subnet_constructor": subnet, "global_affine_type": "EXP", "permute_soft": True}
    nodes: list[ff.Node] = [ff.InputNode(*SHAPE)]
    here: Any = nodes[0]

    def add(module: type, **settings: Any) -> ff.Node:
        nodes.append(ff.Node(here, module, settings))
        return nodes[-1]

    for level in range(len(SCALES)):
        here = add(fm.IRevNetDownsampling)
        for _ in range(depth):
            here = add(fm.AllInOneBlock, **block)
        if level < len(SCALES) - 1:
            split = add(fm.Split)
            nodes.append(ff.OutputNode(split.out0))
            here = split.out1
    model = ff.GraphINN([*nodes, ff.OutputNode(here)])

    def loss(x: Tensor) -> Tensor:
        codes, logdet = model(dequantized(x))
        return (sum(0.5 * e.square().sum((1, 2, 3)) for e in codes) - logdet).mean()

    def noise(n: int) -> list[Tensor]:
        device = next(model.parameters()).device
        return [torch.randn(n, *shape, device=device) for shape in model.global_out_shapes]

    def decode(codes: Any) -> Tensor:
        return bins(model(codes, rev=True, jac=False)[0])

    return Contender(
        "FrEIA", "peer", model, loss, lambda x: model(middle(x), jac=False)[0], lambda n: decode(noise(n)), decode
    )


class NflowsNetwork(nn.Module):
    """The coupling network as nflows calls it: with a context, here None."""

    def __init__(self, c_in: int, c_out: int, width: int):
        super().__init__()
        self.net = network(c_in, c_out, width)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return self.net(x)


def nflows_glow(depth: int, width: int) -> Contender:
    """nflows: 1x1 convolution in LU form behind a fixed permutation, its inverse cached in eval mode, scale sigmoid."""

    def step(c: int) -> list[nt.Transform]:
        mask = create_mid_split_binary_mask(c)
        mixing = nt.OneByOneConvolution(c, using_cache=True)
        return [nt.ActNorm(c), mixing, nt.AffineCouplingTransform(mask, partial(NflowsNetwork, width=width))]

    scales = nt.MultiscaleCompositeTransform(len(SCALES))
    for shape in SCALES:
        steps = [flow for _ in range(depth) for flow in step(shape[0])]
        scales.add_transform(nt.CompositeTransform([nt.SqueezeTransform(), *steps]), shape)
    model = nflows.flows.Flow(scales, StandardNormal([SHAPE[0] * SHAPE[1] * SHAPE[2]]))
    return Contender(
        "nflows",
        "peer",
        model,
        loss=lambda x: -model.log_prob(dequantized(x)).mean(),
        encode=lambda x: model.transform_to_noise(middle(x)),
        sample=lambda n: bins(model.sample(n)),
        decode=lambda codes: bins(scales.inverse(codes)[0]),
    )


class GivenGradients(torch.autograd.Function):
    """A scalar function of any tensors with the given gradients: a loss that costs nothing."""

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *outputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        return None, *ctx.gradients


class Bare(nn.Module):
    """The coupling networks alone, each with a fixed input and gradient, drawn at the first use of a batch size."""

    def __init__(self, depth: int, width: int, relu: bool, layout: torch.memory_format):
        super().__init__()
        self.shapes = [shape for shape in SCALES for _ in range(depth)]
        nets = [network(c // 2, c, width) for c, _, _ in self.shapes]
        self.nets = nn.ModuleList(
            net if relu else nn.Sequential(*(m for m in net if isinstance(m, nn.Conv2d))) for net in nets
        ).to(memory_format=layout)
        self.layout = layout
        self.drawn: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def inputs_and_gradients(self, n: int) -> tuple[list[Tensor], list[Tensor]]:
        """The networks' inputs, whose gradients are computed and discarded, and the gradients of their outputs."""
        if n not in self.drawn:
            device = next(self.parameters()).device

            def draw(c: int, h: int, w: int) -> Tensor:
                return torch.randn(n, c, h, w, device=device).contiguous(memory_format=self.layout)

            inputs = [draw(c // 2, h, w).requires_grad_() for c, h, w in self.shapes]
            for x in inputs:
                x.register_post_accumulate_grad_hook(lambda x: setattr(x, "grad", None))
            self.drawn[n] = inputs, [draw(*shape) for shape in self.shapes]
        return self.drawn[n]

    def forward(self, n: int) -> list[Tensor]:
        return [net(x) for net, x in zip(self.nets, self.inputs_and_gradients(n)[0], strict=True)]

    def loss(self, x: Tensor) -> Tensor:
        return GivenGradients.apply(self.inputs_and_gradients(len(x))[1], *self(len(x)))


def bare(depth: int, width: int) -> list[Contender]:
    """The coupling networks without a flow around them: their convolutions only, and with the ReLUs."""
    contenders = []
    for name, kind, relu in (("convolutions", "limit", False), ("networks", "networks", True)):
        for layout in (torch.contiguous_format, torch.channels_last):
            module = Bare(depth, width, relu, layout)
            full_name = f"bare {name}, {str(layout).removeprefix('torch.').removesuffix('_format')}"
            contenders.append(Contender(full_name, kind, module, module.loss, lambda x, m=module: m(len(x)), module))
    return contenders


def peers(depth: int, width: int) -> list[Contender]:
    """Each other library in both memory layouts."""
    builders = (normflows_glow, freia_glow, nflows_glow)
    return [layout(build(depth, width)) for build in builders for layout in (lambda c: c, channels_last)]
