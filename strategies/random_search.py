"""Random search over the unit cube, uniform or by a scrambled Sobol sequence.

Bergstra & Bengio 2012 (JMLR 13:281). Sobol: direction numbers of Joe & Kuo 2008 (SIAM J. Sci. Comput.
30:2635), scrambled by a random linear matrix and a digital shift (Matousek 1998, J. Complexity 14:527).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import Feedback, Job
from bench.space import Cube
from strategies import design

DESIGNS = ("uniform", "sobol")
BITS = 24  # binary digits of a coordinate: what float32 holds exactly


def sobol_integers(n: int, d: int) -> np.ndarray:
    """The first n points of the unscrambled Sobol sequence, u32[n, d]; divide by 2^BITS for coordinates."""
    from scipy.stats import qmc  # here, since importing it takes a second

    levels = max(n - 1, 1).bit_length()  # scipy draws whole powers of two without a warning
    points = qmc.Sobol(d, scramble=False).random_base2(levels)[:n]
    return (points * 2**BITS).astype(np.uint32)


def scramble(key: jax.Array, integers: jax.Array) -> jax.Array:
    """Scrambles u32[n, d] per axis into coordinates f32[n, d] in [0, 1), uniform one by one.

    A digit of the result is that digit, plus random multiples of the digits before it, plus a random bit
    (modulo 2): this keeps every net of the sequence a net. Row k depends on (key, k) only."""
    d = integers.shape[-1]
    bits = jax.random.bits(key, ((BITS + 1) * d,), jnp.uint32)  # drawn flat: compiles in a third of the time
    bits = bits.reshape(BITS + 1, d) >> (32 - BITS)
    place = jnp.asarray(1 << np.arange(BITS)[:, None], jnp.uint32)  # [BITS, 1]
    before = jnp.uint32(2**BITS) - 2 * place  # the more significant digits
    rows = (bits[:BITS] & before) | place  # [BITS, d]: which digits add up to each digit
    parity = jax.lax.population_count(integers[:, None, :] & rows) & 1
    mixed = jnp.sum(parity * place, axis=1, dtype=jnp.uint32) ^ bits[BITS]
    return mixed.astype(jnp.float32) * np.float32(2.0**-BITS)


@dataclass(frozen=True)
class RandomSearch:
    """Trains floor(budget) configurations in full; `design` is uniform (the shared random start-up design
    of all strategies, row by row) or sobol."""

    design: str = "uniform"
    cube: Cube = field(kw_only=True)
    max_epoch: int = field(kw_only=True)
    budget: float = field(kw_only=True)

    note = "one configuration a training, each trained in full"
    anytime = True
    needs = frozenset()
    lanes = 1024  # nothing here depends on how many there are: all sums are exact

    def __post_init__(self):
        if self.design not in DESIGNS:
            raise ValueError(f"design must be one of {', '.join(DESIGNS)}, got {self.design!r}")
        design.trainings(self.budget)

    @property
    def num_trials(self) -> int:
        return design.trainings(self.budget)

    @property
    def draws(self) -> range:
        """A Sobol sequence's points are spread out, not independent."""
        return range(self.num_trials if self.design == "uniform" else 0)

    def init(self, key: jax.Array) -> design.Design:
        """Draws the whole design, f32[num_trials, d]."""
        if self.design == "uniform":
            return design.lay_out(self.cube.start(key, self.num_trials))
        integers = jnp.asarray(sobol_integers(self.num_trials, self.cube.width))
        return design.lay_out(self.cube.fix(scramble(key, integers)))

    def ask(self, key: jax.Array, state: design.Design) -> tuple[Job, design.Design]:
        return design.ask(self.cube, self.max_epoch, state)

    def tell(self, state: design.Design, job: Job, feedback: Feedback) -> design.Design:
        return design.tell(state, job)
