"""Real training tasks: a small network on a real data set, as an objective. Lanes train side by side.

Data: bench/tasks/data.py. Networks: bench/tasks/models.py. Training: bench/tasks/training.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from bench.protocols import ABILITIES, Reference
from bench.space import Axis, Choice, Float, Space, check_real, check_whole
from bench.tasks import models
from bench.tasks import search as stored
from bench.tasks import training as loop
from bench.tasks.data import SETS, Data, Split, draw_split, load, require

DOUBLINGS = 3  # from the smallest batch to the largest
SGD_RATE = 10.0  # of the axis: one value is the guide's default for Adam, 1e-3, and for SGD, 1e-2
WEIGHTS = 2**32 - 1  # what the trial's key is folded with for its initial weights; epochs are 0, 1, ...
FOLDS = 2**31  # and, before that, for each fold
FLOPS_PER_SECOND = 1e10  # nominal speed of the simulated machine
SECONDS_PER_UPDATE = 1e-4  # its fixed cost of an update, which is what makes large batches cheaper
POOL = 8  # lanes side by side on a CPU: their weights and moments stay in a core's second cache
SHOWN = 256  # examples of an evaluation that are computed at a time, at most
MEMORY = 0.25  # of a GPU's memory that lanes in training may take; the rest is for the checkpoints' table
MOST_LANES = 1024  # lanes of a table of checkpoints
SEEDS, FEWEST = 32, 2  # trainings that the optimum of one division is the mean of, and where they are dear


@dataclass(frozen=True)
class Task:
    """A network on a data set, trained by SGD with momentum, Adam or AdamW.

    An instance is a division of the data into training, validation and test examples; the loss told is the
    validation's cross-entropy in nats or, of a regression, its mean square error in units of the labels'
    variance; the true loss is the test's. The scale is linear: the losses that matter span about a decade.
    With `folds` above 1 what training and validation share is cut into folds: one configuration trains a
    network for each, side by side, losses are means over them and the cost is their sum.

    `micro_batch` examples make one gradient; batches are 1, 2, 4 and 8 times that, as far as they divide
    `training`. Optimiser, depth and width, and the schedule's shape, warm-up and final rate, which
    describe one curve over the whole training, stay as they are; the other axes may change in it. The
    learning rate, the peak of that curve, is Adam's and AdamW's; SGD trains with ten times as much, so that
    one default is the usual one of each and good values lie together.
    """

    name: str = "digits"
    data: str = "digits"
    model: str = "mlp"
    max_epoch: int = 27
    width: int = 32
    blocks: int = 1
    micro_batch: int = 32
    training: int = 768
    validation: int = 512
    test: int = 517
    folds: int = 1
    search: float = field(default=1.0, compare=False)  # it decides how well the reference is known, not what

    fidelity = "training"
    scale = "linear"
    offers = frozenset(ABILITIES)

    def __post_init__(self):
        for setting, known in (("data", tuple(SETS)), ("model", models.MODELS)):
            if getattr(self, setting) not in known:
                raise ValueError(
                    f"{setting} must be one of {', '.join(known)}, got {getattr(self, setting)!r}"
                )
        check_whole("max_epoch", self.max_epoch, 1)
        check_whole("width", self.width, 1)
        check_whole("blocks", self.blocks, 0)
        for setting in ("training", "validation", "test", "folds"):
            check_whole(setting, getattr(self, setting), 1)
        check_real("search", self.search, 0.01, 1.0)
        if self.micro_batch not in (8, 16, 32, 64, 128):
            raise ValueError(f"micro_batch must be 8, 16, 32, 64 or 128, got {self.micro_batch}")
        if self.training % self.micro_batch or len(self.batches) < 2:
            least = 2 * self.micro_batch
            raise ValueError(f"training must be a multiple of {least}, 2 micro-batches, got {self.training}")
        there = SETS[self.data]
        if (there.kind == "text") != (self.model == "transformer"):
            fit = "transformer" if there.kind == "text" else "logistic, mlp or cnn"
            raise ValueError(f"model must be {fit} on {self.data}, got {self.model!r}")
        if self.model == "cnn" and len(there.shape) < 2:
            raise ValueError(f"model must be logistic or mlp on {self.data}, which has no sides, got 'cnn'")
        if self.model == "transformer" and (self.width % models.HEAD or not self.blocks):
            raise ValueError(
                f"a transformer needs width a multiple of {models.HEAD} and blocks of at least 1, "
                f"got width={self.width}, blocks={self.blocks}"
            )
        used = self.training + self.validation + self.test
        if used > there.examples:
            raise ValueError(
                f"training, validation and test must be at most the {there.examples} examples, got {used}"
            )
        most = (self.training + self.validation) // self.folds * (self.folds - 1)
        if self.folds > 1 and self.training > most:
            raise ValueError(
                f"training must be at most {most}, the examples outside one of {self.folds} folds, "
                f"got {self.training}"
            )
        require(self.data)
        if there.kind == "text":
            load(self.data)  # a Python with another text is refused here; the other sets take long to read

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes, ascending: entry i is micro_batch * 2**i."""
        sizes = [self.micro_batch << i for i in range(DOUBLINGS + 1)]
        return tuple(size for size in sizes if self.training % size == 0)

    @cached_property
    def network(self) -> models.Model:
        there = SETS[self.data]
        return models.build(self.model, there.shape, there.classes or 1, self.width, self.blocks)

    @cached_property
    def space(self) -> Space:
        """The guide's hyperparameters in its order, but those that the network or the loss lacks."""
        batch = Choice(self.batches, default=self.batches[1], ordered=True, change=True, role="batch")
        axes: dict[str, Axis] = {
            "learning_rate": Float(1e-5, 1.0, default=1e-3, log=True, change=True, role="rate"),
            "optimiser": Choice(loop.OPTIMISERS, default="adam"),
            "schedule": Choice(loop.SCHEDULES, default="cosine", role="schedule"),
            "warm_up": Float(0.0, 0.3, default=0.05, role="schedule"),
            "final_rate": Float(1e-3, 1.0, default=0.1, log=True, role="schedule"),
            "batch_size": batch,
            "weight_decay": Float(1e-5, 0.1, default=1e-3, log=True, change=True, role="regularisation"),
        }
        if self.network.drops:
            axes["dropout"] = Float(0.0, 0.6, default=0.1, change=True, role="regularisation")
        if SETS[self.data].classes:
            axes["label_smoothing"] = Float(0.0, 0.3, default=0.0, change=True, role="regularisation")
        axes["clip"] = Float(0.1, 10.0, default=1.0, log=True, change=True, role="regularisation")
        return Space(axes | self.network.axes)

    @property
    def chunk(self) -> int:
        """The most epochs of one compiled call: a ninth of the training."""
        return -(-self.max_epoch // 9)

    @property
    def pool(self) -> int:
        """Lanes trained side by side: on a CPU few, on a GPU as many as fit, at most a table's.

        A lane in training holds its weights and as many numbers for their total gradient, the gradient of a
        micro-batch and the two moments, twice, since a step writes what it reads, and what the network keeps
        for the way back: of a micro-batch, twice, or what it makes of the examples of an evaluation."""
        if jax.default_backend() == "cpu":
            return POOL
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 2**33)
        return fitting(int(MEMORY * memory), self.lane_bytes)

    @property
    def lane_bytes(self) -> int:
        """Bytes that one lane takes in training, at most: see `pool`."""
        key = jax.random.key(0)
        params = jax.eval_shape(self.network.init, key)
        weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        there = SETS[self.data]
        example = jax.ShapeDtypeStruct((1, *there.shape), jnp.int32 if there.kind == "text" else jnp.float32)

        def keep(params, example):
            return self.network.apply(params, example, loop.keep_all)

        graph = jax.make_jaxpr(keep)(params, example)
        kept = sum(math.prod(v.aval.shape) for line in graph.eqns for v in line.outvars)
        shown = max(min(max(self.validation, self.test), SHOWN), 2 * self.micro_batch)
        return 4 * self.folds * (10 * weights + shown * kept)

    def draw(self, key: jax.Array) -> Split:
        """A division of the examples."""
        sizes = (self.training, self.validation, self.test, self.folds)
        return draw_split(key, SETS[self.data].examples, *sizes)

    def init(self, instance: Split, key: jax.Array) -> loop.Checkpoint:
        """Fresh weights, before they are scaled to the lane's width and depth, as the first epoch begins."""

        def one(key):
            return loop.fresh(self.network.init(jax.random.fold_in(key, WEIGHTS)))

        return one(key) if self.folds == 1 else jax.vmap(one)(self._keys(key))

    def _keys(self, key: jax.Array) -> jax.Array:
        return jax.vmap(lambda fold: jax.random.fold_in(key, fold))(
            jnp.uint32(FOLDS) + jnp.arange(self.folds, dtype=jnp.uint32)
        )

    def cost(self, instance: Split, key: jax.Array, hp: Mapping, start: Any, until: Any) -> jax.Array:
        """Simulated seconds f64[]: operations over a nominal speed, plus a fixed time an update.

        An example takes 2 operations a multiplication forwards and 2 for the weights' gradient, and behind
        the first layer 2 more to reach the one before; an update takes 12 a weight. They are those of the
        lane's own depth and width. Evaluations are not charged."""
        work = self.network.work(hp)
        example = 4.0 * work.first + 6.0 * work.rest
        update = 12.0 * work.weights / FLOPS_PER_SECOND + SECONDS_PER_UPDATE
        epoch = self.folds * (self.training * example / FLOPS_PER_SECOND + update * self.updates(hp))
        return (jnp.asarray(until, jnp.float64) - jnp.asarray(start, jnp.float64)) * epoch

    def updates(self, hp: Mapping) -> jax.Array:
        """f64[]: updates of the weights in an epoch."""
        return self.training / (self.micro_batch * self._steps(hp).astype(jnp.float64))

    def _steps(self, hp: Mapping) -> jax.Array:
        """Micro-batches in a batch, i32[]: the batch sizes double from one micro-batch on."""
        return jnp.left_shift(jnp.int32(1), jnp.asarray(hp["batch_size"], jnp.int32))

    def _scale(self, hp: Mapping) -> jax.Array:
        """f32[]: what an optimiser's rate is of the axis's."""
        return jnp.where(jnp.asarray(hp["optimiser"]) == loop.SGD, SGD_RATE, 1.0).astype(jnp.float32)

    def _setup(self, hp: Mapping) -> loop.Setup:
        def value(name, otherwise=0.0):
            return jnp.asarray(hp.get(name, otherwise), jnp.float32)

        return loop.Setup(
            optimiser=jnp.asarray(hp["optimiser"], jnp.int32),
            rate=value("learning_rate") * self._scale(hp),
            shape=jnp.asarray(hp["schedule"], jnp.int32),
            warm_up=value("warm_up"),
            final_rate=value("final_rate"),
            decay=value("weight_decay"),
            dropout=value("dropout"),
            smoothing=value("label_smoothing"),
            clip=value("clip"),
            steps=self._steps(hp),
        )

    def examples(self) -> Data:
        """All examples, as constants of the program that asks."""
        inputs, labels = load(self.data)
        return Data(jnp.asarray(inputs), jnp.asarray(labels))

    def loss(
        self, params: Any, inputs: jax.Array, labels: jax.Array, smoothing: jax.Array, dropout: models.Dropout
    ) -> jax.Array:
        """Mean loss f32[] of a micro-batch; of smoothed labels every class has a share of `smoothing`."""
        outputs, classes = self.network.apply(params, inputs, dropout), SETS[self.data].classes
        if not classes:
            return jnp.square(outputs[:, 0] - labels).mean()
        log_p = jax.nn.log_softmax(outputs)
        # A gather's gradient would be a scatter.
        hot = (labels[..., None] == jnp.arange(classes, dtype=jnp.int32)).astype(jnp.float32)
        return -(((1.0 - smoothing) * hot + smoothing / classes) * log_p).sum() / labels.size

    def train(
        self,
        instance: Split,
        key: jax.Array,
        checkpoint: loop.Checkpoint,
        hp: Mapping,
        start: Any,
        until: Any,
    ) -> tuple[loop.Checkpoint, jax.Array, jax.Array]:
        """Trains from epoch `start` to `until`; losses are infinite once training has diverged."""
        start, until = jnp.int32(start), jnp.int32(until)
        data, setup = self.examples(), self._setup(hp)

        def one(rows, key, checkpoint):
            begun = self.network.begin(checkpoint.params, hp)
            params = jax.tree.map(lambda a, b: jnp.where(start == 0, a, b), begun, checkpoint.params)
            examples = loop.Examples(*data, rows)

            def epoch(number, state):
                return loop.train_epoch(
                    self.loss, key, state, examples, setup, number, self.max_epoch, self.micro_batch
                )

            return jax.lax.fori_loop(start, until, epoch, checkpoint._replace(params=params))

        if self.folds == 1:
            checkpoint = one(instance.training, key, checkpoint)
        else:
            checkpoint = jax.vmap(one)(instance.training, self._keys(key), checkpoint)
        loss, true_loss, _, _ = self.evaluate(instance, checkpoint)
        return checkpoint, loss, true_loss

    def evaluate(self, instance: Split, checkpoint: loop.Checkpoint) -> tuple[jax.Array, ...]:
        """Validation and test loss f64[] (infinite: diverged), validation and test error f64[]: the share of
        wrong labels, of a regression the mean absolute error in standard deviations of the labels."""
        data, classes = self.examples(), SETS[self.data].classes

        def score(checkpoint, rows):
            def part(rows):
                labels = data.labels[rows]
                outputs = self.network.apply(checkpoint.params, data.inputs[rows], loop.keep_all)
                if not classes:
                    return jnp.square(outputs[:, 0] - labels), jnp.abs(outputs[:, 0] - labels)
                log_p = jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[..., None], axis=-1)
                return -log_p[..., 0], (outputs.argmax(axis=-1) != labels).astype(jnp.float32)

            # In parts that stay in a cache; the last one's surplus is cut off.
            n = rows.shape[0]
            parts = -(-n // SHOWN)
            size = -(-n // parts)
            padded = jnp.concatenate([rows, rows[: parts * size - n]]).reshape(parts, size)
            each = jax.lax.map(part, padded)
            loss, error = (a.reshape(-1, *a.shape[2:])[:n].astype(jnp.float64).mean() for a in each)
            return jnp.where(checkpoint.diverged | ~jnp.isfinite(loss), jnp.inf, loss), error

        if self.folds == 1:
            told, true = score(checkpoint, instance.validation), score(checkpoint, instance.test)
        else:
            told = jax.vmap(score)(checkpoint, instance.validation)
            true = jax.vmap(score, in_axes=(0, None))(checkpoint, instance.test)
        (loss, error), (true_loss, true_error) = ((jnp.mean(a), jnp.mean(b)) for a, b in (told, true))
        return loss, true_loss, error, true_error

    def range_test(self, instance: Split, key: jax.Array, hp: Mapping, rates: jax.Array) -> jax.Array:
        """The learning-rate finder's epoch, of the first fold: losses f32[steps], one batch per rate of
        f32[steps], in the axis's units."""
        rows = instance.training if self.folds == 1 else instance.training[0]
        params = self.network.init(jax.random.fold_in(key, WEIGHTS))
        return loop.range_test(
            self.loss,
            key,
            self.network.begin(params, hp),
            loop.Examples(*self.examples(), rows),
            self._setup(hp),
            rates * self._scale(hp),
            self.micro_batch,
        )

    @property
    def _settings(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.compare}

    @property
    def reference_seeds(self) -> int:
        """Trainings that an instance's optimum is the mean of: fewer where a training is dear."""
        return max(round(self.search * SEEDS), FEWEST)

    def make_reference(self, instance: Split, key: jax.Array) -> Reference:
        """The mean test loss, on this division and over fresh seeds, of the configuration that the stored
        search found best over divisions, at the epoch where it was. Another may suit this division better,
        so a run can end below it.

        Raises ValueError where no search is stored, or it was for other settings."""
        table = stored.load(self.name, self._settings)
        hp = self.space.decode_array(jnp.asarray(self.space.encode(table["config"]), jnp.float32))

        def trained(key):
            fresh = self.init(instance, key)
            return self.train(instance, key, fresh, hp, jnp.int32(0), jnp.int32(table["epoch"]))[2]

        keys = jax.random.split(key, self.reference_seeds)
        return Reference(jax.lax.map(trained, keys, batch_size=self.pool).mean(), jnp.float64(jnp.nan))

    def make_reference_table(self) -> dict[str, Any]:
        """Searches for the optimum and samples random configurations: minutes of one core."""
        try:
            known = stored.load(self.name, self._settings).get("config")
        except ValueError:  # none is stored, or of another task
            known = None
        return stored.make_table(self, self._settings, self.search, known)


def fitting(memory: int, lane: int) -> int:
    """Lanes of `lane` bytes that fit into `memory` bytes: a power of two from 8 to MOST_LANES."""
    return min(max(2 ** int(math.log2(max(memory // lane, 1))), POOL), MOST_LANES)
