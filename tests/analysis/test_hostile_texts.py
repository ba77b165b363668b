"""Words and tokens with dollar signs, tags and control characters are shown as they are, in text and in figures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper._support.heatmap import heat_map
from hooked_whisper.analysis import nearest_tokens
from hooked_whisper.analysis.token_lists import RankedToken, TokenList
from hooked_whisper.errors import PromptError
from hooked_whisper.interventions.change_figures import draw_word_changes
from hooked_whisper.interventions.transcript_changes import WordChange

TEXTS = ("$a_$", "$$", "<b>bold</b>", "<|endoftext|>", "\r\x1b[31m", "\\$5")


def tokens(*values: float) -> TokenList:
    ranked = tuple(RankedToken(k, TEXTS[k], float(value)) for k, value in enumerate(values))
    return TokenList("From $5_ to $x^ <i>", "probability", ranked)


def drawn(figure: Any) -> Any:
    figure.savefig(io.BytesIO())
    return figure.axes[0]


@pytest.mark.parametrize("values", [(1, 2, 3, 4, 5, 6), (1.0, float("nan"), float("inf")), (float("nan"),), (2.0,), ()])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_bars_of_any_tokens_and_values(values: tuple[float, ...]) -> None:
    ranked = tokens(*values)
    drawn(ranked.plot())
    assert len(ranked.to_pandas()) == len(values) and "\x1b" not in repr(ranked)
    assert "<b>" not in ranked._repr_html_()


def test_plotly_shows_tags_as_text() -> None:
    pytest.importorskip("plotly")
    figure = tokens(1, 2, 3, 4).plot(backend="plotly")
    assert figure.layout.title.text == "From $5_ to $x^ &lt;i>"
    assert figure.layout.yaxis.ticktext[2:] == ("&lt;b>bold&lt;/b>", "<|endoftext|>")
    words = draw_word_changes([WordChange("kept", "<b>", "<b>", 0.0, 1.0, -1.0, -2.0)], "<b>", backend="plotly")
    assert words.layout.xaxis.ticktext == ("&lt;b>",) and words.layout.title.text == "&lt;b>"


def test_dollar_signs_are_no_formula() -> None:
    words = [WordChange("kept", text, text, 0.0, 1.0, -1.0, -2.0) for text in TEXTS[:2]]
    drawn(draw_word_changes(words, "$a_$"))
    texts = [[TEXTS[0], TEXTS[1]]]
    drawn(heat_map(np.ones((1, 2)), title="$a_$", x="x", y="y", unit="u", rows=["$$"], columns=TEXTS[:2], texts=texts))


def test_candidates_outside_the_vocabulary_are_refused() -> None:
    model = HookedWhisper.from_pretrained("demo", device="cpu")
    for candidates in ([5, 10**6], [-1, 5]):
        with pytest.raises(PromptError, match="outside the vocabulary"):
            nearest_tokens(model, 5, among=torch.tensor(candidates))
    with pytest.raises(PromptError, match="not True"):
        nearest_tokens(model, True)
