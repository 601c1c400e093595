"""The decoder of text: a language model conditioned on z, and how sentences are generated from it."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.networks.text import State
from fvae.precision import widen, without_autocast
from fvae.tokens import BOS, EOS, PAD, UNK


class LanguageModel(nn.Module):
    """The probability of a sentence under a language model: log p(x|z) = sum_t log p(x_t | x_<t, z), in nats.

    ``x`` (B, T) token numbers, padded; the end of the sentence is a token that is predicted too, padding is none.
    ``net`` is a decoder of ``fvae.networks.text``, ``max_length`` counts the end. In training each token of what came
    before is hidden (shown as unknown) with probability ``word_dropout`` (Bowman et al., 2016).
    """

    net: Any
    likelihood = "a probability of tokens"

    def __init__(self, net: nn.Module, max_length: int, word_dropout: float = 0.0):
        super().__init__()
        self.net, self.max_length, self.word_dropout = net, max_length, word_dropout

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        x = x.long()
        before = F.pad(x[:, :-1], (1, 0), value=BOS).where(x != PAD, PAD)
        if self.training and self.word_dropout:
            hidden = torch.rand(before.shape, device=x.device) < self.word_dropout
            before = torch.where(hidden & (before > UNK), UNK, before)
        h = self.net(before, z)
        rows, positions = (x != PAD).nonzero(as_tuple=True)
        found = self.net.out(h[rows, positions], x[rows, positions])
        return torch.zeros(len(x), dtype=found.dtype, device=x.device).index_add(0, rows, found)

    def mean(self, z: Tensor) -> Tensor:
        """The sentence whose next token is always the most probable: (B, d) -> (B, T)."""
        return self.draw(z, 0.0)

    @torch.no_grad()
    def draw(
        self, z: Tensor, temperature: float = 1.0, top_p: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Sentences, token by token: (B, d) -> (B, T) that end with EOS, or are truncated at ``max_length``.

        ``temperature`` divides the logits, 0 takes the most probable token. Of the probable tokens only those count
        that have ``top_p`` of the probability together (Holtzman et al., 2020). Linear in the length.
        """
        token = torch.full((len(z),), BOS, device=z.device)
        going = torch.ones(len(z), dtype=torch.bool, device=z.device)
        state, written = self.net.begin(z), []
        for _ in range(self.max_length - 1):
            log_p, state = self.next(token, state)
            token = choose(log_p, temperature, top_p, generator)
            token = torch.where(going, token, PAD)
            written.append(token)
            going = going & (token != EOS)
            if not going.any():
                break
        return torch.stack(written, 1)

    @torch.no_grad()
    def beam(self, z: Tensor, width: int) -> Tensor:
        """The most probable sentence that a beam of ``width`` finds: (B, d) -> (B, T)."""
        b = len(z)
        z = z.repeat_interleave(width, 0)
        state, token = self.net.begin(z), torch.full((len(z),), BOS, device=z.device)
        score = torch.full((b, width), -math.inf, device=z.device, dtype=z.dtype)
        score[:, 0] = 0.0  # all begin alike: one of them is enough
        going = torch.ones(len(z), dtype=torch.bool, device=z.device)
        written = torch.zeros(len(z), 0, dtype=torch.long, device=z.device)
        for _ in range(self.max_length - 1):
            log_p, state = self.next(token, state)
            ended = torch.full_like(log_p, -math.inf)
            ended[:, PAD] = 0.0
            log_p = torch.where(going[:, None], log_p, ended)
            score, best = (score[..., None] + log_p.view(b, width, -1)).flatten(1).topk(width)
            rows = (torch.arange(b, device=z.device)[:, None] * width + best // log_p.shape[1]).flatten()
            state, token = tuple(s[rows] for s in state), (best % log_p.shape[1]).flatten()
            written = torch.cat([written[rows], token[:, None]], 1)
            going = going[rows] & (token != EOS)
            if not going.any():
                break
        return written[::width]

    def next(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """log-probabilities (B, V) of what comes next; padding and the beginning can't be written."""
        h, state = self.net.step(token, state)
        log_p = self.net.out.log_prob(h)
        log_p[:, [PAD, BOS]] = -math.inf
        return log_p, state


class Softmax(nn.Module):
    """log softmax(W h + b), in float32 or wider."""

    def __init__(self, hidden: int, vocabulary: int):
        super().__init__()
        self.dense = nn.Linear(hidden, vocabulary)

    def forward(self, h: Tensor, token: Tensor) -> Tensor:
        """At a token each: (N, H), (N,) -> (N,)."""
        return -F.cross_entropy(widen(self.dense(h)), token, reduction="none")

    def log_prob(self, h: Tensor) -> Tensor:
        """At every token: (N, H) -> (N, V)."""
        return torch.log_softmax(widen(self.dense(h)), -1)


class AdaptiveSoftmax(nn.Module):
    """One over the most frequent fifth of the tokens and the rest as a whole, and one within the rest, of half as many
    dimensions: probabilities that add up to 1, for a quarter of the work (Grave et al., 2017).

        log p(x) = log p_head(x), or log p_head(rest) + log p_rest(x)

    Words and characters are numbered by their frequency; byte pairs come after the 256 bytes. In the type of its
    weights, also under autocast.
    """

    def __init__(self, hidden: int, vocabulary: int):
        super().__init__()
        fifth = max(1, vocabulary // 5)
        self.parts = nn.AdaptiveLogSoftmaxWithLoss(hidden, vocabulary, [fifth], div_value=2.0, head_bias=True)

    def forward(self, h: Tensor, token: Tensor) -> Tensor:
        """At a token each: (N, H), (N,) -> (N,)."""
        with without_autocast(h):
            found = self.parts(h.to(self.parts.head.weight.dtype), token).output
        # rare tokens' weights take part where no token is rare: several processes wait for every gradient
        return found + 0 * sum(p.sum() for p in self.parts.tail.parameters())

    def log_prob(self, h: Tensor) -> Tensor:
        """At every token: (N, H) -> (N, V)."""
        with without_autocast(h):
            return self.parts.log_prob(h.to(self.parts.head.weight.dtype))


def choose(log_p: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """A token each: (B, V) -> (B,)."""
    if temperature == 0:
        return log_p.argmax(-1)
    log_p = log_p - log_p.amax(-1, keepdim=True)  # so that no temperature is too low
    p, order = torch.softmax(log_p / temperature, -1).sort(-1, descending=True)
    p = p * (p.cumsum(-1) - p < top_p)  # the first always stays
    upto = p.cumsum(-1)
    drawn = torch.rand(len(p), 1, generator=generator).to(p) * upto[:, -1:]  # not p.sum(): it may end elsewhere
    index = torch.searchsorted(upto, drawn).clamp(max=p.shape[-1] - 1)
    return order.gather(-1, index)[:, 0]
