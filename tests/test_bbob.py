"""The BBOB functions against ioh's values, stored here, and against ioh itself where it is installed."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surrogates.bbob import BBOB, INSTANCES

# ioh 0.4.2. Columns: function, f_opt of the instances 1 to 3.
OPTIMA = np.array(
    """
 1 79.48 394.48 -247.11
 2 -209.88 -92.09 -87.89
 3 -462.09 77.66 115.68
 4 -462.09 77.66 115.68
 5 -9.21 655.99 66.71
 6 35.90 31.37 -1000.00
 7 92.94 35.35 3.82
 8 149.15 -1000.00 98.62
 9 123.83 47.51 55.34
10 -54.94 59.13 -491.53
11 76.27 -22.55 13.66
12 -621.11 -254.82 56.61
13 29.97 -51.71 -279.95
14 -52.35 -179.54 77.31
15 1000.00 70.03 -48.22
16 71.35 -355.22 99.17
17 -16.94 18.81 273.15
18 -16.94 18.81 273.15
19 -102.55 71.69 214.01
20 -546.50 1000.00 208.38
21 40.78 -1.60 -370.84
22 -1000.00 1000.00 -49.13
23 6.87 0.01 -130.61
24 102.61 93.30 13.64
""".split(),
    float,
).reshape(24, 4)

# Columns: function, dimension, f at `point` for the instances 1 to 3.
VALUES = np.array(
    """
 1  2 82.99793408 474.58473472 -225.0935872
 1  5 105.52245568 477.48251648 -181.12591168
 1 20 258.51681728 696.63072192 42.00803584
 2  2 11726628.8372 3863885.73341 510359.984426
 2  5 31570941.7435 868569.24205 43070276.394
 2 20 34851870.7378 36212717.5589 44022054.6261
 3  2 -179.353625551 112.478139851 1478.22974471
 3  5 -2.41669674113 189.421697099 4759.44157874
 3 20 6784.02753063 7208.49978495 2615.49659036
 4  2 -181.044288444 463.732199651 421.635502043
 4  5 204.230172469 601.524173663 505.217095744
 4 20 2116.90130329 7647.5130868 1690.34245506
 5  2 75.19 713.69 164.01
 5  5 55.3533357201 729.589119577 231.929660248
 5 20 442.244513735 989.941877912 423.87407365
 6  2 304621.480683 146.643753642 569747.421848
 6  5 6991.65043877 289295.024371 201051.757453
 6 20 2948092.13604 571018.053205 1074122.20815
 7  2 286.665464451 139.253133366 3018.82389821
 7  5 401.000426231 672.344507631 620.313469329
 7 20 2500.19554407 6906.21519292 2377.05615869
 8  2 2058.29668387 432933.667693 4372.30844608
 8  5 35174.2523177 530553.153265 194818.595405
 8 20 772036.545926 829881.478123 671615.564687
 9  2 2825.35648933 23635.9932578 644.938367831
 9  5 134272.641244 8916.09437387 77841.0847619
 9 20 156036.121557 190578.586552 429109.125342
10  2 905488.368076 11369024.806 8926537.58416
10  5 47477411.8921 447536.589896 8268127.30589
10 20 39416131.2096 17366953.5499 13058373.5679
11  2 434864.130089 1116728.00908 8222264.49216
11  5 3247987.59882 1475074.19989 1838885.45169
11 20 184101.317699 1315231.8291 2582551.99094
12  2 8391818665.8 9380856.85001 7714199153.26
12  5 1255839284.65 172489931.473 13501654716.6
12 20 3003089556.44 2372508096.61 594873209.085
13  2 64.7588641777 470.912052439 1323.75810591
13  5 1970.64986953 1071.24198621 2631.15189925
13 20 2941.8097789 3412.78455717 3242.85570013
14  2 -43.3141133075 -173.167002674 191.964616776
14  5 -36.5793353949 -137.317691455 103.341809898
14 20 40.3557625388 -85.3547796601 168.659414134
15  2 1686.88799997 1104.92229775 196.950710922
15  5 1999.47124067 657.504834629 569.233124356
15 20 2518.06536305 1441.08763545 1129.80477178
16  2 142.010637148 -284.448998882 178.30754263
16  5 168.0445561 -257.718221629 150.661915856
16 20 189.287893014 -298.884235145 177.902365055
17  2 9.33079507526 52.5206426987 283.659604629
17  5 1.07720612424 26.4971853116 286.990837183
17 20 71.8576177425 30.6477043229 365.364552771
18  2 733.229013099 1003.76063283 326.533328236
18  5 102.103175922 65.3480271823 339.741859791
18 20 337.81627747 63.9190741784 563.668107994
19  2 -97.5629056809 130.008656009 297.763087966
19  5 -62.1643948758 170.553559555 258.548467275
19 20 -43.483048405 144.699728032 261.931457742
20  2 74280.5294128 11910.0862653 17345.0421696
20  5 109392.322284 34809.6284784 27112.5644329
20 20 262359.414374 105445.090181 320536.414333
21  2 58.3155314265 11.6518727048 -338.002363014
21  5 118.732584584 60.1847486076 -296.801626152
21 20 125.500533561 83.725296478 -286.752955959
22  2 -953.544463343 1067.99350066 -40.6219862823
22  5 -920.614252609 1064.93476021 32.8935938572
22 20 -913.551156383 1086.43043861 35.4304124695
23  2 52.2967205633 60.5603176616 -66.7956494067
23  5 32.7256674248 23.2852997735 -127.751036371
23 20 20.405329317 11.9894970008 -124.423059023
24  2 122.020298844 148.826925642 66.0157977415
24  5 265.729235601 249.268038077 180.815040918
24 20 974.651501334 974.045255314 803.918230336
""".split(),
    float,
).reshape(72, 5)

NUMBERS = (1, 2, 3)
NEAR, FAR = 20, 200  # points that each instance is looked at, close to its optimum and anywhere


def point(number, d):
    """Somewhere in [-4.8, 4.8]^d, for instance `number`."""
    return np.array([((37 * number + 61 * j + 17) % 97 - 48) / 10 for j in range(d)])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@cache
def look(function, d):
    """Of the instances 1 to 3: f_opt f64[3], points f64[3, n, d] and their values f64[3, n]. The first point
    is the stored one, the second the optimum; then come NEAR and FAR."""
    objective = BBOB("bbob", function, d)
    instances = jax.vmap(objective.numbered)(jnp.array(NUMBERS))
    random = np.random.default_rng(function)
    best = np.asarray(instances.minimiser)[:, None]
    steps = 10.0 ** random.uniform(-6, 0, (3, NEAR, 1)) * random.normal(size=(3, NEAR, d))
    stored = np.stack([point(n, d) for n in NUMBERS])[:, None]
    x = np.concatenate([stored, best, best + steps, random.uniform(-5, 5, (3, FAR, d))], 1).clip(-5, 5)
    hurry = {"xla_backend_optimization_level": 0}
    value = jax.jit(jax.vmap(jax.vmap(objective.value, (None, 0))), compiler_options=hurry)
    return np.asarray(instances.optimum), x, np.asarray(value(instances, x))


@pytest.mark.parametrize("function", range(1, 25))
def test_values_and_optimum(function):
    for d in (2, 5, 20):
        optimum, _x, value = look(function, d)
        np.testing.assert_allclose(optimum, OPTIMA[function - 1, 1:], rtol=1e-12)
        (row,) = VALUES[(VALUES[:, 0] == function) & (VALUES[:, 1] == d)]
        np.testing.assert_allclose(value[:, 0], row[2:], rtol=1e-9)
        # f_opt is attained, to the last bits, and nothing lies below.
        np.testing.assert_allclose(value[:, 1], optimum, rtol=0, atol=1e-12)
        assert (value >= optimum[:, None] - 1e-12).all()
        assert (value[:, 2 + NEAR :] > optimum[:, None]).all()


@pytest.mark.parametrize("function", range(1, 25))
def test_ioh_agrees(function):
    ioh = pytest.importorskip("ioh")
    for d in (2, 5, 20):
        _optimum, x, value = look(function, d)
        for i, number in enumerate(NUMBERS):
            problem = ioh.get_problem(function, number, d, ioh.ProblemClass.BBOB)
            np.testing.assert_allclose(value[i], [problem(list(row)) for row in x[i]], rtol=1e-6)


def test_the_published_first_instance_as_an_objective():
    """f1, instance 1 in 5 dimensions: f(0) = 92.30397568, f_opt = 79.48."""
    objective = BBOB("bbob", "sphere", instance=1)
    assert objective == BBOB("bbob", 1, instance=1)
    instance = objective.draw(jax.random.key(7))
    hp = objective.space.decode_array(jnp.full((8,), 0.5, jnp.float32))
    _, loss, true_loss = objective.train(instance, jax.random.key(0), (), hp, jnp.int32(0), jnp.int32(1))
    assert loss.dtype == jnp.float64 and loss == true_loss
    assert float(loss) == pytest.approx(92.30397568, abs=1e-8)
    assert float(objective.reference(instance).optimum_static) == pytest.approx(79.48, abs=1e-12)


def test_the_step_ellipsoid_slopes_on_its_lowest_step():
    """COCO's value (cocoex 2.8.2) at a distance of .002 along each axis, where ioh 0.4.2 has f_opt, 92.94."""
    objective = BBOB("bbob", 7)
    x = jnp.array([-0.2236, 0.738, 0.278, 3.1156, 2.3988], jnp.float64)
    assert float(objective.value(objective.numbered(1), x)) == pytest.approx(92.94000003988216, abs=1e-12)


def test_an_instance_is_drawn_by_its_number():
    objective = BBOB("bbob", 5, 2)
    drawn = jax.jit(jax.vmap(objective.draw))(jax.random.split(jax.random.key(0), 400))
    numbers = np.asarray(drawn.number)
    assert numbers.min() >= 1 and numbers.max() <= INSTANCES
    assert abs(numbers.mean() / INSTANCES - 0.5) < 4 / np.sqrt(12 * 400), "4 sigma"
    assert len(set(numbers)) > 380
    again = jax.vmap(objective.numbered)(numbers)
    np.testing.assert_allclose(again.optimum, drawn.optimum, rtol=1e-12)
    np.testing.assert_array_equal(again.minimiser, drawn.minimiser)
    assert (np.abs(drawn.minimiser) == 5).all() and np.ptp(drawn.minimiser, axis=0).min() == 10


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"function": 25}, "1 to 24 or one of sphere, .*, got 25"),
        ({"function": "sfere"}, "got 'sfere'"),
        ({"dimension": 1}, "at least 2, got 1"),
        ({"instance": 0}, "1 to 10000, got 0"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        BBOB("bbob", **settings)
