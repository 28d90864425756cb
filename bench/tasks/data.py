"""Data of the real tasks, and their division into training, validation and test examples.

Digits: Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits, the 1,797 images that
scikit-learn ships.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Data(NamedTuple):
    """Labelled examples: inputs f32[examples, features] · labels i32[examples]."""

    inputs: Any
    labels: Any


class Split(NamedTuple):
    """Which examples serve for what, as disjoint indices: training, validation, test, each i32[...]."""

    training: Any
    validation: Any
    test: Any


@lru_cache(maxsize=1)
def load_digits() -> Data:
    """The 8 x 8 images, numpy f32[1797, 64], and their digits i32[1797].

    Pixels 0..16 become -.3 to .7: their mean over the data set is close to zero."""
    from sklearn.datasets import load_digits as load  # late: scikit-learn takes a second to import

    pixels, labels = load(return_X_y=True)
    return Data((pixels / 16.0 - 0.3).astype(np.float32), np.asarray(labels).astype(np.int32))


def draw_split(key: jax.Array, examples: int, training: int, validation: int) -> Split:
    """Divides `examples` at random; what training and validation leave is for the test."""
    order = jax.random.permutation(key, jnp.arange(examples, dtype=jnp.int32))
    return Split(order[:training], order[training : training + validation], order[training + validation :])
