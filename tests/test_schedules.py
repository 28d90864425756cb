"""Learning-rate schedules against optax's, and their axes."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from surrogates import schedules

TIME = jnp.asarray((np.arange(40) + 0.5) / 40)


@pytest.mark.parametrize("warmup", [0.0, 0.23])
def test_shapes_are_the_library_s(warmup):
    shape = {"warmup": warmup, "final_rate": 0.04}

    def rise(after):
        return jnp.where(TIME < warmup, TIME / max(warmup, 1e-9), after(TIME - warmup))

    left = 1 - warmup
    expected = {
        "cosine": rise(optax.cosine_decay_schedule(1.0, left, alpha=0.04)),
        "linear": rise(optax.linear_schedule(1.0, 0.04, left)),
        "power": rise(optax.polynomial_schedule(1.0, 0.04, 2.5, left)),
        "step": rise(
            optax.piecewise_constant_schedule(1.0, {0.6 - warmup: 0.2, 0.6 + 0.25 * 0.4 - warmup: 0.2})
        ),
    }
    step = {"first_drop": 0.6, "second_drop": 0.25, "drop": 0.2}
    for schedule, values in expected.items():
        got = schedules.multiplier(schedule, shape | step | {"decay_power": 2.5}, TIME)
        np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-6)
        assert set(schedules.shape_axes(schedule)) <= {*shape, *step, "decay_power"}


def test_constant_and_piecewise_rates():
    assert (schedules.multiplier("constant", {}, TIME) == 1).all()
    hp = {f"rate_{k}": jnp.float32(k + 1) for k in range(5)}
    rates = [float(schedules.learning_rate("piecewise", 5, hp, t)) for t in TIME]
    assert rates == np.repeat([1.0, 2, 3, 4, 5], 8).tolist()
    hp = {"learning_rate": 3.0, "warmup": 0.5, "final_rate": 1.0}
    assert float(schedules.learning_rate("linear", 5, hp, jnp.float32(0.25))) == 1.5


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_rates_may_change_and_shapes_may_not(schedule):
    rates, shape = schedules.rate_axes(schedule, 3, 1e-3, 1.0, 0.1), schedules.shape_axes(schedule)
    assert list(rates) == (["rate_0", "rate_1", "rate_2"] if schedule == "piecewise" else ["learning_rate"])
    assert all(axis.change and axis.log and axis.role == "rate" for axis in rates.values())
    assert not any(axis.change for axis in shape.values())
    # All within (0, 1] whatever the shape.
    rng = np.random.default_rng(0)
    for _ in range(20):
        hp = {name: axis.decode(rng.random()) for name, axis in shape.items()}
        if schedule != "piecewise":
            factor = np.asarray(schedules.multiplier(schedule, hp, TIME))
            assert (factor > 0).all() and (factor <= 1 + 1e-6).all()


def test_an_unknown_schedule_is_named():
    with pytest.raises(ValueError, match=r"schedule must be one of constant, cosine.*, got 'onecycle'"):
        schedules.check_schedule("onecycle")
    with pytest.raises(ValueError, match=r"schedule must be one of cosine, got 'step'"):
        schedules.check_schedule("step", ("cosine",))
