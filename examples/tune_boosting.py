"""Gradient boosting on a table: a function of a configuration, tuned by the guides' workflow."""

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

import nearopt
from nearopt import Float, Int

x, y = load_breast_cancer(return_X_y=True)
x_rest, x_test, y_rest, y_test = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
x_train, x_valid, y_train, y_valid = train_test_split(x_rest, y_rest, test_size=0.33, random_state=0)

SPACE = {
    "learning_rate": Float(0.01, 1.0, default=0.1, log=True, role="rate"),
    "max_iter": Int(10, 100, default=50, log=True),
    "max_leaf_nodes": Int(2, 64, default=31, log=True, role="architecture"),
    "l2_regularization": Float(1e-4, 10.0, log=True, role="regularisation"),
}


def fitted(config, x, y):
    return HistGradientBoostingClassifier(**config, early_stopping=False, random_state=0).fit(x, y)


def loss(config):
    return log_loss(y_valid, fitted(config, x_train, y_train).predict_proba(x_valid))


def test(config):
    return log_loss(y_test, fitted(config, x_rest, y_rest).predict_proba(x_test))


if __name__ == "__main__":
    print(nearopt.preflight(loss, SPACE))
    study = nearopt.tune(loss, SPACE, test, trials=24, data=[x, y], name="boosting")
