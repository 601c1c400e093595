"""The decoder of a table with a schema: a likelihood for each column, given z."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvae.columns import Schema
from fvae.conditioners.columns import ColumnScales, FromColumns, feature_columns
from fvae.density import total
from fvae.networks.masked import MaskedMLP
from fvae.precision import widen
from fvae.transforms import LogisticMixture

UNSEEN = 1e-4  # probability of a level that training did not have, and of whole numbers beyond the training rows'
NARROW = 1e-3  # deviations, below which a step's probability is its density times its width


Parts = tuple[tuple[Tensor, ...], Tensor | None, list[Tensor]]


class Columns(nn.Module):
    """log p(x|z) = sum over columns that are not missing of log p(x_c|z), each by its type.

    - continuous: a mixture of logistic densities of the standardized value, with its volume, in the column's units;
    - discrete: the mixture's probability of [x - step/2, x + step/2], the first and last of the training rows' range
      open, and beyond that range ``UNSEEN`` times the same;
    - atoms: the probability that the value is that one, and of the rest the above;
    - categorical: a softmax of the levels, and ``UNSEEN`` for all others.

    ``net(z)`` gives (B, ``outputs``). ``x`` (B, C) has cells as ``fvae.columns`` says.
    """

    low: Tensor
    high: Tensor
    step: Tensor
    discrete: Tensor
    atoms: Tensor

    temperature = 1.0

    def __init__(self, net: nn.Module, schema: Schema, components: int = 5):
        super().__init__()
        self.net, self.columns = net, len(schema)
        self.mixture = LogisticMixture(components, bound=7.0, spread=1.5)
        columns = schema.columns
        numbers = schema.of_type("continuous", "discrete")
        self.scales = ColumnScales(schema, numbers)
        self.levels = [(i, len(columns[i].levels)) for i in schema.of_type("categorical")]
        most = max((len(columns[i].atoms) for i in numbers), default=0)
        table = torch.full((len(numbers), most), torch.nan, dtype=torch.float64)
        shares = torch.zeros(len(numbers), most + 1)
        for k, i in enumerate(numbers):
            c = columns[i]
            table[k, : len(c.atoms)] = torch.tensor(c.atoms, dtype=torch.float64)
            shares[k, : len(c.atoms)] = torch.tensor(c.shares)
            shares[k, most] = 1 - sum(c.shares)
        self.register_buffer("atoms", table, persistent=False)
        for name, values in (
            ("low", [columns[i].low for i in numbers]),
            ("high", [columns[i].high for i in numbers]),
            ("step", [columns[i].step for i in numbers]),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)
        self.register_buffer("discrete", self.step > 0, persistent=False)
        self.sizes = [len(numbers) * self.mixture.parameters, len(numbers) * (most + 1) if most else 0]
        self.sizes += [n for _, n in self.levels]
        marginal = [torch.zeros(self.sizes[0]), log_shares(shares).flatten() if most else torch.zeros(0)]
        marginal += [log_shares(torch.tensor(columns[i].shares)) for i, _ in self.levels]
        self.bias = nn.Parameter(torch.cat(marginal))

    @property
    def outputs(self) -> int:
        """How many values the network gives."""
        return sum(self.sizes)

    @property
    def likelihood(self) -> str:
        kinds = []
        if bool((~self.discrete).any()):
            kinds.append(f"a density of {int((~self.discrete).sum())} continuous columns, in their units")
        if n := int(self.discrete.sum()) + len(self.levels):
            kinds.append(f"a probability of {n} discrete and categorical ones" if kinds else "a probability of cells")
        return ", ".join(kinds)

    def raw(self, x: Tensor | None, z: Tensor) -> Tensor:
        """The network's outputs (B, ``outputs``), which may depend on x."""
        return self.net(z)

    def split(self, raw: Tensor) -> Parts:
        """Parameters of the mixtures, (B, n) each; log-probabilities of atoms and rest; logits of each category."""
        mixtures, gates, *logits = (widen(raw) + self.bias).split(self.sizes, 1)
        raw = mixtures.unflatten(1, (self.mixture.parameters, len(self.scales.indices))).unbind(1)
        if not self.sizes[1]:
            return self.mixture.constrain(*raw), None, logits
        gates = gates.unflatten(1, (len(self.scales.indices), -1)).masked_fill(self.closed, -torch.inf)
        return self.mixture.constrain(*raw), gates.log_softmax(-1), logits

    @property
    def closed(self) -> Tensor:
        """Which of the atoms there are not, as the table of them is as wide as the most that a column has."""
        return F.pad(self.atoms.isnan(), (0, 1), value=False)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return total(self.by_column(x, z))

    def by_column(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x_c|z) of each column, in nats, 0 where it is missing: (B, C)."""
        parameters, gates, logits = self.split(self.raw(x, z))
        found = torch.zeros(len(x), self.columns, dtype=gates_dtype(parameters, logits), device=x.device)
        if self.scales.indices:
            found[:, self.scales.indices] = self.numbers(x[:, self.scales.indices], parameters, gates).to(found)
        for (i, n), values in zip(self.levels, logits, strict=True):
            index = torch.nan_to_num(x[:, i], nan=0.0).long()
            seen = F.log_softmax(values, 1).gather(1, index.clamp(max=n - 1)[:, None])[:, 0]
            known = torch.log1p(torch.tensor(-UNSEEN)) + seen
            found[:, i] = torch.where(index < n, known, torch.tensor(UNSEEN).log()).to(found)
        return torch.where(x.isnan(), 0.0, found)

    def numbers(self, x: Tensor, parameters: tuple[Tensor, ...], gates: Tensor | None) -> Tensor:
        """log p of continuous and discrete columns: (B, n)."""
        x = torch.where(x.isnan(), self.scales.inverse(torch.zeros_like(self.low)), x)
        z = self.scales(x)
        logit, log_slope = self.mixture(z.to(parameters[0].dtype), *parameters)
        log_p = F.logsigmoid(logit) + F.logsigmoid(-logit) + log_slope + self.scales.log_slope(x)
        if bool(self.discrete.any()):
            log_p = torch.where(self.discrete, self.bins(x, z, log_p, parameters), log_p)
        if gates is None:
            return log_p
        is_atom = x[..., None] == self.atoms
        rest = torch.where(self.discrete | ~is_atom.any(-1), gates[..., -1] + log_p, -torch.inf)
        hit = torch.where(is_atom, gates[..., :-1], -torch.inf)
        return torch.logsumexp(torch.cat([hit.to(rest), rest[..., None]], -1), -1)

    def bins(self, x: Tensor, z: Tensor, log_density: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """log of the mixture's probability of [x - step/2, x + step/2]; in float64, since they may lie close."""
        half = self.step / 2
        below, above = self.scales(x - half), self.scales(x + half)
        narrow = (above - below) < NARROW
        wide = tuple(p.double() for p in parameters)
        a, b = self.mixture(below, *wide)[0], self.mixture(above, *wide)[0]
        first, last = x <= self.low, x >= self.high
        inside = F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1((a - b).clamp(max=-1e-12)))
        at_end = torch.where(first, F.logsigmoid(b), F.logsigmoid(-a))
        outside = (x < self.low) | (x > self.high)
        ends = (first | last) & ~outside
        p = torch.where(narrow & ~ends, log_density + torch.log(self.step.clamp(min=1e-300)), inside)
        p = torch.where(ends, torch.where(first & last, 0.0, at_end), p)
        return p + torch.where(outside, torch.tensor(UNSEEN).log(), torch.log1p(torch.tensor(-UNSEEN)))

    def mean(self, z: Tensor) -> Tensor:
        """The most probable level or atom, or else the median, of each column: (B, C)."""
        return self.probable(self.split(self.raw(None, z)))

    def draw(self, z: Tensor, noise: Tensor) -> Tensor:
        """Cells drawn from p(x|z) by their quantiles Phi(noise): (B, C)."""
        return self.drawn(self.split(self.raw(None, z)), noise)

    def probable(self, parts: Parts) -> Tensor:
        parameters, gates, logits = parts
        x = self.blank(parts)
        if self.scales.indices:
            middle = self.quantile(torch.zeros_like(parameters[0]), parameters)
            if gates is not None:
                best = gates.argmax(-1)
                middle = torch.where(best < gates.shape[-1] - 1, self.atom(best), middle)
            x[:, self.scales.indices] = middle
        for (i, _), values in zip(self.levels, logits, strict=True):
            x[:, i] = values.argmax(1).to(x)
        return x

    def drawn(self, parts: Parts, noise: Tensor) -> Tensor:
        parameters, gates, logits = parts
        u, x = torch.special.ndtr(noise.double()), self.blank(parts)
        if self.scales.indices:
            v = u[:, self.scales.indices]
            if gates is None:
                x[:, self.scales.indices] = self.quantile(torch.logit(v, eps=1e-12), parameters)
            else:
                ends = gates.double().exp().cumsum(-1)
                which = (v[..., None] > ends[..., :-1]).sum(-1)
                start = F.pad(ends, (1, 0)).gather(-1, which[..., None])[..., 0]
                share = gates.double().exp().gather(-1, which[..., None])[..., 0]
                rest = self.quantile(torch.logit((v - start) / share, eps=1e-12), parameters)
                x[:, self.scales.indices] = torch.where(which < gates.shape[-1] - 1, self.atom(which), rest)
        for (i, n), values in zip(self.levels, logits, strict=True):
            ends = values.double().softmax(1).cumsum(1)
            x[:, i] = (u[:, i, None] > ends[:, : n - 1]).sum(1).to(x)
        return x

    def atom(self, which: Tensor) -> Tensor:
        """The values of atoms by their number (B, n), 0 for the rest."""
        return F.pad(self.atoms, (0, 1)).expand(len(which), -1, -1).gather(-1, which[..., None])[..., 0]

    def blank(self, parts: Parts) -> Tensor:
        any_part = parts[0][0] if self.scales.indices else parts[2][0]
        return torch.zeros(len(any_part), self.columns, dtype=torch.float64, device=any_part.device)

    def quantile(self, logit: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """The mixtures' quantile at the sigmoid of ``logit``, in the columns' units, discrete ones at their steps."""
        z = self.mixture.inverse(logit.to(parameters[0].dtype), *parameters)[0]
        x = self.scales.inverse(z.double())
        steps = torch.round((x - self.low) / torch.where(self.discrete, self.step, 1.0))
        return torch.where(self.discrete, (self.low + steps * self.step).clamp(self.low, self.high), x)


class AutoregressiveColumns(Columns):
    """``Columns`` each given z and the columns before it: p(x|z) = prod_c p(x_c | z, x_1 .. x_(c - 1)).

    ``net(z)`` gives (B, ``context``), which a masked network sees beside the features of x. A density takes one pass,
    a sample as many as there are columns. A missing cell is left out of the product, and those after it are then given
    that it is missing.
    """

    def __init__(self, net: nn.Module, schema: Schema, components: int, width: int, hidden: int, context: int):
        super().__init__(net, schema, components)
        numbers = self.mixture.parameters * self.scales.indices
        gates = [i for i in self.scales.indices for _ in range(self.atoms.shape[1] + 1)] if self.sizes[1] else []
        leaving = [*numbers, *gates, *(i for i, n in self.levels for _ in range(n))]
        masked = MaskedMLP(feature_columns(schema), leaving, width, hidden, context)
        self.given = FromColumns(masked, schema)

    def raw(self, x: Tensor | None, z: Tensor) -> Tensor:
        return self.given(x, self.net(z))

    def mean(self, z: Tensor) -> Tensor:
        return self.one_by_one(z, lambda parts, x: self.probable(parts))

    def draw(self, z: Tensor, noise: Tensor) -> Tensor:
        return self.one_by_one(z, lambda parts, x: self.drawn(parts, noise))

    def one_by_one(self, z: Tensor, cells: Callable[[Parts, Tensor], Tensor]) -> Tensor:
        x = torch.zeros(len(z), self.columns, dtype=torch.float64, device=z.device)
        given, column = self.net(z), torch.arange(self.columns, device=z.device)
        for i in range(self.columns):
            x = torch.where(column == i, cells(self.split(self.given(x, given)), x), x)
        return x


def log_shares(shares: Tensor) -> Tensor:
    """The logs of shares, of which none is below a ten-thousandth."""
    return shares.clamp(min=1e-4).log()


def gates_dtype(parameters: tuple[Tensor, ...], logits: list[Tensor]) -> torch.dtype:
    return (parameters[0] if parameters[0].shape[1] else logits[0]).dtype
