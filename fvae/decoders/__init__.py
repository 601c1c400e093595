"""Decoders p(x|z): ``forward(x, z) -> log p(x|z)`` (B,) in nats, ``mean(z) -> x``.

A decoder that is conditioned on labels or context declares ``classes`` or ``context`` (itself or in a module inside it)
and is called with them too: ``forward(x, z, y)``, ``mean(z, y)``. ``likelihood`` says in words what its figures are.

What a decoder can do beyond that, it declares:

- ``draw(z, noise=)`` draws from p(x|z), with noise (B, *shape), or (B, *noise_shape), from N(0, I);
- ``noise_shape``: ``forward`` takes ``noise`` of that shape too, as part of the model's u;
- ``temperature``: samples are draws with so many times that noise, instead of means;
- ``code_values``, ``encode(x, z) -> (B, code_values)``: it has a latent of its own, whose codes come first in
  ``noise``; its ``forward`` may return ``Terms`` instead of log p(x|z);
- ``start(x)``: what its generator begins at, from images x.
"""

from fvae.decoders.bernoulli import Bernoulli
from fvae.decoders.columns import AutoregressiveColumns, Columns
from fvae.decoders.exact import Exact, ExactBins
from fvae.decoders.flow import ConditionalFlow
from fvae.decoders.gaussian import DequantizedGaussian, DiscretizedGaussian, Gaussian
from fvae.decoders.language import AdaptiveSoftmax, LanguageModel, Softmax
from fvae.decoders.latent import ConditionalLatent, WithImage
