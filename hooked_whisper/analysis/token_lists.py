"""Lists of tokens ranked by a number: a table, a figure and a pandas table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import bar_chart
from hooked_whisper._support.indices import is_integer
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.showing import Summary, Tabular, visible
from hooked_whisper.errors import ArgumentError
from hooked_whisper.hooked import HookedWhisper


@dataclass(frozen=True)
class RankedToken:
    """One entry of a ranking. ``text`` shows leading and trailing spaces as ``␣``."""

    id: int
    text: str
    value: float


@dataclass(frozen=True, repr=False)
class TokenList(Tabular, Sequence[RankedToken]):
    """Ranked tokens, best first. It is a sequence of :class:`RankedToken`.

    title: what was ranked. unit: of the values.
    """

    title: str
    unit: str
    tokens: tuple[RankedToken, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids, best first."""
        return tuple(token.id for token in self.tokens)

    @property
    def texts(self) -> tuple[str, ...]:
        """Token texts, best first, with ``␣`` for spaces."""
        return tuple(token.text for token in self.tokens)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per token: rank (from 1), token, id, and the value under the name of its unit."""
        return [
            {"rank": k, "token": token.text, "id": token.id, self.unit: token.value}
            for k, token in enumerate(self.tokens, 1)
        ]

    def plot(self, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the values as bars, the best on top. ``backend="plotly"`` returns a plotly figure."""
        return bar_chart(
            [token.text.replace("\n", "\\n") for token in self.tokens],
            np.array([token.value for token in self.tokens], dtype=float),
            title=title or self.title,
            unit=self.unit,
            facecolor="white",
            backend=backend,
        )

    def summary(self) -> Summary:
        rows = tuple((token.text, token.value, token.id) for token in self.tokens)
        return Summary(self.title, (), ("token", self.unit, "id"), rows)

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> RankedToken: ...
    @overload
    def __getitem__(self, index: slice) -> TokenList: ...
    def __getitem__(self, index: int | slice) -> RankedToken | TokenList:
        if isinstance(index, slice):
            return TokenList(self.title, self.unit, self.tokens[index])
        return self.tokens[index]

    def __iter__(self) -> Iterator[RankedToken]:
        return iter(self.tokens)


def text_tokens(model: HookedWhisper) -> Int[Tensor, "text"]:
    """Return the ids of text tokens: neither special tokens nor timestamps."""
    return torch.arange(model.tokenizer.eot)


def top_tokens(
    model: HookedWhisper,
    values: Float[Tensor, "vocab"],
    n: int = 20,
    text_only: bool = True,
    *,
    title: str = "Tokens with the largest values",
    unit: str = "value",
) -> TokenList:
    """Return the ``n`` tokens with the largest values. ``text_only=False`` includes special tokens and timestamps.

    After a prefix without ``<|notimestamps|>``, nearly all likely tokens of Whisper are timestamps.
    """
    candidates = values[: model.tokenizer.eot] if text_only else values
    top = candidates.topk(min(check_count(n), len(candidates)))
    return ranked_list(model, top.indices, top.values, title, unit)


def ranked_list(
    model: HookedWhisper, ids: Int[Tensor, "n"], values: Float[Tensor, "n"], title: str, unit: str
) -> TokenList:
    """Return token ids and values, already in order, as a list with texts."""
    numbers = [int(i) for i in ids]
    texts = model.to_str_tokens(numbers) if numbers else []
    pairs = zip(numbers, texts, values.tolist(), strict=True)
    return TokenList(title, unit, tuple(RankedToken(i, visible(text), float(value)) for i, text, value in pairs))


def check_count(n: int) -> int:
    """Return ``n`` if it is a whole number of tokens from 1.

    Raises:
        ArgumentError: it is not.
    """
    if not is_integer(n) or n < 1:
        raise ArgumentError(f"n={n!r:.80}: give the number of tokens to list, a whole number from 1")
    return int(n)
