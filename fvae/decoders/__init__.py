"""Decoders p(x|z): ``forward(x, z) -> log p(x|z)`` (B,) in nats, ``mean(z) -> x``.

A decoder that is conditioned on labels or context declares ``classes`` or ``context`` (itself or in a module inside it)
and is called with them too: ``forward(x, z, y)``, ``mean(z, y)``. ``likelihood`` says in words what its figures are.
"""

from fvae.decoders.bernoulli import Bernoulli
from fvae.decoders.exact import Exact, ExactBins
from fvae.decoders.flow import ConditionalFlow
from fvae.decoders.gaussian import DequantizedGaussian, DiscretizedGaussian, Gaussian
from fvae.decoders.language import AdaptiveSoftmax, LanguageModel, Softmax
from fvae.decoders.latent import ConditionalLatent, WithImage
