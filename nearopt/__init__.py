"""nearopt: simulate, train and compare hyperparameter-tuning strategies under fixed budgets.

What a user imports. Names are loaded when they are first used, so that importing nearopt is quick and never
changes JAX's settings.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Float": "bench.space",
    "Int": "bench.space",
    "Choice": "bench.space",
    "Space": "bench.space",
    "Job": "bench.protocols",
    "Feedback": "bench.protocols",
    "Reference": "bench.protocols",
    "NONE": "bench.protocols",
    "Callable": "bench.loop",
    "simulate": "bench.simulate",
    "load": "nearopt.results",
    "tune": "nearopt.study",
    "StudyStopped": "nearopt.study",
    "preflight": "nearopt.first_call",
    "kfold": "nearopt.forms",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"nearopt has no {name!r}; it has {', '.join(sorted(_WHERE))}")
    from nearopt.commands import _foreign

    hidden = _foreign()
    if hidden:
        raise ImportError(hidden)
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*sorted(_WHERE), "__version__"]
