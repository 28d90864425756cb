"""Networks of the real tasks: logistic regression, a perceptron, a convolutional and a transformer network.

Depth and width are hyperparameters of lanes that share one program. A lane that is narrower or shallower than
the program has zeros for the weights that it lacks, from before its first step on; with rectified units, and
residual branches that end in a matrix, all gradients of those weights are zero, so that they stay zero under
every optimiser and decay, and the lane is the small network. What it costs is the large one's arithmetic.

Residual branches (He et al. 2016, arXiv:1603.05027) end in zeros at first (Zhang, Dauphin and Ma 2019,
arXiv:1901.09321), so that perceptron and convolutions need no normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bench.space import Axis, Choice, Int

HEAD = 8  # channels of an attention head
KERNEL = 3  # steps of a convolution along each side

# dropout(place, activations) -> activations; each place of a network has masks of its own
Dropout = Callable[[int, jax.Array], jax.Array]


class Work(NamedTuple):
    """Multiplications of one example on its way forwards, f64[] each: first, of the layer that reads the
    inputs, to which nothing is sent back · rest · and the number of weights."""

    first: Any
    rest: Any
    weights: Any


class Model(Protocol):
    """A network at its largest. axes: what a lane may have less of · drops: whether it has dropout."""

    drops: bool

    @property
    def axes(self) -> dict[str, Axis]: ...
    def init(self, key: jax.Array) -> Any:
        """Weights of unit variance, biases of zero."""
        ...

    def begin(self, params: Any, hp: Mapping) -> Any:
        """The weights before the first step: scaled to what each unit of the lane reads, zero beyond it."""
        ...

    def apply(self, params: Any, inputs: jax.Array, dropout: Dropout) -> jax.Array:
        """Outputs f32[n, outputs], of text [n, length, classes]."""
        ...

    def work(self, hp: Mapping) -> Work: ...


class Block(NamedTuple):
    """A residual branch: inner f32[m, w] · bias f32[w] · outer f32[m', w]; m = w, times a kernel's steps."""

    inner: Any
    bias: Any
    outer: Any


class Dense(NamedTuple):
    """matrix f32[inputs, outputs] · bias f32[outputs]."""

    matrix: Any
    bias: Any


def _normal(key: jax.Array, *shapes: tuple[int, ...]) -> list[jax.Array]:
    """Standard normal arrays of these shapes from one draw: each draw costs compile time."""
    sizes = [math.prod(shape) for shape in shapes]
    flat = jax.random.normal(key, (sum(sizes),), jnp.float32)
    ends = np.cumsum([0, *sizes])
    return [flat[a:b].reshape(s) for a, b, s in zip(ends[:-1], ends[1:], shapes, strict=True)]


def _zeros(*shape: int) -> jax.Array:
    return jnp.zeros(shape, jnp.float32)


def _mask(count: int, active: jax.Array) -> jax.Array:
    """f32[count]: 1 for the first `active` i32[]."""
    return (jnp.arange(count, dtype=jnp.int32) < active).astype(jnp.float32)


def _he(fan_in: Any, gain: float = 2.0) -> jax.Array:
    return jnp.sqrt(jnp.float32(gain) / jnp.asarray(fan_in, jnp.float32))


def _width_axis(width: int, least: int) -> dict[str, Axis]:
    if width <= least:
        return {}
    return {"width": Int(least, width, default=width, log=True, role="architecture")}


def _depth_axis(blocks: int) -> dict[str, Axis]:
    return {"depth": Int(0, blocks, default=min(blocks, 1), role="architecture")} if blocks else {}


def _real(hp: Mapping, name: str, otherwise: int) -> jax.Array:
    return jnp.asarray(hp.get(name, otherwise), jnp.int32)


@dataclass(frozen=True)
class Logistic:
    """Outputs linear in all inputs, from zeros: a convex loss. Linear regression where labels are numbers."""

    inputs: int
    outputs: int
    drops = False

    @property
    def axes(self) -> dict[str, Axis]:
        return {}

    def init(self, key: jax.Array) -> Dense:
        return Dense(_zeros(self.inputs, self.outputs), _zeros(self.outputs))

    def begin(self, params: Dense, hp: Mapping) -> Dense:
        return params

    def apply(self, params: Dense, inputs: jax.Array, dropout: Dropout) -> jax.Array:
        return inputs.reshape(inputs.shape[0], -1) @ params.matrix + params.bias

    def work(self, hp: Mapping) -> Work:
        size = jnp.float64(self.inputs * self.outputs)
        return Work(size, jnp.float64(0.0), size + self.outputs)


class PerceptronParams(NamedTuple):
    """stem, the first layer · blocks, residual branches · head, the last layer."""

    stem: Dense
    blocks: tuple[Block, ...]
    head: Dense


@dataclass(frozen=True)
class Perceptron:
    """A hidden layer of `width` rectified units, then `blocks` residual branches of two matrices each."""

    inputs: int
    outputs: int
    width: int
    blocks: int
    drops = True

    @property
    def axes(self) -> dict[str, Axis]:
        return _depth_axis(self.blocks) | _width_axis(self.width, 8)

    def init(self, key: jax.Array) -> PerceptronParams:
        w = self.width
        stem, head, *inner = _normal(
            key, (self.inputs, w), (w, self.outputs), *[(w, w) for _ in range(self.blocks)]
        )
        blocks = tuple(Block(matrix, _zeros(w), _zeros(w, w)) for matrix in inner)
        return PerceptronParams(Dense(stem, _zeros(w)), blocks, Dense(head, _zeros(self.outputs)))

    def begin(self, params: PerceptronParams, hp: Mapping) -> PerceptronParams:
        active, depth = _real(hp, "width", self.width), _real(hp, "depth", self.blocks)
        mask = _mask(self.width, active)
        square = mask[:, None] * mask * _he(active)
        blocks = tuple(
            block._replace(inner=block.inner * square * (number < depth).astype(jnp.float32))
            for number, block in enumerate(params.blocks)
        )
        return PerceptronParams(
            params.stem._replace(matrix=params.stem.matrix * (_he(self.inputs) * mask)),
            blocks,
            params.head._replace(matrix=params.head.matrix * (_he(active, 1.0) * mask)[:, None]),
        )

    def apply(self, params: PerceptronParams, inputs: jax.Array, dropout: Dropout) -> jax.Array:
        inputs = inputs.reshape(inputs.shape[0], -1)
        hidden = dropout(0, jax.nn.relu(inputs @ params.stem.matrix + params.stem.bias))
        for number, block in enumerate(params.blocks):
            inner = jax.nn.relu(hidden @ block.inner + block.bias)
            hidden = hidden + dropout(number + 1, inner) @ block.outer
        return hidden @ params.head.matrix + params.head.bias

    def work(self, hp: Mapping) -> Work:
        w = _real(hp, "width", self.width).astype(jnp.float64)
        depth = _real(hp, "depth", self.blocks).astype(jnp.float64)
        first, rest = self.inputs * w, depth * 2 * w * w + w * self.outputs
        return Work(first, rest, first + rest + w + depth * w + self.outputs)


def patches(images: jax.Array, stride: int) -> jax.Array:
    """What a convolution sees at each place, f32[n, *places, KERNEL**sides * channels], of images
    f32[n, *sides, channels] with a border of zeros: as a matrix product it is as fast for many lanes with
    weights of their own as for one, which a convolution is not."""
    sides = images.shape[1:-1]
    padded = jnp.pad(images, [(0, 0), *[(KERNEL // 2, KERNEL // 2)] * len(sides), (0, 0)])
    places = [(side - 1) // stride + 1 for side in sides]
    parts = []
    for offset in product(range(KERNEL), repeat=len(sides)):
        cut = [slice(o, o + (p - 1) * stride + 1, stride) for o, p in zip(offset, places, strict=True)]
        parts.append(padded[(slice(None), *cut)])
    return jnp.concatenate(parts, axis=-1)


class ConvolutionalParams(NamedTuple):
    """first, second: convolutions that halve the sides · blocks · head."""

    first: Dense
    second: Dense
    blocks: tuple[Block, ...]
    head: Dense


@dataclass(frozen=True)
class Convolutional:
    """Two convolutions of `width` channels that halve each side, `blocks` residual branches of two
    convolutions, and a last layer over all places. shape: (*sides, channels) of an input."""

    shape: tuple[int, ...]
    outputs: int
    width: int
    blocks: int
    drops = True

    @property
    def axes(self) -> dict[str, Axis]:
        return _depth_axis(self.blocks) | _width_axis(self.width, 4)

    @property
    def _sizes(self) -> tuple[int, int, int, int]:
        """Steps of a kernel, inputs of the first convolution, places after the first and the second."""
        sides = np.array(self.shape[:-1])
        steps, half = KERNEL ** len(sides), (sides - 1) // 2 + 1
        quarter = (half - 1) // 2 + 1
        return steps, steps * self.shape[-1], int(half.prod()), int(quarter.prod())

    def init(self, key: jax.Array) -> ConvolutionalParams:
        w, (steps, inputs, _, places) = self.width, self._sizes
        first, second, head, *inner = _normal(
            key,
            (inputs, w),
            (steps * w, w),
            (places * w, self.outputs),
            *[(steps * w, w) for _ in range(self.blocks)],
        )
        blocks = tuple(Block(matrix, _zeros(w), _zeros(steps * w, w)) for matrix in inner)
        return ConvolutionalParams(
            Dense(first, _zeros(w)), Dense(second, _zeros(w)), blocks, Dense(head, _zeros(self.outputs))
        )

    def begin(self, params: ConvolutionalParams, hp: Mapping) -> ConvolutionalParams:
        active, depth = _real(hp, "width", self.width), _real(hp, "depth", self.blocks)
        steps, inputs, _, places = self._sizes
        mask = _mask(self.width, active)
        square = jnp.tile(mask, steps)[:, None] * mask * _he(steps * active)
        rows = jnp.tile(mask, places)[:, None] * _he(places * active, 1.0)
        blocks = tuple(
            block._replace(inner=block.inner * square * (number < depth).astype(jnp.float32))
            for number, block in enumerate(params.blocks)
        )
        return ConvolutionalParams(
            params.first._replace(matrix=params.first.matrix * (mask * _he(inputs))),
            params.second._replace(matrix=params.second.matrix * square),
            blocks,
            params.head._replace(matrix=params.head.matrix * rows),
        )

    def apply(self, params: ConvolutionalParams, inputs: jax.Array, dropout: Dropout) -> jax.Array:
        hidden = jax.nn.relu(patches(inputs, 2) @ params.first.matrix + params.first.bias)
        hidden = jax.nn.relu(patches(hidden, 2) @ params.second.matrix + params.second.bias)
        for block in params.blocks:
            inner = jax.nn.relu(patches(hidden, 1) @ block.inner + block.bias)
            hidden = hidden + patches(inner, 1) @ block.outer
        flat = dropout(0, hidden).reshape(inputs.shape[0], -1)
        return flat @ params.head.matrix + params.head.bias

    def work(self, hp: Mapping) -> Work:
        w = _real(hp, "width", self.width).astype(jnp.float64)
        depth = _real(hp, "depth", self.blocks).astype(jnp.float64)
        steps, inputs, half, places = self._sizes
        kernel, head = steps * w * w, places * w * self.outputs
        weights = inputs * w + (1 + 2 * depth) * kernel + head + (2 + depth) * w + self.outputs
        return Work(half * inputs * w, places * (1 + 2 * depth) * kernel + head, weights)


class Attention(NamedTuple):
    """A block of a transformer, normalised before each branch: gain f32[w] · joint f32[w, 3 w], queries, keys
    and values · out f32[w, w] · second_gain f32[w] · up f32[w, 4 w] · bias f32[4 w] · down f32[4 w, w]."""

    gain: Any
    joint: Any
    out: Any
    second_gain: Any
    up: Any
    bias: Any
    down: Any


class TransformerParams(NamedTuple):
    """embedding f32[classes, w] · positions f32[LENGTH, w] · blocks · gain f32[w] · head · share f32[]: one
    over the lane's width, never trained, for its normalisation."""

    embedding: Any
    positions: Any
    blocks: tuple[Attention, ...]
    gain: Any
    head: Dense
    share: Any


@dataclass(frozen=True)
class Transformer:
    """A decoder (Vaswani et al. 2017, arXiv:1706.03762) of causal heads of 8 channels, normalised by the root
    of the mean square (Zhang and Sennrich 2019, arXiv:1910.07467) before each branch, for sequences of
    `length`."""

    length: int
    classes: int
    width: int
    blocks: int
    drops = True

    @property
    def axes(self) -> dict[str, Axis]:
        widths = tuple(range(HEAD, self.width + 1, HEAD))
        axes: dict[str, Axis] = {}
        if self.blocks > 1:
            axes["depth"] = Int(1, self.blocks, default=1, role="architecture")
        if len(widths) > 1:
            axes["width"] = Choice(widths, default=self.width, ordered=True, role="architecture")
        return axes

    def _active(self, hp: Mapping) -> jax.Array:
        return HEAD * (jnp.asarray(hp.get("width", self.width // HEAD - 1), jnp.int32) + 1)

    def init(self, key: jax.Array) -> TransformerParams:
        w = self.width
        embedding, positions, head, *rest = _normal(
            key,
            (self.classes, w),
            (self.length, w),
            (w, self.classes),
            *[shape for _ in range(self.blocks) for shape in ((w, 3 * w), (w, 4 * w))],
        )
        ones = jnp.ones((w,), jnp.float32)
        blocks = tuple(
            Attention(ones, joint, _zeros(w, w), ones, up, _zeros(4 * w), _zeros(4 * w, w))
            for joint, up in zip(rest[::2], rest[1::2], strict=True)
        )
        last = Dense(head, _zeros(self.classes))
        return TransformerParams(embedding, positions, blocks, ones, last, jnp.ones((), jnp.float32))

    def begin(self, params: TransformerParams, hp: Mapping) -> TransformerParams:
        active, depth = self._active(hp), _real(hp, "depth", self.blocks)
        mask = _mask(self.width, active)
        wide, scale = _mask(4 * self.width, 4 * active), _he(active, 1.0)

        def block(number: int, old: Attention) -> Attention:
            gain = mask * (number < depth).astype(jnp.float32)
            rows = (scale * gain)[:, None]
            return old._replace(
                gain=gain,
                joint=old.joint * (rows * jnp.tile(mask, 3)),
                second_gain=gain,
                up=old.up * (rows * wide * jnp.float32(math.sqrt(2.0))),
            )

        return TransformerParams(
            params.embedding * mask * jnp.float32(0.5),
            params.positions * mask * jnp.float32(0.5),
            tuple(block(number, old) for number, old in enumerate(params.blocks)),
            mask,
            params.head._replace(matrix=params.head.matrix * mask[:, None] * scale),
            1.0 / active.astype(jnp.float32),
        )

    def apply(self, params: TransformerParams, inputs: jax.Array, dropout: Dropout) -> jax.Array:
        share = jax.lax.stop_gradient(params.share)
        n, length, heads = *inputs.shape, self.width // HEAD

        def normal(hidden, gain):
            return hidden * jax.lax.rsqrt((hidden * hidden).sum(-1, keepdims=True) * share + 1e-6) * gain

        # A product, since the gradient of a look-up is a scatter, which is slow.
        hot = (inputs[..., None] == jnp.arange(self.classes, dtype=jnp.int32)).astype(jnp.float32)
        hidden = dropout(0, hot @ params.embedding + params.positions)
        causal = jnp.tril(jnp.ones((length, length), jnp.bool_))
        for number, block in enumerate(params.blocks):
            joint = (normal(hidden, block.gain) @ block.joint).reshape(n, length, 3, heads, HEAD)
            query, key, value = (joint[:, :, part] for part in range(3))
            scores = jnp.einsum("nqhc,nkhc->nhqk", query, key) * jnp.float32(HEAD**-0.5)
            weights = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1)
            mixed = jnp.einsum("nhqk,nkhc->nqhc", weights, value).reshape(n, length, self.width)
            hidden = hidden + dropout(2 * number + 1, mixed @ block.out)
            inner = jax.nn.relu(normal(hidden, block.second_gain) @ block.up + block.bias)
            hidden = hidden + dropout(2 * number + 2, inner @ block.down)
        return normal(hidden, params.gain) @ params.head.matrix + params.head.bias

    def work(self, hp: Mapping) -> Work:
        w = self._active(hp).astype(jnp.float64)
        depth = _real(hp, "depth", self.blocks).astype(jnp.float64)
        t, head = self.length, w * self.classes
        rest = depth * (12.0 * w * w + 2.0 * t * w) + head
        weights = head + t * w + depth * (12.0 * w * w + 6.0 * w) + w + head + self.classes
        return Work(jnp.float64(0.0), t * rest, weights)


MODELS = ("logistic", "mlp", "cnn", "transformer")


def build(kind: str, shape: tuple[int, ...], outputs: int, width: int, blocks: int) -> Model:
    """The network for inputs of `shape` (of text: the length), with this many outputs, at its largest."""
    if kind == "logistic":
        return Logistic(math.prod(shape), outputs)
    if kind == "mlp":
        return Perceptron(math.prod(shape), outputs, width, blocks)
    if kind == "cnn":
        return Convolutional(shape, outputs, width, blocks)
    return Transformer(shape[0], outputs, width, blocks)
