"""Spaces: the map to the unit cube and back, in Python and in JAX, and errors that name the axis."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.space import ORDERED, PAD, PADDED, UNORDERED, Choice, Float, Int, Space, check_real, check_whole
from surrogates.bbob import BBOB
from surrogates.counting_ones import CountingOnes
from surrogates.drifting import Drifting
from surrogates.hysteresis import Hysteresis
from surrogates.ifbo import IfBO
from surrogates.lcpfn import LCPFN
from surrogates.mf_hartmann import MFHartmann
from surrogates.noisy_quadratic import NoisyQuadratic

SPACE = Space(
    {
        "rate": Float(1e-5, 1.0, log=True, default=1e-3, change=True, role="rate"),
        "decay": Float(-2.0, 3.0),
        "layers": Int(1, 5, default=2),
        "units": Int(1, 1000, log=True),
        "activation": Choice(("relu", "tanh", "gelu"), default="tanh"),
        "batch": Choice((16, 32, 64, 128), ordered=True, role="batch"),
    }
)


def close(a: dict, b: dict, rel: float) -> bool:
    return a.keys() == b.keys() and all(
        a[k] == b[k] or (not isinstance(a[k], str) and math.isclose(a[k], b[k], rel_tol=rel)) for k in a
    )


def test_python_and_jax_decode_alike():
    points = np.random.default_rng(0).random((2000, 6)).astype(np.float32)
    points[:2] = [[0.0] * 6, [1.0] * 6]
    compiled = jax.vmap(SPACE.decode_array)(jnp.asarray(points))
    many = SPACE.decode_many(points)
    for i, x in enumerate(points):
        plain = SPACE.decode(x)
        assert close(plain, {name: column[i] for name, column in many.items()}, 1e-12)
        for name, value in plain.items():
            axis = SPACE.axes[name]
            if isinstance(axis, Choice):
                assert axis.values[int(compiled[name][i])] == value
            elif name == "units":  # float32 may round to the neighbour within 1e-6 of a bin's edge
                assert abs(int(compiled[name][i]) - value) <= 1
            else:
                assert float(compiled[name][i]) == pytest.approx(value, rel=3e-5, abs=1e-6)


def test_encode_inverts_decode():
    for config in (
        {"rate": 1e-5, "decay": 3.0, "layers": 5, "units": 1, "activation": "gelu", "batch": 16},
        {"rate": 0.02, "decay": -1.5, "layers": 1, "units": 777, "activation": "relu", "batch": 128},
    ):
        assert close(SPACE.decode(SPACE.encode(config)), config, 2e-6)


def test_every_value_of_a_discrete_axis_owns_its_bin():
    grid = np.linspace(0, 1, 5 * 4 * 3 * 100, endpoint=False)
    for name in ("layers", "activation", "batch"):
        values, counts = np.unique([str(SPACE.axes[name].decode(u)) for u in grid], return_counts=True)
        assert len(values) == SPACE.axes[name].levels and len(set(counts)) == 1
    axis = SPACE.axes["units"]
    width = math.log(1000.5 / 0.5)
    share = np.mean([axis.decode(u) == 3 for u in np.linspace(0, 1, 200001)])
    assert share == pytest.approx(math.log(3.5 / 2.5) / width, rel=1e-3)


def test_the_cube_is_padded_and_says_what_each_axis_is():
    cube = SPACE.cube()
    assert cube.width == PAD and cube.mask.tolist() == [True] * 6 + [False] * 2
    assert cube.kind.tolist()[4:] == [UNORDERED, ORDERED, PADDED, PADDED]
    assert cube.levels.tolist() == [0, 0, 5, 1000, 3, 4, 0, 0]
    assert cube.change.tolist() == [True] + [False] * 7
    assert SPACE.decode(cube.default)["rate"] == pytest.approx(1e-3, rel=1e-5)
    assert SPACE.decode(cube.default)["activation"] == "tanh"
    assert Space({f"x{i}": Float(0, 1) for i in range(9)}).cube().width == 16


def test_snapping_makes_points_that_decode_alike_equal():
    cube = jax.tree.map(jnp.asarray, SPACE.cube())
    x = np.asarray(cube.start(jax.random.key(1), 500))
    snapped = np.asarray(cube.snap(x))
    for before, after in zip(x, snapped, strict=True):
        assert close(SPACE.decode(before), SPACE.decode(after), 1e-5)
    for i, axis in enumerate(SPACE.axes.values()):
        distinct = len(np.unique(snapped[:, i]))
        assert distinct <= axis.levels if axis.levels else distinct > 400
    np.testing.assert_allclose(np.asarray(cube.snap(snapped)), snapped, atol=1e-6)


def test_the_start_design_is_shared_uniform_and_does_not_depend_on_its_length():
    cube = jax.tree.map(jnp.asarray, SPACE.cube())
    long, short = (np.asarray(cube.start(jax.random.key(3), n)) for n in (4000, 7))
    assert (long[:7] == short).all() and (long[:, 6:] == 0.5).all()
    # The mean of 4,000 uniforms has sigma .00456; 4 sigma, six axes, key 3.
    assert np.abs(long[:, :6].mean(0) - 0.5).max() < 0.0183
    assert np.abs(np.corrcoef(long[:, :6].T) - np.eye(6)).max() < 4 / math.sqrt(4000)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Float(1.0, 0.0), "low must be below high, got low=1.0, high=0.0"),
        (lambda: Float(0.0, 1.0, log=True), "a log axis needs low above 0"),
        (lambda: Float(0.0, math.inf), "bounds must be finite"),
        (lambda: Float(0.0, 1.0, default=2.0), "default must lie in"),
        (lambda: Float(0.0, 1.0, role="speed"), "role must be one of"),
        (lambda: Int(1, 5, default=2.5), "default must be an integer"),
        (lambda: Int(1, 2.5), "bounds must be integers"),
        (lambda: Choice(("a",)), "at least two values"),
        (lambda: Choice(("a", "a")), "values must differ"),
        (lambda: Choice(("a", "b"), default="c"), "default must be one of"),
        (lambda: Space({}), "at least one axis"),
        (lambda: Space({"rate": 3}), "axis 'rate' must be Float, Int or Choice"),
        (lambda: SPACE.encode({"rat": 1}), "no axis 'rat'"),
        (lambda: SPACE.encode({"layers": 9}), "axis 'layers': value must be an integer in"),
    ],
)
def test_errors_say_what_is_wrong(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (partial(BBOB, "bbob"), "instance", 1.5),
        (partial(BBOB, "bbob"), "dimension", 2.5),
        (CountingOnes, "categorical", 1.5),
        (CountingOnes, "samples", 2.5),
        (Drifting, "groups", 1.5),
        (Drifting, "drift", float("nan")),
        (Hysteresis, "max_epoch", 2.5),
        (Hysteresis, "hysteresis", "high"),
        (IfBO, "dimension", True),
        (IfBO, "noise", None),
        (LCPFN, "dimension", 1.5),
        (MFHartmann, "max_epoch", 2.5),
        (MFHartmann, "dimension", 3.0),
        (MFHartmann, "bias", "x"),
        (NoisyQuadratic, "examples", 16384.0),
        (NoisyQuadratic, "batch", 64.0),
        (NoisyQuadratic, "pieces", 2.5),
        (NoisyQuadratic, "momentum", "x"),
    ],
)
def test_settings_of_another_type_are_one_line(kind, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a (whole|finite) number.*, got {value!r}$"):
        kind(**{name: value})


def test_checks_of_numbers_take_both_ends():
    check_whole("n", 1, 1)
    check_whole("n", 3, 1, 3)
    check_real("r", 1, 1.0, 1.0)
    check_real("r", -1e9)
    with pytest.raises(ValueError, match=r"^r must be a finite number, got nan$"):
        check_real("r", math.nan)
    for bad in (0, 4, True, 2.0, "2", None):
        with pytest.raises(ValueError, match=r"^n must be a whole number from 1 to 3, got "):
            check_whole("n", bad, 1, 3)
    for bad in (-0.1, 1.1, True, math.nan, math.inf, "0", None):
        with pytest.raises(ValueError, match=r"^r must be a finite number at least 0 and at most 1, got "):
            check_real("r", bad, 0, 1)
