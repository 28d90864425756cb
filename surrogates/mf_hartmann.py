"""Hartmann functions with a proxy fidelity that flattens, and in the end inverts, the landscape.

Kandasamy et al. 2017 (arXiv:1703.06240) as mf-prior-bench has it (Mallik et al. 2023, arXiv:2306.12370): with
z' = log z / log T at epoch z of T = max_epoch the four peaks of Hartmann's function have the heights alpha' =
alpha - bias (1 - z'), and the told loss is too high by noise (1 - z') |N(0, 1)|. At T both are gone.

The epoch is a proxy: what could be deployed is the configuration, worth its value at T, so `true_loss` is
that at every epoch. An evaluation at z costs lambda(z) = .05 + .95 (z/T)^2 of a full one; a later slice of
the same trial costs the difference, as resumed training does. The scale is one second an epoch on the whole.

A peak is upside down where bias (1 - z') exceeds its alpha (1, 1.2, 3, 3.2), so the dial reaches from
misjudged to inverted. Spearman correlation of the loss at epoch z, without and with the noise, with the loss
at 100, over 16,384 random configurations:

    dimension 3          bias noise    epoch 1         4        11        33        67
    plain                  .5    .1   .99  .97  1.00  .99  1.00 1.00  1.00 1.00  1.00 1.00
    good                  2.5     2   .06 -.01   .56  .27   .76  .56   .99  .83  1.00  .97
    moderate              3.0     3  -.43 -.11   .35  .10   .70  .38   .98  .74  1.00  .94
    bad                   3.5     4  -.67 -.16   .10  .00   .60  .23   .96  .64  1.00  .91
    terrible              4.0     5  -.77 -.19  -.21 -.07   .46  .13   .92  .55  1.00  .88
    dimension 6
    plain                  .5    .1  1.00  .87  1.00  .92  1.00  .95  1.00  .98  1.00 1.00
    good                  2.5     2   .21 -.01   .60  .11   .85  .25   .99  .52  1.00  .80
    moderate              3.0     3  -.27 -.04   .44  .04   .72  .15   .99  .39  1.00  .72
    bad                   3.5     4  -.83 -.06   .24  .01   .62  .09   .98  .30  1.00  .64
    terrible              4.0     5  -.89 -.07   .00 -.02   .52  .05   .96  .24  1.00  .58

Departs from mf-prior-bench: instances are translations (`surrogates.functions`), and noise is a draw of the
trial's epoch rather than of the configuration's hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bench.protocols import Reference
from bench.space import Space, check_real, check_whole
from surrogates import functions
from surrogates.functions import Function

# Bias and noise under mf-prior-bench's names; "plain" is what it takes where none is named.
QUALITIES = {
    "plain": (0.5, 0.1),
    "good": (2.5, 2.0),
    "moderate": (3.0, 3.0),
    "bad": (3.5, 4.0),
    "terrible": (4.0, 5.0),
}
_PEAKS = {
    3: (functions._WIDTHS_3, functions._CENTRES_3),
    6: (functions._WIDTHS_6, functions._CENTRES_6),
}
FIRST = 0.05  # share of a full evaluation's cost that even the shortest takes


class Instance(NamedTuple):
    """shift f64[d]: the translation of the function."""

    shift: Any


@dataclass(frozen=True)
class MFHartmann:
    """Hartmann's function of `dimension` 3 or 6 seen at a low fidelity.

    `quality`: plain, good, moderate, bad or terrible, mf-prior-bench's names for a pair of `bias` (of the
    peaks' heights) and `noise` (standard deviation before the sign is dropped, in units of the loss); either
    may be set by itself, at least 0. `max_epoch` at least 2. `shift` false: the textbook's place of the
    minimum, for tests."""

    name: str = "mf_hartmann"
    dimension: int = 3
    quality: str = "good"
    bias: float | None = None
    noise: float | None = None
    max_epoch: int = 100
    shift: bool = True

    fidelity = "proxy"
    scale = "linear"
    offers = frozenset({"stop", "resume"})

    def __post_init__(self):
        check_whole("dimension", self.dimension, 3, 6)
        if self.dimension not in _PEAKS:
            raise ValueError(f"dimension must be 3 or 6, got {self.dimension}")
        if self.quality not in QUALITIES:
            raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {self.quality!r}")
        for name in ("bias", "noise"):
            value = getattr(self, name)
            if value is not None:
                check_real(name, value, 0)
        check_whole("max_epoch", self.max_epoch, 2)

    @property
    def function(self) -> Function:
        """What is seen at max_epoch."""
        return Function(f"hartmann{self.dimension}", shift=self.shift)

    @property
    def space(self) -> Space:
        return self.function.space

    def draw(self, key: jax.Array) -> Instance:
        return Instance(self.function.draw(key).shift)

    def reference(self, instance: Instance) -> Reference:
        return Reference(jnp.float64(self.function.optimum), jnp.float64(jnp.nan))

    def init(self, instance: Instance, key: jax.Array) -> tuple[()]:
        return ()

    def _price(self, epoch: jax.Array) -> jax.Array:
        """Cost f64[] of an evaluation at `epoch`, of which 0 is none."""
        share = epoch.astype(jnp.float64) / self.max_epoch
        return self.max_epoch * jnp.where(epoch > 0, FIRST + (1.0 - FIRST) * share**2, 0.0)

    def cost(
        self, instance: Instance, key: jax.Array, hp: Mapping, start: jax.Array, until: jax.Array
    ) -> jax.Array:
        """f64[]: simulated seconds, max_epoch for a full evaluation."""
        return self._price(until) - self._price(start)

    def train(
        self,
        instance: Instance,
        key: jax.Array,
        checkpoint: tuple[()],
        hp: Mapping,
        start: jax.Array,
        until: jax.Array,
    ) -> tuple[tuple[()], jax.Array, jax.Array]:
        z = jnp.stack([hp[f"x{i}"] for i in range(self.dimension)]).astype(jnp.float64) - instance.shift
        widths, centres = _PEAKS[self.dimension]
        peaks = jnp.exp(-jnp.sum(widths * (z - centres) ** 2, axis=-1))
        true_loss = -jnp.sum(functions._ALPHA * peaks)
        missing = 1.0 - jnp.log(until.astype(jnp.float64)) / math.log(self.max_epoch)
        bias, noise = (
            named if own is None else own
            for named, own in zip(QUALITIES[self.quality], (self.bias, self.noise), strict=True)
        )
        loss = true_loss + bias * missing * jnp.sum(peaks)
        if noise > 0:
            # Of the epoch, not of the slice: resuming tells what evaluating afresh tells.
            epoch_key = jax.random.fold_in(key, until)
            loss = loss + noise * missing * jnp.abs(jax.random.normal(epoch_key, (), jnp.float64))
        # Exactly the true loss at the end, whatever the rounding of the logarithm.
        return (), jnp.where(until == self.max_epoch, true_loss, loss), true_loss
