"""Networks of sentences: LSTM encoder and decoder, and a causal transformer decoder.

A sentence is a row of token numbers (B, T), padded with ``PAD``. A decoder reads what came before each token, and z:
``forward(before, z) -> (B, T, H)``, from which its ``out`` gives the next token's probability; ``begin`` and ``step``
do the same a token at a time, with the state that spares the tokens before: tensors with the batch first.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from fvae.tokens import PAD

State = tuple[Tensor, ...]


def lengths(x: Tensor) -> Tensor:
    """How many tokens each sentence has, of which padding is none: (B, T) -> (B,)."""
    return (x != PAD).sum(1)


def lstm_states(
    lstm: nn.LSTM, x: Tensor, n: Tensor, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """An LSTM over sentences of n tokens, each to its own end: all outputs (B, T, H) and the last one (B, H)."""
    packed = pack_padded_sequence(x, n.cpu(), batch_first=True, enforce_sorted=False)
    states, (last, _) = lstm(packed, start)
    return pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0], last[-1]


class LSTMEncoder(nn.Module):
    """The state of an LSTM after the last token, and a linear map of it: (B, T) -> (B, out)."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, out: int):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.out = nn.Linear(hidden, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(lstm_states(self.lstm, self.embed(x), lengths(x))[1])


class LSTMDecoder(nn.Module):
    """An LSTM that begins at z and sees it with each token (Bowman et al., 2016; He et al., 2019):

        c_0 = W z, h_0 = tanh(c_0);  h_t, c_t = LSTM([embed(x_t-1); z], h_t-1, c_t-1);  output h_t + U z

    U z only with ``skip``, so that the output depends on z directly (Dieng et al., 2019). Dropout is on embeddings
    and outputs. With a latent of no dimensions it is a plain language model.
    """

    def __init__(
        self, vocabulary: int, embedding: int, hidden: int, latent: int, skip: bool, dropout: float, out: nn.Module
    ):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.start, self.skip = (  # of no dimensions, where there is no skip
            nn.Parameter(torch.empty(hidden, d).uniform_(-1, 1) / max(1, d) ** 0.5) for d in (latent, skip * latent)
        )
        self.lstm = nn.LSTM(embedding + latent, hidden, batch_first=True)
        self.dropout, self.out = nn.Dropout(dropout), out

    def forward(self, before: Tensor, z: Tensor) -> Tensor:
        h, c, _ = self.begin(z)
        repeated = z[:, None].expand(-1, before.shape[1], -1)
        x = torch.cat([self.dropout(self.embed(before)), repeated], -1)
        states, _ = lstm_states(self.lstm, x, lengths(before), (h[None], c[None]))
        return self.dropout(states + self.skipped(z)[:, None])

    def begin(self, z: Tensor) -> State:
        c = z @ self.start.T
        return torch.tanh(c), c, z

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        h, c, z = state
        x = torch.cat([self.embed(token), z], -1)
        _, (h, c) = self.lstm(x[:, None], (h[None], c[None]))
        return h[0] + self.skipped(z), (h[0], c[0], z)

    def skipped(self, z: Tensor) -> Tensor:
        return z[:, : self.skip.shape[1]] @ self.skip.T


class CausalBlock(nn.Module):
    """Attention to what came before, and two dense layers, each on a LayerNorm and added: (B, T, H) to itself."""

    dense: Any

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.dense = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Also keys and values so far, (B, 2, heads, T, H / heads), which ``past`` were before these tokens."""
        q, *pair = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        kept = torch.stack(pair, 1)
        if past is not None:
            kept = torch.cat([past, kept], 3)
        seen = F.scaled_dot_product_attention(q, kept[:, 0], kept[:, 1], is_causal=past is None)
        x = x + self.dropout(self.out(seen.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.dense(self.norm_2(x))), kept


class TransformerDecoder(nn.Module):
    """A causal transformer that sees W z, added to each token (pre-norm; Radford et al., 2019).

    Raises ``ValueError`` for more than ``max_length`` tokens.
    """

    def __init__(
        self,
        vocabulary: int,
        max_length: int,
        hidden: int,
        latent: int,
        layers: int,
        heads: int,
        dropout: float,
        out: nn.Module,
    ):
        super().__init__()
        self.embed, self.places = nn.Embedding(vocabulary, hidden), nn.Embedding(max_length, hidden)
        for table in (self.embed, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.beside = nn.Parameter(0.02 * torch.randn(hidden, latent))  # as small as a token's embedding
        self.part = (2, heads, 0, hidden // heads)  # keys and values of a block, of no tokens yet
        blocks = [CausalBlock(hidden, heads, dropout) for _ in range(layers)]
        for block in blocks:  # so that the sum over layers has the size of one
            for last in (block.out.weight, block.dense[-1].weight):
                nn.init.normal_(last, std=0.02 / math.sqrt(2 * layers))
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.dropout, self.out = nn.LayerNorm(hidden), nn.Dropout(dropout), out

    def forward(self, before: Tensor, z: Tensor) -> Tensor:
        n, max_length = before.shape[1], self.places.num_embeddings
        if n > max_length:
            raise ValueError(f"expected sentences of at most {max_length} tokens, ends counted; found {n}")
        positions = torch.arange(n, device=before.device)
        x = self.dropout(self.embed(before) + self.places(positions) + (z @ self.beside.T)[:, None])
        for block in self.blocks:
            x, _ = block(x)
        return self.norm(x)

    def begin(self, z: Tensor) -> State:
        return z, *(z.new_zeros(len(z), *self.part) for _ in self.blocks)

    def step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        z, *past = state
        x = self.embed(token) + self.places.weight[past[0].shape[3]] + z @ self.beside.T
        x, kept = x[:, None], []
        for block, before in zip(self.blocks, past, strict=True):
            x, now = block(x, before)
            kept.append(now)
        return self.norm(x[:, 0]), (z, *kept)
