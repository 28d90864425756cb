"""Networks of the tasks: masks make small networks of large ones, and each against a form of its own."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.tasks import models
from bench.tasks.models import HEAD, Convolutional, Perceptron, Transformer
from bench.tasks.training import keep_all

# (large, small, hyperparameters of the small one in the large one)
PAIRS = {
    "mlp": (Perceptron(12, 3, 16, 2), Perceptron(12, 3, 10, 1), {"width": 10, "depth": 1}),
    "signal": (Convolutional((11, 2), 3, 6, 1), Convolutional((11, 2), 3, 4, 0), {"width": 4, "depth": 0}),
    "image": (Convolutional((6, 5, 1), 3, 6, 2), Convolutional((6, 5, 1), 3, 5, 1), {"width": 5, "depth": 1}),
    "text": (Transformer(7, 5, 24, 2), Transformer(7, 5, 16, 1), {"width": 1, "depth": 1}),
}


def inputs_of(model, n=4):
    draw = np.random.default_rng(0)
    if isinstance(model, Transformer):
        return draw.integers(0, model.classes, (n, model.length)).astype(np.int32)
    shape = model.shape if isinstance(model, Convolutional) else (model.inputs,)
    return draw.standard_normal((n, *shape)).astype(np.float32)


def sides_of(path, leaf, width):
    """The shape of a leaf in parts of which the small network has the first ones: what stands in a row for
    each step of a kernel, or for queries, keys and values, is a side of its own."""
    name = jax.tree_util.keystr(path)
    sides = []
    for place, side in enumerate(leaf.shape):
        if "joint" in name and place == 1:
            sides += [3, side // 3]
        elif side > width and side % width == 0 and not any(word in name for word in ("up", "down", "bias")):
            sides += [side // width, width]
        else:
            sides.append(side)
    return tuple(sides)


def embed(small, large, params, whole):
    """The small network's weights, in numpy, among zeros in the form of the large one's `whole`."""
    missing = len(whole.blocks) - len(params.blocks)
    nothing = jax.tree.map(np.zeros_like, whole.blocks[len(params.blocks) :])

    def grow(path, leaf, there):
        new = np.asarray(leaf).reshape(sides_of(path, leaf, small.width))
        shape = sides_of(path, there, large.width)
        spare = [(0, b - a) for a, b in zip(new.shape, shape, strict=True)]
        return (np.pad(new, spare) if spare else new).reshape(there.shape)

    shortened = whole._replace(blocks=whole.blocks[: len(params.blocks)])
    grown = jax.tree_util.tree_map_with_path(grow, params, shortened)
    return grown._replace(blocks=(*grown.blocks, *nothing)) if missing else grown


def outputs_and_gradient(model, params, inputs, weights):
    """Outputs, and the gradient of a nonlinear sum of them."""

    def loss(params):
        outputs = model.apply(params, inputs, keep_all)
        return (jnp.sin(outputs) * weights).sum(), outputs

    gradient, outputs = jax.jit(jax.grad(loss, has_aux=True))(params)
    return np.asarray(outputs), jax.tree.map(np.asarray, gradient)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", ["mlp", "text", *(pytest.param(n, marks=SLOW) for n in ("signal", "image"))])
def test_a_masked_network_is_the_small_one(name):
    """Outputs and gradients at random weights of every kind; gradients are zero where the small one has
    nothing, so that no optimiser moves what is not there; and the weights before the first step are, too."""
    large, small, hp = PAIRS[name]
    start = jax.jit(lambda key: (large.init(key), small.init(key), large.begin(large.init(key), hp)))
    whole, shapes, begun = jax.tree.map(np.asarray, start(jax.random.key(2, impl="threefry2x32")))
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: 0.4 * draw.standard_normal(leaf.shape).astype(np.float32), shapes)
    if isinstance(small, Transformer):
        params = params._replace(share=np.float32(1 / small.width))
    inputs, weights = inputs_of(small), draw.standard_normal(3).astype(np.float32)
    weights = weights if name != "text" else np.float32(1.3)
    outputs, gradient = outputs_and_gradient(small, params, inputs, weights)
    grown = embed(small, large, params, whole)
    ours, grown_gradient = outputs_and_gradient(large, grown, inputs, weights)
    np.testing.assert_allclose(ours, outputs, rtol=1e-5, atol=1e-5)
    theirs = embed(small, large, gradient, whole)
    for a, b in zip(jax.tree.leaves(grown_gradient), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    there = embed(small, large, jax.tree.map(np.ones_like, shapes), whole)
    for tree in (grown_gradient, begun):
        for a, mask in zip(jax.tree.leaves(tree), jax.tree.leaves(there), strict=True):
            assert not a[mask == 0].any()


@pytest.mark.parametrize("name", PAIRS)
def test_work_counts_the_network(name):
    """A lane's is the small network's: weights as counted, a perceptron's multiplications by hand."""
    large, small, hp = PAIRS[name]
    with jax.enable_x64(True):
        work = large.work({key: jnp.int32(value) for key, value in hp.items()})
        alone = small.work({})
    assert [float(a) for a in work] == [float(a) for a in alone]
    there = sum(math.prod(a.shape) for a in jax.tree.leaves(jax.eval_shape(small.init, jax.random.key(0))))
    assert float(work.weights) == there - isinstance(small, Transformer)  # its share is no weight
    if name == "mlp":
        assert [float(a) for a in work] == [12 * 10, 2 * 100 + 30, 120 + 10 + 200 + 10 + 30 + 3]


def test_first_outputs_have_the_scale_of_their_inputs():
    """Whatever width and depth: variance of standard inputs' outputs within a factor of 2 of 1, over 400
    networks of 3 outputs (He initialisation keeps it; the last layer sees rectified units, half of it)."""
    large = Perceptron(12, 3, 16, 2)
    keys = jax.random.split(jax.random.key(3, impl="threefry2x32"), 400)
    inputs = inputs_of(large, 8)

    @jax.jit
    def outputs(hp):
        return jax.vmap(lambda k: large.apply(large.begin(large.init(k), hp), inputs, keep_all))(keys)

    for width, depth in ((8, 0), (16, 2), (8, 2)):
        variance = np.var(outputs({"width": np.int32(width), "depth": np.int32(depth)}))
        assert 0.5 < variance < 2.0


@pytest.mark.parametrize(("stride", "shape"), [(1, (6, 5, 2)), (2, (6, 5, 2)), (2, (11, 3))])
def test_patches_make_a_convolution(stride, shape):
    """Of the patches a matrix product is JAX's convolution with a border of zeros."""
    draw = np.random.default_rng(2)
    images = draw.standard_normal((3, *shape)).astype(np.float32)
    sides = len(shape) - 1
    kernel = draw.standard_normal((*[3] * sides, shape[-1], 4)).astype(np.float32)
    ours = models.patches(images, stride) @ kernel.reshape(-1, 4)
    letters = "HW"[:sides]
    theirs = jax.lax.conv_general_dilated(
        images, kernel, [stride] * sides, [(1, 1)] * sides,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )  # fmt: skip
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_transformer_by_numpy():
    """One sequence, head by head and position by position, in float64; and no output sees what follows it."""
    model = Transformer(5, 4, 16, 1)
    params = jax.jit(lambda key: model.begin(model.init(key), {}))(jax.random.key(5, impl="threefry2x32"))
    draw = np.random.default_rng(3)
    block = params.blocks[0]._replace(
        out=0.3 * draw.standard_normal((16, 16)), down=0.2 * draw.standard_normal((64, 16))
    )
    params = jax.tree.map(np.float32, params._replace(blocks=(block,)))
    tokens = np.array([[2, 0, 3, 1, 1], [2, 0, 3, 0, 2]], np.int32)
    ours, other = np.asarray(jax.jit(lambda p, t: model.apply(p, t, keep_all))(params, tokens))

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    b = p.blocks[0]

    def normal(row, gain):
        return row / math.sqrt(np.mean(row**2) + 1e-6) * gain

    hidden = [p.embedding[token] + p.positions[place] for place, token in enumerate(tokens[0])]
    joint = [normal(row, b.gain) @ b.joint for row in hidden]
    for place in range(5):
        mixed = []
        for head in range(2):
            part = [slice(16 * k + HEAD * head, 16 * k + HEAD * (head + 1)) for k in range(3)]
            scores = [joint[place][part[0]] @ joint[j][part[1]] / math.sqrt(HEAD) for j in range(place + 1)]
            shares = np.exp(scores) / np.exp(scores).sum()
            mixed.append(sum(s * joint[j][part[2]] for j, s in enumerate(shares)))
        row = hidden[place] + np.concatenate(mixed) @ b.out
        row = row + np.maximum(normal(row, b.second_gain) @ b.up + b.bias, 0) @ b.down
        expected = normal(row, p.gain) @ p.head.matrix + p.head.bias
        np.testing.assert_allclose(ours[place], expected, rtol=1e-3, atol=1e-4)
    assert np.array_equal(other[:3], ours[:3]) and not np.allclose(other[3], ours[3])
