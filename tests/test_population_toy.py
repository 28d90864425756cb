"""The toy of population-based training: the paper's figure, what exploiting adds, and the trap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.contract import check_objective
from surrogates.population_toy import PopulationToy

ALONE = 0.389749  # Q of either member without exploiting, by the paper's dynamics
TOY = PopulationToy()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@jax.jit
def epoch(theta, h, start):
    hp = {"h0": jnp.float32(h[0]), "h1": jnp.float32(h[1])}
    return TOY.train(None, None, theta, hp, start, start + 1)


def play(exploit=None):
    """Best Q of the two members after 20 rounds of ten steps; exploit(worse h, better h) -> the copy's h,
    None: no copies."""
    fresh = TOY.init(TOY.draw(jax.random.key(0)), jax.random.key(0))
    theta, h = [fresh, fresh], [np.array([1.0, 0.0]), np.array([0.0, 1.0])]
    for e in range(TOY.max_epoch):
        out = [epoch(theta[i], h[i], jnp.int32(e)) for i in range(2)]
        theta, losses = [o[0] for o in out], [float(o[1]) for o in out]
        if exploit and losses[0] != losses[1]:
            good = int(np.argmin(losses))
            theta[1 - good], h[1 - good] = theta[good], exploit(h[1 - good], h[good])
        elif exploit:  # a draw, as at first: either may be copied
            theta[1], h[1] = theta[0], exploit(h[1], h[0])
    return 1.2 - np.array(losses)


def test_without_copies_both_end_where_the_paper_says():
    np.testing.assert_allclose(play(), ALONE, rtol=0, atol=5e-7)
    # By hand: one parameter stays, the other shrinks by .98 in each of 200 steps.
    assert play()[0] == pytest.approx(1.2 - 0.81 - 0.81 * 0.98**400, abs=1e-12)


def test_copied_weights_train_both_parameters():
    """Exploit alone, each member keeping its h: near the 1.2 of a perfect model."""
    best = play(lambda worse, better: worse).max()
    assert best > 1.15
    # Exploring by adding to h as well does no better (Q = 1.2 - 2 * .81 * .98^(2 * steps) bounds all).
    rng = np.random.default_rng(0)
    explored = play(lambda worse, better: np.clip(worse + rng.uniform(-0.2, 0.2, 2), 0, 1)).max()
    assert 1.1 < explored < 1.2
    assert max(best, explored) <= 1.2 - float(TOY.reference(TOY.draw(None)).optimum_dynamic)


def test_copying_h_as_well_collapses_to_a_member_alone():
    """The trap: a zero multiplied stays zero, so both train the same parameter for ever."""
    rng = np.random.default_rng(0)
    copied = play(lambda worse, better: better.copy())
    perturbed = play(lambda worse, better: np.clip(better * rng.choice([0.8, 1.2], 2), 0, 1))
    np.testing.assert_allclose(copied, ALONE, rtol=0, atol=5e-7)
    assert perturbed.max() < ALONE + 5e-7


def test_nothing_undercuts_the_optimum_and_h_of_one_attains_it():
    best = float(TOY.reference(TOY.draw(None)).optimum_static)
    h = jnp.asarray(np.random.default_rng(0).random((1000, 2)), jnp.float32)

    def loss(h):
        hp = {"h0": h[0], "h1": h[1]}
        return TOY.train(None, None, TOY.init(TOY.draw(None), None), hp, jnp.int32(0), jnp.int32(20))[2]

    losses = jax.vmap(loss)(h)
    assert (losses >= best).all() and losses.dtype == jnp.float64
    assert float(loss(jnp.ones(2, jnp.float32))) == pytest.approx(best, rel=1e-12)
    assert best == pytest.approx(2 * 0.81 * 0.98**400, rel=1e-12)


def test_keeps_the_contract_at_another_length():
    """At its own: tests/test_contract.py."""
    assert check_objective(PopulationToy(max_epoch=7)) == []


def test_bad_settings_name_themselves():
    with pytest.raises(ValueError, match="max_epoch must be at least 1, got 0"):
        PopulationToy(max_epoch=0)
