"""The small model and pair of runs of the patching tests."""

from tests.patching.conftest import N_POSITIONS, model, pair

__all__ = ["N_POSITIONS", "model", "pair"]
