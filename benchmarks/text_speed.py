"""Tokens per second in training: text_vae and a plain torch.nn.LSTM language model of the same size, alternately.

usage: python benchmarks/text_speed.py FILE.txt [--hidden 256] [--embedding 256] [--batch 32] [--rounds 9] [--steps 4]

A round takes ``steps`` steps of each model on the same sentences; reported is the median over rounds. The plain model
pads its batches, as most code does, or packs them. The encoder of text_vae reads the same tokens too: "both networks"
counts each token once for each network.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from fvae.data import load_data
from fvae.recipes import language_model, text_vae
from fvae.settings import DataSettings
from fvae.tokens import BOS, PAD


class Plain(nn.Module):
    """A textbook LSTM language model."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, packed: bool):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(hidden, vocabulary)
        self.packed = packed

    def loss(self, x: Tensor) -> Tensor:
        h = self.dropout(self.embed(F.pad(x[:, :-1], (1, 0), value=BOS)))
        if self.packed:
            n = (x != PAD).sum(1)
            h, target = (pack_padded_sequence(a, n, batch_first=True, enforce_sorted=False) for a in (h, x))
            h, _ = self.lstm(h)
            return F.cross_entropy(self.out(self.dropout(h.data)), target.data, reduction="sum") / len(x)
        h, _ = self.lstm(h)
        logits = self.out(self.dropout(h)).flatten(0, 1)
        return F.cross_entropy(logits, x.flatten(), ignore_index=PAD, reduction="sum") / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    for name, default in (("hidden", 256), ("embedding", 256), ("batch", 32), ("rounds", 9), ("steps", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load_data(DataSettings(source=args.file), "train")
    size = {"embedding": args.embedding, "hidden": args.hidden}
    vae, alone = text_vae(data.shape, encoder=size, decoder=size), language_model(data.shape, decoder=size)
    padded, packed = (Plain(data.shape[1], args.embedding, args.hidden, p) for p in (False, True))
    contenders: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
        "plain, padded": (padded, padded.loss),
        "plain, packed": (packed, packed.loss),
        "language_model": (alone, lambda x: alone(x).loss()),
        "text_vae": (vae, lambda x: vae(x).loss()),
    }
    optimizers = {k: torch.optim.AdamW(m.parameters(), 1e-3, fused=True) for k, (m, _) in contenders.items()}
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(args.rounds + 1):
        chosen = [rng.choice(len(data), args.batch, replace=False) for _ in range(args.steps)]
        sentences = [torch.from_numpy(data.modality.collate(data.values[which])).long() for which in chosen]
        tokens = sum(int((x != PAD).sum()) for x in sentences)
        for name, (_, loss) in contenders.items():
            began = time.perf_counter()
            for x in sentences:
                optimizers[name].zero_grad()
                loss(x).backward()
                optimizers[name].step()
            rates[name].append(tokens / (time.perf_counter() - began))
    medians = {name: statistics.median(found[1:]) for name, found in rates.items()}
    medians["both networks"] = 2 * medians["text_vae"]
    for name, rate in medians.items():
        print(f"{name:16} {rate:8,.0f} tokens/s  {rate / medians['plain, packed']:.2f} of plain, packed")


if __name__ == "__main__":
    main()
