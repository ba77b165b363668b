"""Configuration fields that every architecture has."""

from __future__ import annotations

from dataclasses import dataclass

from hooked_whisper.errors import ConfigError


@dataclass(frozen=True)
class SAEConfig:
    """Fields that every architecture has.

    d_in: width of the activations. d_sae: number of features.
    apply_b_dec_to_input: the encoder sees ``x - b_dec``, as in most papers.
    """

    d_in: int
    d_sae: int
    apply_b_dec_to_input: bool = True

    def __post_init__(self) -> None:
        check_size(self, "d_in")
        check_size(self, "d_sae")


def check_size(config: SAEConfig, name: str) -> None:
    """
    Raises:
        ConfigError: the field is not an integer of at least 1.
    """
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{type(config).__name__}: {name} must be a positive integer, got {value!r}")
