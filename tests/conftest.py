"""What several files of tests share."""

from __future__ import annotations

import os

import pytest

from bench.page import draw

# Half of the tests' time is compiling, so what only a test compiles is compiled in a hurry; what the drivers
# compile, with options of their own, is compiled as for everybody. In one piece it takes a tenth less than
# divided among threads, which two workers on two cores have no use for; nor have they for threads within.
# Nothing above imports numpy or JAX, which read this when they are imported.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    " --xla_cpu_multi_thread_eigen=false",
)
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(tmp_path_factory: pytest.TempPathFactory):
    """Commands keep compiled programs in a folder of the tests, which all their processes share."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with empty figures: drawing is more than half of what a small run takes, and tests of their own
    look at it."""
    monkeypatch.setattr(draw, "_draw", lambda task: draw.Drawn("<svg></svg>", b"%PDF" * task.pdf))
