"""What the tests' own checks of types refuse, and what they leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from hooked_whisper.config import EncoderConfig
from hooked_whisper.text import word_error
from tests.type_checks import checked


@checked
def add(x: Float[Tensor, "row column"], y: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    return x + y


@checked
def count(n: int) -> int:
    return n if n else "none"  # type: ignore[return-value]


@checked
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@checked
@dataclass(frozen=True)
class Point:
    values: Float[Tensor, "axis"]
    name: str = ""


class Holder:
    @checked
    @property
    def wrong(self) -> int:
        return "text"  # type: ignore[return-value]

    @checked
    @staticmethod
    def twice(n: int) -> int:
        return 2 * n


def test_shapes_must_agree() -> None:
    assert add(torch.ones(2, 3), torch.ones(2, 3)).shape == (2, 3)
    with pytest.raises(TypeCheckError):
        add(torch.ones(2, 3), torch.ones(3, 2))


def test_arguments_and_results_have_their_types() -> None:
    assert count(3) == 3 and list(numbers(2)) == [0, 1] and Holder.twice(2) == 4
    for wrong in (lambda: count("3"), lambda: count(0), lambda: list(numbers("2")), lambda: Holder().wrong):  # type: ignore[arg-type]
        with pytest.raises(TypeCheckError):
            wrong()


def test_fields_have_their_types() -> None:
    assert Point(torch.ones(3), "p").name == "p"
    for fields in ((torch.ones(3, 3),), (torch.ones(3), 1)):
        with pytest.raises(TypeCheckError):
            Point(*fields)


def test_the_packages_are_checked() -> None:
    with pytest.raises(TypeCheckError):
        EncoderConfig(n_mels="80", n_ctx=4, d_model=4, n_heads=1, n_layers=1, d_mlp=4)  # type: ignore[arg-type]
    with pytest.raises(TypeCheckError):
        word_error(1, 2)  # type: ignore[arg-type]


def test_without_checks_anything_is_accepted(unchecked: None) -> None:
    assert count("3") == "3"  # type: ignore[arg-type]
    assert add(torch.ones(2, 1), torch.ones(1, 2)).shape == (2, 2)
