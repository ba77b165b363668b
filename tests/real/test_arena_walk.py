"""The walk of ``tests/core/test_arena_walk.py`` on tiny.en and real speech."""

from __future__ import annotations

import pytest

from tests.core.test_arena_walk import *  # noqa: F403
from tests.core.test_arena_walk import Walk
from tests.real.conftest import Clip, RealTwins, mels

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def walk(english_only: RealTwins, clips: list[Clip]) -> Walk:
    return Walk(english_only.ours, mels(clips[:1]), " The cat sat on the", " The cat sat in the", " mat", " dog")
