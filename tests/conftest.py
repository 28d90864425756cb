"""What several files of tests share."""

from __future__ import annotations

import pytest

from bench.page import draw


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with empty figures: drawing is more than half of what a small run takes, and tests of their own
    look at it."""
    monkeypatch.setattr(draw, "_draw", lambda task: draw.Drawn("<svg></svg>", b"%PDF" * task.pdf))
