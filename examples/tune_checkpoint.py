"""A training that keeps checkpoints and may change its hyperparameters on the way: tuned by PBT."""

import pickle
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

import nearopt
from nearopt import Float

x, y = load_digits(return_X_y=True)
x_rest, x_test, y_rest, y_test = train_test_split(x / 16.0, y, test_size=0.25, random_state=0)
x_train, x_valid, y_train, y_valid = train_test_split(x_rest, y_rest, test_size=0.33, random_state=0)

SPACE = {
    "eta0": Float(1e-4, 1.0, default=1e-2, log=True, change=True, role="rate"),
    "alpha": Float(1e-7, 1e-1, default=1e-4, log=True, change=True, role="regularisation"),
}


def probabilities(model, x):
    return np.clip(model.predict_proba(x), 1e-12, 1.0)


def training(config, checkpoint_dir, start, until, seed):
    file = Path(checkpoint_dir) / "model.pickle"
    if start:
        model = pickle.loads(file.read_bytes())
    else:
        model = SGDClassifier(loss="log_loss", learning_rate="constant", random_state=seed)
    model.set_params(**config)
    for _ in range(start, until):
        model.partial_fit(x_train, y_train, classes=range(10))
    file.write_bytes(pickle.dumps(model))
    return log_loss(y_valid, probabilities(model, x_valid))


def test(config, checkpoint_dir):
    model = pickle.loads((Path(checkpoint_dir) / "model.pickle").read_bytes())
    return log_loss(y_test, probabilities(model, x_test))


if __name__ == "__main__":
    study = nearopt.tune(
        training, SPACE, test, trials=10, max_epoch=12, strategy="pbt,population=5,intervals=6",
        data=[x, y], name="checkpoint",
    )  # fmt: skip
