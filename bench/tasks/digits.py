"""A multilayer perceptron on handwritten digits: a real training task of about a hundredth of a second.

Data: Alpaydin and Kaynak 1998, as scikit-learn ships it. Training: see bench/tasks/training.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import ABILITIES, Reference
from bench.space import Choice, Float, Space
from bench.tasks import search, training
from bench.tasks.data import Data, Split, draw_split, load_digits

PIXELS, CLASSES = 64, 10
LARGEST_BATCH = 256
TRAINING = 768  # three of the largest batches: every batch size divides it
VALIDATION = 512  # which leaves 517 for the test
WEIGHTS = 2**32 - 1  # what the trial's key is folded with for its initial weights; epochs are 0, 1, ...
FLOPS_PER_SECOND = 1e10  # nominal speed of the simulated machine
SECONDS_PER_UPDATE = 1e-4  # its fixed cost of an update, which is what makes large batches cheaper


class Params(NamedTuple):
    """hidden f32[64, width] · hidden_bias f32[width] · output f32[width, 10] · output_bias f32[10]."""

    hidden: Any
    hidden_bias: Any
    output: Any
    output_bias: Any


def logits(params: Params, inputs: jax.Array, mask: jax.Array | float = 1.0) -> jax.Array:
    """f32[n, 10] of inputs f32[n, 64]; `mask` f32[n, width] multiplies the hidden units."""
    hidden = jax.nn.relu(inputs @ params.hidden + params.hidden_bias) * mask
    return hidden @ params.output + params.output_bias


def batch_loss(params: Params, inputs: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean cross-entropy f32[] of labels i32[n], in nats."""
    log_p = jax.nn.log_softmax(logits(params, inputs, mask))
    hot = labels[:, None] == jnp.arange(CLASSES, dtype=jnp.int32)  # a gather's gradient would be a scatter
    return -jnp.where(hot, log_p, 0.0).sum() / labels.shape[0]


@dataclass(frozen=True)
class DigitsMLP:
    """64 pixels, one hidden layer of `width` rectified units, 10 digits, AdamW with dropout.

    An instance is a division of the 1,797 images into 768 for training, 512 for validation and 517 for the
    test; the loss is the validation cross-entropy in nats, the true loss the test's. Good configurations end
    below .15 nats, guessing is 2.3: the scale is linear, for the losses that matter span one decade.

    `micro_batch` images make one gradient; batches are powers of two from there to 256. Warm-up and final
    rate shape one curve over the whole training and stay as they are; the other axes may change in it.
    The learning rate scales what is left of the curve.
    """

    name: str = "digits"
    max_epoch: int = 27
    width: int = 32
    micro_batch: int = 32

    fidelity = "training"
    scale = "linear"
    offers = frozenset(ABILITIES)
    chunk = 3
    pool = 8

    def __post_init__(self):
        if self.max_epoch < 1:
            raise ValueError(f"max_epoch must be at least 1, got {self.max_epoch}")
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}")
        if self.micro_batch not in (8, 16, 32, 64, 128):
            raise ValueError(f"micro_batch must be 8, 16, 32, 64 or 128, got {self.micro_batch}")

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes, ascending: entry i is micro_batch * 2**i."""
        doublings = int(math.log2(LARGEST_BATCH // self.micro_batch))
        return tuple(self.micro_batch << i for i in range(doublings + 1))

    @property
    def space(self) -> Space:
        return Space(
            {
                "learning_rate": Float(1e-5, 1.0, default=1e-3, log=True, change=True, role="rate"),
                "warm_up": Float(0.0, 0.3, default=0.05, role="schedule"),
                "final_rate": Float(1e-3, 1.0, default=0.1, log=True, role="schedule"),
                "batch_size": Choice(
                    self.batches, default=max(32, self.micro_batch), ordered=True, change=True, role="batch"
                ),
                "weight_decay": Float(1e-4, 10.0, default=1e-2, log=True, change=True, role="regularisation"),
                "dropout": Float(0.0, 0.6, default=0.1, change=True, role="regularisation"),
            }
        )

    def draw(self, key: jax.Array) -> Split:
        """A division of the images."""
        return draw_split(key, load_digits().labels.shape[0], TRAINING, VALIDATION)

    def init(self, instance: Split, key: jax.Array) -> training.Checkpoint:
        """He initialisation; biases zero."""
        first, second = jax.random.split(jax.random.fold_in(key, WEIGHTS))
        hidden = jax.random.normal(first, (PIXELS, self.width), jnp.float32)
        output = jax.random.normal(second, (self.width, CLASSES), jnp.float32)
        return training.fresh(
            Params(
                hidden * np.float32(math.sqrt(2.0 / PIXELS)),
                jnp.zeros((self.width,), jnp.float32),
                output * np.float32(math.sqrt(1.0 / self.width)),
                jnp.zeros((CLASSES,), jnp.float32),
            )
        )

    def cost(self, instance: Split, key: jax.Array, hp: Mapping, start: Any, until: Any) -> jax.Array:
        """Simulated seconds f64[]: operations over a nominal speed, plus a fixed time an update.

        An example takes 2 operations a weight forwards and 2 for its gradient, and the output layer 2 more to
        reach the hidden units; an update takes 12 a parameter. Evaluations are not charged."""
        weights, heads = PIXELS * self.width, self.width * CLASSES
        example = 4.0 * weights + 6.0 * heads
        update = 12.0 * (weights + heads + self.width + CLASSES) / FLOPS_PER_SECOND + SECONDS_PER_UPDATE
        updates = TRAINING / (self.micro_batch * self._steps(hp).astype(jnp.float64))
        epoch = TRAINING * example / FLOPS_PER_SECOND + update * updates
        return (jnp.asarray(until, jnp.float64) - jnp.asarray(start, jnp.float64)) * epoch

    def _steps(self, hp: Mapping) -> jax.Array:
        """Micro-batches in a batch, i32[]: the batch sizes double from one micro-batch on."""
        return jnp.left_shift(jnp.int32(1), jnp.asarray(hp["batch_size"], jnp.int32))

    def _setup(self, hp: Mapping) -> training.Setup:
        def value(name):
            return jnp.asarray(hp[name], jnp.float32)

        return training.Setup(
            rate=value("learning_rate"),
            warm_up=value("warm_up"),
            final_rate=value("final_rate"),
            decay=value("weight_decay"),
            dropout=value("dropout"),
            steps=self._steps(hp),
        )

    def _data(self) -> Data:
        inputs, labels = load_digits()
        return Data(jnp.asarray(inputs), jnp.asarray(labels))

    def train(
        self,
        instance: Split,
        key: jax.Array,
        checkpoint: training.Checkpoint,
        hp: Mapping,
        start: Any,
        until: Any,
    ) -> tuple[training.Checkpoint, jax.Array, jax.Array]:
        """Trains from epoch `start` to `until`; losses are infinite once training has diverged."""
        data, setup = self._data(), self._setup(hp)
        examples = Data(data.inputs[instance.training], data.labels[instance.training])
        sizes = (self.max_epoch, self.micro_batch, self.width)

        def epoch(number, state):
            return training.train_epoch(batch_loss, key, state, *examples, setup, number, *sizes)

        checkpoint = jax.lax.fori_loop(jnp.int32(start), jnp.int32(until), epoch, checkpoint)
        loss, true_loss, _, _ = self.evaluate(instance, checkpoint)
        return checkpoint, loss, true_loss

    def evaluate(self, instance: Split, checkpoint: training.Checkpoint) -> tuple[jax.Array, ...]:
        """Validation and test cross-entropy f64[] (infinite: diverged), validation and test error f64[]."""
        data = self._data()

        def score(rows):
            answer, labels = logits(checkpoint.params, data.inputs[rows]), data.labels[rows]
            log_p = jnp.take_along_axis(jax.nn.log_softmax(answer), labels[:, None], axis=1)
            loss = -log_p.astype(jnp.float64).mean()
            error = (answer.argmax(axis=1) != labels).astype(jnp.float64).mean()
            return jnp.where(checkpoint.diverged | ~jnp.isfinite(loss), jnp.inf, loss), error

        loss, error = score(instance.validation)
        true_loss, true_error = score(instance.test)
        return loss, true_loss, error, true_error

    def range_test(self, instance: Split, key: jax.Array, hp: Mapping, rates: jax.Array) -> jax.Array:
        """The learning-rate finder's epoch: losses f32[steps], one batch per rate of f32[steps]."""
        data = self._data()
        return training.range_test(
            batch_loss,
            key,
            self.init(instance, key).params,
            data.inputs[instance.training],
            data.labels[instance.training],
            self._setup(hp),
            rates,
            self.micro_batch,
            self.width,
        )

    def reference(self, instance: Split) -> Reference:
        """The stored search's optimum, a mean over divisions: the same for every instance.

        Raises ValueError where no search is stored, or it was for other settings."""
        table = search.load(self.name, asdict(self))
        return Reference(jnp.asarray(table["optimum_static"], jnp.float64), jnp.asarray(jnp.nan, jnp.float64))

    def make_reference_table(self) -> dict[str, Any]:
        """Searches for the optimum and samples random configurations: minutes of one core."""
        return search.make_table(self, asdict(self))
