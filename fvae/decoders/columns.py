"""The decoder of a table with a schema: a likelihood for each column, given z."""

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

ALL = slice(None)
Parts = tuple[tuple[Tensor, ...], Tensor | None, list[Tensor]]


class Columns(nn.Module):
    """log p(x|z) = sum over columns that are not missing of log p(x_c|z), each by its type.

    - continuous: a mixture of logistic densities of the standardized value, with its volume, in the column's units;
    - discrete: the mixture's probability of [x - step/2, x + step/2], the first and last of the training rows' range
      open; beyond that range, and between the steps, ``UNSEEN`` times the same;
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
        self.discrete_numbers = self.discrete.nonzero()[:, 0].tolist()
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
        found = torch.zeros(len(x), self.columns, dtype=self.bias.dtype, device=x.device)
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
        if which := self.discrete_numbers:
            bins = self.bins(x[:, which], log_p[:, which], tuple(p[:, which] for p in parameters))
            log_p = log_p.index_copy(1, torch.tensor(which, device=x.device), bins.to(log_p))
        if gates is None:
            return log_p
        is_atom = x[..., None] == self.atoms
        rest = torch.where(self.discrete | ~is_atom.any(-1), gates[..., -1] + log_p, -torch.inf)
        hit = torch.where(is_atom, gates[..., :-1], -torch.inf)
        return torch.logsumexp(torch.cat([hit.to(rest), rest[..., None]], -1), -1)

    def bins(self, x: Tensor, log_density: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
        """log of the mixture's probability of [x - step/2, x + step/2] of the discrete columns.

        In float64, since the two ends may lie close.
        """
        which = self.discrete_numbers
        lowest, highest, step = (a[which] for a in (self.low, self.high, self.step))
        below, above = self.scales(x - step / 2, which), self.scales(x + step / 2, which)
        narrow = (above - below) < NARROW
        wide = tuple(p.double() for p in parameters)
        a, b = self.mixture(below, *wide)[0], self.mixture(above, *wide)[0]
        first, last = x <= lowest, x >= highest
        inside = F.logsigmoid(b) + F.logsigmoid(-a) + torch.log(-torch.expm1((a - b).clamp(max=-1e-12)))
        at_end = torch.where(first, F.logsigmoid(b), F.logsigmoid(-a))
        steps = (x - lowest) / step
        between = (steps - steps.round()).abs() > 0.01
        outside = (x < lowest) | (x > highest) | between
        ends = (first | last) & ~outside
        p = torch.where(narrow & ~ends, log_density + torch.log(step), inside)
        p = torch.where(ends, torch.where(first & last, 0.0, at_end), p)
        return p + torch.where(outside, torch.tensor(UNSEEN).log(), torch.log1p(torch.tensor(-UNSEEN)))

    def mean(self, z: Tensor) -> Tensor:
        """The most probable level or atom, or else the median, of each column: (B, C)."""
        return self.probable(self.split(self.raw(None, z)))

    def draw(self, z: Tensor, noise: Tensor) -> Tensor:
        """Cells drawn from p(x|z) by their quantiles Phi(noise): (B, C)."""
        return self.drawn(self.split(self.raw(None, z)), noise)

    def fill(self, x: Tensor, z: Tensor, noise: Tensor) -> Tensor:
        """x with each missing cell drawn from p(x_c|z): (B, C)."""
        return torch.where(x.isnan(), self.draw(z, noise), x)

    def probable(self, parts: Parts) -> Tensor:
        parameters, gates, logits = parts
        numbers = self.probable_numbers(parameters, gates) if self.scales.indices else None
        return self.joined(numbers, [values.argmax(1) for values in logits])

    def drawn(self, parts: Parts, noise: Tensor) -> Tensor:
        parameters, gates, logits = parts
        u, indices = torch.special.ndtr(noise.double()), self.scales.indices
        numbers = self.drawn_numbers(u[:, indices], parameters, gates) if indices else None
        return self.joined(numbers, [drawn_level(u[:, i], a) for (i, _), a in zip(self.levels, logits, strict=True)])

    def joined(self, numbers: Tensor | None, levels: list[Tensor]) -> Tensor:
        """Numbers (B, n) and the levels of each category (B,) as cells (B, C)."""
        n = len(levels[0] if numbers is None else numbers)
        x = torch.zeros(n, self.columns, dtype=torch.float64, device=self.low.device)
        if numbers is not None:
            x[:, self.scales.indices] = numbers
        for (i, _), level in zip(self.levels, levels, strict=True):
            x[:, i] = level.to(x)
        return x

    def probable_numbers(self, parameters: tuple[Tensor, ...], gates: Tensor | None, which: slice = ALL) -> Tensor:
        """The most probable atom, or the median of the rest, of numbers (B, n), or of ``which`` of them."""
        middle = self.quantile(torch.zeros_like(parameters[0]), parameters, which)
        if gates is None:
            return middle
        best = gates.argmax(-1)
        return torch.where(best < gates.shape[-1] - 1, self.atom(best, which), middle)

    def drawn_numbers(
        self, u: Tensor, parameters: tuple[Tensor, ...], gates: Tensor | None, which: slice = ALL
    ) -> Tensor:
        """The quantiles u of numbers (B, n), or of ``which`` of them: the atoms come first."""
        if gates is None:
            return self.quantile(torch.logit(u, eps=1e-12), parameters, which)
        shares = gates.double().exp()
        ends = shares.cumsum(-1)
        chosen = (u[..., None] > ends[..., :-1]).sum(-1)
        start, share = (a.gather(-1, chosen[..., None])[..., 0] for a in (F.pad(ends, (1, 0)), shares))
        rest = self.quantile(torch.logit((u - start) / share, eps=1e-12), parameters, which)
        return torch.where(chosen < gates.shape[-1] - 1, self.atom(chosen, which), rest)

    def atom(self, number: Tensor, which: slice) -> Tensor:
        """The values of atoms by their number (B, n), 0 for the rest."""
        values = F.pad(self.atoms[which], (0, 1)).expand(len(number), -1, -1)
        return values.gather(-1, number[..., None])[..., 0]

    def quantile(self, logit: Tensor, parameters: tuple[Tensor, ...], which: slice) -> Tensor:
        """The mixtures' quantile at the sigmoid of ``logit``, in the columns' units, discrete ones at their steps."""
        z = self.mixture.inverse(logit.to(parameters[0].dtype), *parameters)[0]
        x = self.scales.inverse(z.double(), which)
        low, high, step, discrete = (a[which] for a in (self.low, self.high, self.step, self.discrete))
        steps = torch.round((x - low) / torch.where(discrete, step, 1.0))
        return torch.where(discrete, (low + steps * step).clamp(low, high), x)


class AutoregressiveColumns(Columns):
    """``Columns`` each given z and the columns before it: p(x|z) = prod_c p(x_c | z, x_1 .. x_(c - 1)).

    ``net(z)`` gives (B, ``context``), which a masked network sees beside the features of x. A density takes one pass,
    a sample as many as there are columns. A missing cell is left out of the product, and those after it are given that
    it is missing, if training rows had gaps in that column; else they are given a draw of it, by the decoder's
    ``noise``, so that the bound of many draws is that of the columns which are there.
    """

    def __init__(
        self,
        net: nn.Module,
        schema: Schema,
        components: int,
        width: int,
        hidden: int,
        context: int,
        dropout: float = 0.0,
    ):
        super().__init__(net, schema, components)
        self.noise_shape = (len(schema),)
        self.gaps = [bool(column.missing) for column in schema.columns]
        numbers = self.mixture.parameters * self.scales.indices
        gates = [i for i in self.scales.indices for _ in range(self.atoms.shape[1] + 1)] if self.sizes[1] else []
        leaving = [*numbers, *gates, *(i for i, n in self.levels for _ in range(n))]
        masked = MaskedMLP(feature_columns(schema), leaving, width, hidden, context, dropout)
        self.given = FromColumns(masked, schema)

    def raw(self, x: Tensor | None, z: Tensor) -> Tensor:
        return self.given(x, self.net(z))

    def forward(self, x: Tensor, z: Tensor, noise: Tensor | None = None) -> Tensor:
        drawn = x.isnan() & ~torch.tensor(self.gaps, device=x.device)
        if noise is None or not bool(drawn.any()):
            return total(self.by_column(x, z))
        found = self.by_column(self.fill(x, z, noise, drawn), z)
        return total(torch.where(drawn, 0.0, found))

    @torch.no_grad()
    def fill(self, x: Tensor, z: Tensor, noise: Tensor, which: Tensor | None = None) -> Tensor:
        which = x.isnan() if which is None else which
        u, given = torch.special.ndtr(noise.double()), self.net(z)
        for i in range(self.columns):
            if bool(which[:, i].any()):
                x = self.with_cell(x, i, given, u, which[:, i])
        return x

    def mean(self, z: Tensor) -> Tensor:
        return self.one_by_one(z, None)

    def draw(self, z: Tensor, noise: Tensor) -> Tensor:
        return self.one_by_one(z, torch.special.ndtr(noise.double()))

    def one_by_one(self, z: Tensor, u: Tensor | None) -> Tensor:
        x, given = torch.zeros(len(z), self.columns, dtype=torch.float64, device=z.device), self.net(z)
        for i in range(self.columns):
            x = self.with_cell(x, i, given, u, torch.ones_like(x[:, i], dtype=torch.bool))
        return x

    def with_cell(self, x: Tensor, i: int, given: Tensor, u: Tensor | None, rows: Tensor) -> Tensor:
        """x with cell i of these rows (B,) at its quantile u, or at its most probable value."""
        parameters, gates, logits = self.split(self.given(x, given))
        if i in self.scales.indices:
            k = self.scales.indices.index(i)
            which = slice(k, k + 1)
            own = tuple(p[:, which] for p in parameters), None if gates is None else gates[:, which]
            cell = self.probable_numbers(*own, which) if u is None else self.drawn_numbers(u[:, [i]], *own, which)
            cell = cell[:, 0]
        else:
            values = logits[[j for j, _ in self.levels].index(i)]
            cell = values.argmax(1) if u is None else drawn_level(u[:, i], values)
        found = x.clone()
        found[:, i] = torch.where(rows, cell.to(x), x[:, i])
        return found


def drawn_level(u: Tensor, logits: Tensor) -> Tensor:
    """The quantiles u (B,) of levels by their logits (B, L)."""
    return (u[:, None] > logits.double().softmax(1).cumsum(1)[:, :-1]).sum(1)


def log_shares(shares: Tensor) -> Tensor:
    """The logs of shares, of which none is below a ten-thousandth."""
    return shares.clamp(min=1e-4).log()
