"""LCBench's surrogate: the reader on networks made here, and the publisher's files, where they are, against
onnxruntime."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import reference
from bench.contract import check_objective
from bench.protocols import MissingData
from nearopt import catalogue
from nearopt.commands import main
from surrogates import lcbench
from surrogates.lcbench import INPUTS, OUTPUTS, TASKS, Instance, LCBench
from surrogates.onnx_graph import evaluate, read

DATA = Path(__file__).parents[2] / "shared" / "data" / "yahpo" / "lcbench"
# The order in which the publisher's network takes its numbers, the epoch before them.
ORDER = "batch_size learning_rate momentum weight_decay num_layers max_units max_dropout".split()
needs_data = pytest.mark.skipif(not (DATA / "model.onnx").is_file(), reason=f"no {DATA}")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def objective():
    return LCBench(data_dir=str(DATA))


def random_points(n: int, seed: int = 0):
    """Configurations f32[n, 8] in the network's order, our epochs 1 to 50 as the publisher counts them."""
    rng = np.random.default_rng(seed)
    u = rng.random((n, 7), np.float32)
    columns = LCBench(data_dir=str(DATA)).space.decode_many(u)
    epoch = rng.integers(2, 52, n)
    return u, epoch, np.stack([epoch, *(columns[name] for name in ORDER)], 1).astype(np.float32)


# The reader ------------------------------------------------------------------------------------------------


def test_the_reader_on_a_network_with_every_operator(tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    helper, rng = onnx.helper, np.random.default_rng(0)

    def tensor(name, value):
        return onnx.numpy_helper.from_array(np.asarray(value), name)

    def constant(name, value):
        return helper.make_node("Constant", [], [name], value=tensor("", value))

    weights = {
        "table": rng.normal(size=(5, 3)), "w": rng.normal(size=(6, 8)), "b": rng.normal(size=6),
        "scale": rng.random(6), "shift": rng.normal(size=6), "mean": rng.normal(size=6),
        "variance": rng.random(6) + 0.1, "v": rng.normal(size=(3, 2)), "c": rng.normal(size=2),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        constant("zero", np.int64(0)), constant("minus", np.array([-1])), constant("one", np.array([1])),
        constant("two", np.array([2])), constant("start", np.array([0])), constant("half", np.float32(0.5)),
        node("Gather", ["cat", "zero"], ["code"], axis=1), node("Gather", ["table", "code"], ["embedded"]),
        node("Gather", ["cont", "zero"], ["first"], axis=1), node("Add", ["first", "half"], ["more"]),
        node("Log", ["more"], ["log"]), node("Cast", ["log"], ["cast"], to=1),
        node("Sub", ["cast", "half"], ["less"]), node("Div", ["less", "half"], ["scaled"]),
        node("Unsqueeze", ["scaled", "one"], ["column"]),
        node("Concat", ["embedded", "column", "cont"], ["all"], axis=1),
        node("Gemm", ["all", "w", "b"], ["linear"], alpha=0.5, beta=2.0, transB=1),
        node("BatchNormalization", ["linear", "scale", "shift", "mean", "variance"], ["norm"], epsilon=1e-2),
        node("Shape", ["norm"], ["shape"]), node("Gather", ["shape", "minus"], ["width"]),
        node("Div", ["width", "two"], ["middle"]), node("Mul", ["middle", "two"], ["end"]),
        node("Slice", ["norm", "start", "middle", "minus"], ["left"]),
        node("Slice", ["norm", "middle", "end", "minus"], ["right"]), node("Relu", ["right"], ["gate"]),
        node("Mul", ["left", "gate"], ["gated"]), node("Gemm", ["gated", "v", "c"], ["head"]),
        node("Sigmoid", ["head"], ["squashed"]), node("Exp", ["squashed"], ["output"]),
    ]  # fmt: skip
    float_, int_ = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    graph = helper.make_graph(
        nodes,
        "network",
        [
            helper.make_tensor_value_info("cat", int_, ["n", 1]),
            helper.make_tensor_value_info("cont", float_, ["n", 4]),
        ],
        [helper.make_tensor_value_info("output", float_, ["n", 2])],
        [tensor(name, value.astype(np.float32)) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    inputs = {"cat": rng.integers(0, 5, (7, 1), np.int32), "cont": rng.random((7, 4), np.float32)}
    (expected,) = runtime.InferenceSession(path).run(None, inputs)
    network = read(path)
    assert network.inputs == ("cat", "cont") and network.outputs == ("output",)
    (found,) = jax.jit(lambda given: evaluate(network, given))(inputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)

    nodes.append(node("Tanh", ["output"], ["more output"]))
    graph = helper.make_graph(nodes, "network", graph.input, graph.output, graph.initializer)
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(ValueError, match=r"model\.onnx cannot be read as an ONNX network: operator Tanh is"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x3a\xff\x01"])
def test_a_file_that_is_no_network_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"^.*model\.onnx cannot be read as an ONNX network: .*$"):
        read(tmp_path / "model.onnx")


# Settings --------------------------------------------------------------------------------------------------


def test_missing_files_are_one_line_with_source_and_setting(tmp_path):
    source = r"set it to the folder lcbench of github\.com/slds-lmu/yahpo_data, release v1\.0\.2$"
    with pytest.raises(MissingData, match=rf"^no file model\.onnx in data_dir=null: {source}"):
        LCBench()
    with pytest.raises(MissingData, match=rf"^no file model\.onnx in data_dir=/nowhere: {source}"):
        LCBench(data_dir="/nowhere")
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(MissingData, match=rf"^no file encoding\.json in data_dir=.*: {source}"):
        LCBench(data_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"^task must be one of 3945, .* or null for all, got '1'$"):
        LCBench(task="1")
    with pytest.raises(ValueError, match=r"^measure must be one of val_cross_entropy, .*got 'time'$"):
        LCBench(measure="time")


@pytest.mark.parametrize(
    ("model", "codes"),
    [
        (b"garbage", json.dumps({"OpenML_task_id": {task: 1 for task in TASKS}})),
        (b"", "{}"),
        (b"", "[]"),
        (b"", "{"),
        (b"", json.dumps({"OpenML_task_id": {"3945": 1}})),
        (b"", json.dumps({"OpenML_task_id": {task: "one" for task in TASKS}})),
    ],
)
def test_files_of_another_kind_are_one_line(model, codes, tmp_path, capsys):
    (tmp_path / "model.onnx").write_bytes(model)
    (tmp_path / "encoding.json").write_text(codes)
    with pytest.raises(ValueError, match=r"^data_dir=/.* does not hold LCBench's network: [^\n]+$"):
        LCBench(data_dir=str(tmp_path))
    assert main(["check", f"lcbench,data_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "does not hold LCBench's network" in error and error.count("\n") == 1


def test_the_commands_survive_an_objective_without_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    line = "lcbench.LCBench: no file model.onnx in data_dir=null: set it to the folder lcbench of github.com/"
    assert main(["plan", "objective=lcbench,branin", "strategy=random", "budgets=[4]", "seeds=1"]) == 0
    out = capsys.readouterr().out
    assert f"fails: surrogates.{line}" in out and "1 cell to run" in out
    assert main(["check", "lcbench"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nearopt: surrogates.{line}") and error.count("\n") == 1
    words = ["objective=lcbench,population_toy", "strategy=random", "budgets=[2]", "seeds=1"]
    assert main(["run", *words, "name=t", "processes=1"]) == 1
    out = capsys.readouterr().out
    assert out.count(line) == 2 and "population_toy" in out  # its cell, its reference
    assert (
        json.loads((tmp_path / "results/t/population_toy/random/cell.json").read_text())["status"]
        == "complete"
    )


def test_where_data_lie_names_no_folder():
    entry = catalogue.entry("objective", "lcbench,data_dir=/a/b,task=3945+noisy,sd=0.2")
    assert entry.label == "lcbench,task=3945+noisy,sd=0.2"
    assert entry.settings["base"]["data_dir"] == "/a/b"
    assert catalogue.entry("objective", entry.text) == entry
    again = catalogue.entry("objective", entry.text, {"measure": "val_accuracy", "task": None})
    assert again.label == "lcbench,measure=val_accuracy+noisy,sd=0.2"
    assert again.settings["base"]["data_dir"] == "/a/b"
    assert catalogue.entry("objective", again.text) == again


@needs_data
def test_an_objective_is_the_content_of_its_files_and_not_their_place(objective, tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(DATA, copied)
    other = LCBench(data_dir=str(copied))
    assert other == objective and hash(other) == hash(objective)
    assert reference.settings_of(other) == reference.settings_of(objective)
    assert not any(str(DATA) in str(value) for value in reference.settings_of(objective).values())
    with (copied / "model.onnx").open("ab") as file:
        file.write(b"\x08\x07")  # another field: another file
    assert LCBench(data_dir=str(copied)) != objective


# The publisher's network -----------------------------------------------------------------------------------


@needs_data
def test_the_space_and_the_tasks_are_the_publishers(objective):
    published = json.loads((DATA / "config_space.json").read_text())["hyperparameters"]
    axes = {entry["name"]: entry for entry in published}
    assert tuple(axes.pop("OpenML_task_id")["choices"]) == TASKS
    assert axes.pop("epoch")["upper"] == objective.max_epoch + 2
    assert set(axes) == set(INPUTS) == set(objective.space.names)
    for name, axis in objective.space.axes.items():
        assert (axis.low, axis.high) == pytest.approx((axes[name]["lower"], axes[name]["upper"]))
        assert axis.log == axes[name]["log"]
        assert (axis.kind == 1) == (axes[name]["type"] == "uniform_int")


# onnxruntime's answers (1.32, CPU): the network's outputs for a task and (epoch, batch size, rate, momentum,
# weight decay, layers, units, dropout).
FACTS = [
    (
        "3945",
        (51, 128, 0.01, 0.9, 0.001, 3, 256, 0.2),
        (131.0385, 89.04836, 0.3149987, 0.7481958, 0.4459146, 0.7221906),
    ),
    (
        "7593",
        (2, 16, 0.1, 0.1, 0.1, 1, 64, 1.0),
        (36.301, 53.20892, 1.443376, 0.5326207, 1.818139, 0.5420432),
    ),
    (
        "189909",
        (26, 512, 0.0001, 0.99, 1e-05, 5, 1024, 0.0),
        (573.5012, 59.00946, 0.8697613, 0.5660717, 1.124138, 0.5686049),
    ),
    (
        "126026",
        (11, 64, 0.003, 0.5, 0.05, 2, 100, 0.5),
        (30.42609, 92.41462, 0.200629, 0.9262505, 0.4197128, 0.9203896),
    ),
]


@needs_data
def test_stored_answers_of_onnxruntime(objective):
    for task, numbers, expected in FACTS:
        hp = dict(zip(ORDER, numbers[1:], strict=True))
        code = lcbench.load(DATA.resolve())[1][TASKS.index(task)]
        found = objective.outputs(Instance(jnp.int32(code)), hp, numbers[0] - 1)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@needs_data
def test_against_onnxruntime_on_a_thousand_points_of_each_task(objective):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(DATA / "model.onnx")
    codes = json.loads((DATA / "encoding.json").read_text())["OpenML_task_id"]

    @jax.jit
    def run(code, numbers):
        def one(numbers):
            hp = dict(zip(ORDER, numbers[1:], strict=True))
            return objective.outputs(Instance(code), hp, numbers[0] - 1)

        return jax.vmap(one)(numbers)

    for i, task in enumerate(TASKS):
        _, _, numbers = random_points(1000, seed=i)
        code = np.full((1000, 1), codes[task], np.int32)
        (expected,) = session.run(None, {"x_cat": code, "x_cont": numbers})
        found = np.asarray(run(jnp.int32(codes[task]), numbers))
        for name, ours, theirs in zip(OUTPUTS, found.T, expected.T, strict=True):
            # The time is 46,790 times a sigmoid, whose last bits of float32 are 3 ms.
            floor = 0.02 if name == "time" else 0.0
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=floor, err_msg=f"{task} {name}")


def evaluated(objective, n: int, instances=range(1000, 1008), seed: int = 0):
    """Losses of n random configurations at random epochs, cost of the whole: [instances, n] each."""
    u, epoch, _ = random_points(n, seed)

    @jax.jit
    @jax.vmap
    def run(index):
        instance = objective.draw(reference.instance_key(index))

        def one(x, until):
            hp = objective.space.decode_array(x)
            key = jax.random.key(0)
            _, told, true = objective.train(instance, key, (), hp, jnp.int32(0), until)
            costs = [objective.cost(instance, key, hp, a, b) for a, b in ((0, until), (until, 50), (0, 50))]
            return told, true, jnp.stack(costs)

        return jax.vmap(one)(u, jnp.asarray(epoch - 1, jnp.int32))

    return map(np.asarray, run(np.asarray(list(instances), np.uint32)))


@needs_data
def test_no_configuration_lies_below_the_stored_optimum_and_costs_add_up(objective):
    told, true, costs = evaluated(objective, 4096)
    assert np.isfinite(told).all() and (told == true).all()
    assert (costs[..., 2] > 0).all() and (costs >= 0).all()
    np.testing.assert_allclose(costs[..., 0] + costs[..., 1], costs[..., 2], rtol=1e-12)
    stored = reference.reference_table(objective, range(1000, 1008))
    assert "the objective's own search" in stored.attrs["how"]
    optimum = stored["optimum_static"].to_numpy()
    assert (true.min(1) >= optimum).all()
    # And it is near what random finds where that is near: a sanity check of the search, not of its quality.
    assert (optimum > 0).all() and (optimum < true.min(1)).all()


@needs_data
def test_the_search_finds_what_is_stored(objective, monkeypatch):
    monkeypatch.setattr(lcbench, "SEARCHES", 1)
    instance = objective.draw(reference.instance_key(jnp.uint32(1000)))
    search = jax.jit(lambda key: objective.make_reference(instance, key).optimum_static)
    stored = reference.reference_table(objective, [1000])["optimum_static"][0]
    assert float(search(jax.random.key(5))) == pytest.approx(stored, rel=1e-4)


@needs_data
@pytest.mark.parametrize(("measure", "best"), [("val_accuracy", 100.0), ("val_balanced_accuracy", 1.0)])
def test_accuracies_become_errors(measure, best):
    objective = LCBench(data_dir=str(DATA), measure=measure, task="3945")
    hp = objective.space.decode_array(jnp.full(7, 0.5, jnp.float32))
    instance = objective.draw(jax.random.key(0))
    accuracy = float(objective.outputs(instance, hp, 50)[OUTPUTS.index(measure)])
    assert 0.4 * best < accuracy < best
    assert float(objective.loss(instance, hp, 50)) == pytest.approx(1 - accuracy / best, rel=1e-6)


@needs_data
def test_instances_are_tasks(objective):
    draw = jax.jit(jax.vmap(lambda i: objective.draw(reference.instance_key(i)).code))
    codes = np.asarray(draw(np.arange(1000, 3000, dtype=np.uint32)))
    assert set(codes) == set(lcbench.load(DATA.resolve())[1])
    counts = np.bincount(codes)[1:]
    assert np.abs(counts[counts > 0] - 2000 / 34).max() < 4 * np.sqrt(2000 / 34)
    fixed = LCBench(data_dir=str(DATA), task=7593)  # as YAML reads it
    assert fixed.task == "7593" and int(fixed.draw(jax.random.key(0)).code) == 35


@needs_data
def test_it_keeps_the_rules(objective):
    assert check_objective(objective) == []
