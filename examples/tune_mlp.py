"""A neural network, epoch by epoch: a generator, tuned by Hyperband, which stops most trainings early."""

from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import nearopt
from nearopt import Choice, Float, Int

x, y = load_digits(return_X_y=True)
x_train, x_valid, y_train, y_valid = train_test_split(x / 16.0, y, test_size=0.3, random_state=0)

SPACE = {
    "learning_rate_init": Float(1e-4, 1e-1, default=1e-3, log=True, role="rate"),
    "batch_size": Choice((16, 32, 64, 128), default=64, ordered=True, role="batch"),
    "alpha": Float(1e-6, 1.0, default=1e-4, log=True, role="regularisation"),
    "width": Int(8, 128, default=32, log=True, role="architecture"),
}


def training(config, seed):
    settings = dict(config)
    network = MLPClassifier((settings.pop("width"),), random_state=seed, **settings)
    while True:
        network.partial_fit(x_train, y_train, classes=range(10))
        yield log_loss(y_valid, network.predict_proba(x_valid))


if __name__ == "__main__":
    study = nearopt.tune(
        training, SPACE, trials=10, max_epoch=9, strategy="hyperband", data=[x, y], name="mlp"
    )
