"""Results show themselves: text of one screen, escaped HTML, tables and figures in both libraries."""

from __future__ import annotations

import builtins
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hooked_whisper._support.heatmap import bar_chart, heat_map, line_chart
from hooked_whisper._support.renamed import RenamedWarning
from hooked_whisper._support.showing import MOST_ROWS, Showing, Summary, Tabular, spread
from hooked_whisper.analysis import (
    attribution_names,
    bigrams,
    boundary_f1,
    direct_logit_attribution,
    encoder_measures,
    logit_lens,
    nearest_tokens,
)
from hooked_whisper.errors import ArgumentError, MissingExtraError, PatchError, PromptError
from hooked_whisper.findings.core.records import BOUNDS, Axis, Measurement, Table
from hooked_whisper.patching import LogitDifference, WordLogProb
from tests.findings.worlds import small_model

N_LINES, N_COLUMNS = 40, 125  # one screen


def fits(result: object) -> None:
    """Text of one screen; HTML with the same title, and no markup from the data."""
    lines = repr(result).splitlines()
    assert len(lines) <= N_LINES and max(map(len, lines)) <= N_COLUMNS
    assert "<script" not in result._repr_html_()  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False, repr=False)
class Example(Tabular):
    name: str
    values: torch.Tensor
    entries: tuple[str, ...]
    by_name: dict[str, np.ndarray]

    def to_rows(self) -> list[dict]:
        return [{"name": self.name, "n": len(self.entries)}]


def test_fields_are_described_by_shape_and_first_entries() -> None:
    result = Example("<script>", torch.arange(3e5).view(3, -1), tuple("abcdefg"), {"x": np.zeros((2, 0))})
    fits(result)
    text = repr(result)
    assert "[3, 100000] float32, 0 to 3e+05" in text and "7 entries: 'a'" in text and "[2, 0]" in text
    assert "&lt;script&gt;" in result._repr_html_()


def test_long_tables_are_cut_and_columns_share_their_decimals() -> None:
    rows = tuple((f"row {k}", k / 7) for k in range(100))
    text = Summary("Many", (), ("name", "value"), rows).text()
    assert f"... {100 - MOST_ROWS} more of 100 rows" in text
    ends = {line.index(".") for line in text.splitlines()[2:-1]}
    assert len(ends) == 1
    assert spread(1000, 5) == [0, 250, 500, 749, 999] and spread(3, 5) == [0, 1, 2]
    assert "-" in Summary("x", (), ("a", "b"), (("n", None), ("m", float("nan")))).text()


def test_a_class_that_is_no_dataclass_must_say_what_it_shows() -> None:
    class Bare(Showing):
        pass

    with pytest.raises(NotImplementedError, match=r"summary\(\)"):
        repr(Bare())


def test_pandas_is_optional(monkeypatch) -> None:
    result = Example("x", torch.zeros(1), (), {})
    pandas = pytest.importorskip("pandas")
    assert result.to_pandas().equals(pandas.DataFrame([{"name": "x", "n": 0}]))
    real = builtins.__import__

    def without_pandas(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(MissingExtraError, match=r"hooked-whisper\[tables\]"):
        result.to_pandas()


def test_one_outlier_does_not_flatten_the_colors_and_the_bar_says_so() -> None:
    values = np.linspace(-5, 0, 200).reshape(10, 20)
    values[0, 0] = -97
    labels = {"title": "t", "x": "x", "y": "y", "unit": "nats"}
    whole, clipped = (heat_map(values, clip=clip, **labels) for clip in (100, 99))
    assert whole.axes[0].images[0].get_clim() == (-97, 0)
    low, high = clipped.axes[0].images[0].get_clim()
    assert low > -6 and high <= 0
    assert "clipped at percentiles 1 and 99" in clipped.axes[1].get_ylabel()
    assert "clipped" not in whole.axes[1].get_ylabel()
    spread_values = np.zeros((4, 4))
    spread_values[0, 0] = 3.0
    diverging = heat_map(spread_values, scale="diverging", clip=50, **labels)
    assert diverging.axes[0].images[0].get_clim() == (-3, 3)


def test_an_unknown_backend_is_refused_and_plotly_is_loud_if_missing(monkeypatch, unchecked) -> None:
    draw = {"title": "t", "unit": "u"}
    with pytest.raises(ArgumentError, match="did you mean 'plotly'"):
        bar_chart(["a"], np.ones(1), backend="plotley", **draw)
    real = builtins.__import__

    def without_plotly(name, *args, **kwargs):
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_plotly)
    with pytest.raises(MissingExtraError, match="needs plotly"):
        bar_chart(["a"], np.ones(1), backend="plotly", **draw)


def test_plotly_keeps_tokens_that_occur_twice() -> None:
    pytest.importorskip("plotly")
    figure = heat_map(
        np.eye(3),
        title="t",
        x="token",
        y="row",
        unit="u",
        rows=["a", "b", "c"],
        columns=["the", "cat", "the"],
        backend="plotly",
    )
    assert list(figure.layout.xaxis.ticktext) == ["the", "cat", "the"] and figure.data[0].z.shape == (3, 3)
    assert len(line_chart({"a": ([1, 2], [3, 4])}, title="t", x="x", y="y", backend="plotly").data) == 1


def test_lens_and_attribution_fit_on_a_screen_and_take_words() -> None:
    model = small_model(3)
    tokens = model.to_tokens(" the cat sat on the mat")
    mel = torch.randn(1, 80, 120, generator=torch.Generator().manual_seed(0))
    encoded = model.embed_audio(mel).detach()
    lens = logit_lens(model, tokens, encoded, targets=" cat")
    by_id = logit_lens(model, tokens, encoded, targets=model.to_single_token(" cat"))
    torch.testing.assert_close(lens.log_prob, by_id.log_prob)
    fits(lens)
    rows = lens.to_rows()
    assert len(rows) == lens.log_prob.numel() and rows[0]["target"] == " cat" and rows[1]["index"] == 1
    assert rows[-1]["log_prob"] == pytest.approx(float(lens.log_prob[-1, -1, -1]))
    axes = lens.plot().axes[0]
    assert axes.get_xlabel() == "after token" and "␣cat" in [label.get_text() for label in axes.get_xticklabels()]
    _, cache = model.run_with_cache(mel, tokens, names_filter=attribution_names("head"))
    attribution = direct_logit_attribution(cache, " cat", " mat", parts="head")
    fits(attribution)
    assert attribution.target == "logit of '␣cat' minus logit of '␣mat'" and attribution.tokens[0][-1] == " mat"
    assert len(attribution.to_rows()) == attribution.values.numel()
    labels = [label.get_text() for label in attribution.plot().axes[0].get_xticklabels()]
    assert "␣sat" in labels and not any(label.isdigit() for label in labels)
    with pytest.raises(PromptError, match="tokens, not one"):
        direct_logit_attribution(cache, " mechanical engineering")


def test_bigrams_are_words_with_probabilities() -> None:
    model = small_model(3)
    after = bigrams(model, " cat", 5)
    assert len(after) == 5 and after == bigrams(model, model.to_single_token(" cat"), 5)
    assert list(after.to_rows()[0]) == ["rank", "token", "id", "probability"]
    values = [token.value for token in after]
    assert values == sorted(values, reverse=True) and 0 < sum(values) < 1
    assert max(after.ids) < model.tokenizer.eot
    everything = bigrams(model, " cat", model.cfg.decoder.n_vocab, text_only=False)
    assert sum(token.value for token in everything) == pytest.approx(1, abs=1e-4)
    encoded = torch.zeros(1, model.cfg.encoder.n_ctx, model.cfg.encoder.d_model)
    assert (
        bigrams(model, " cat", 5, encoder_out=encoded).ids != ()
        and "given" in bigrams(model, " cat", 5, encoder_out=encoded).title
    )
    fits(after)
    assert after[:2].texts == after.texts[:2] and after.plot().axes[0].get_xlabel() == "probability"
    with pytest.raises(PromptError, match="tokens, not one"):
        bigrams(model, " mechanical engineering")
    with pytest.raises(PromptError, match="outside the vocabulary"):
        bigrams(model, 10**6)
    with pytest.raises(PatchError, match="zero audio"):
        bigrams(model, " cat", baseline="zero sound")
    with pytest.raises(ArgumentError, match="whole number from 1"):
        bigrams(model, " cat", 0)


def test_neighbors_take_words_and_a_checked_option(unchecked) -> None:
    model = small_model(3)
    raw, centered = (nearest_tokens(model, " cat", 4, embeddings=kind) for kind in ("raw", "centered"))
    assert "centered" in centered.title and raw.unit == "cosine" and len(centered) == 4
    fits(raw)
    with pytest.raises(ArgumentError, match="did you mean 'centered'"):
        nearest_tokens(model, " cat", embeddings="centred")  # type: ignore[arg-type]


def test_metrics_say_how_to_use_words(unchecked) -> None:
    model = small_model(3)
    metric = WordLogProb.of(model, " cat sat", 4)
    assert metric.word == tuple(model.to_tokens(" cat sat", prompt=False)[0].tolist())
    with pytest.raises(PatchError, match=r"LogitDifference\.of"):
        LogitDifference(" cat", " mat", 3)  # type: ignore[arg-type]
    with pytest.raises(PatchError, match=r"WordLogProb\.of"):
        WordLogProb(" cat", 3)  # type: ignore[arg-type]


def test_measurements_and_tables_of_findings() -> None:
    layers, words = Axis("layer", (0, 1, 2)), Axis("word", ("a", "b"))
    values = np.arange(18.0).reshape(3, 2, 3)
    measured = Measurement("score", (layers, words, BOUNDS), values, "nats")
    fits(measured)
    assert len(measured.to_rows()) == 18 and measured.to_rows()[4] == {
        "layer": 0,
        "word": "b",
        "bound": "low",
        "score": 4,
    }
    drawn = measured.plot().axes[0]
    np.testing.assert_array_equal(drawn.images[0].get_array(), values[..., 0])
    assert drawn.get_xlabel() == "word" and drawn.get_ylabel() == "layer"
    line = Measurement("score", (layers,), np.arange(3.0)).plot().axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), [0, 1, 2])
    assert (
        Measurement("score", (words,), np.arange(2.0)).plot().axes and Measurement("one", (), np.array(1.0)).plot().axes
    )
    table = Table("t", "ours", ("a", "b"), (("1", "<b>"),))
    assert table.to_rows() == [{"a": "1", "b": "<b>"}] and "&lt;b&gt;" in table._repr_html_()


def test_names_of_0_1_warn() -> None:
    model = small_model(3)
    with pytest.warns(RenamedWarning, match="now called 'embeddings'|embeddings"):
        old = nearest_tokens(model, " cat", 3, centered=True)
    assert old == nearest_tokens(model, " cat", 3, embeddings="centered")
    with pytest.warns(RenamedWarning, match="predicted"):
        score = boundary_f1(found=[0.1, 0.2], truth=[0.1], tolerance_s=0.02)
    assert (score.hits, score.predicted, score.truth) == (1, 2, 1) and "1 hit," in repr(score)
    measures = encoder_measures(torch.eye(4)[None], 3, torch.zeros(3, 4, dtype=torch.bool))
    with pytest.warns(RenamedWarning, match="own_word"):
        old_name = encoder_measures(torch.eye(4)[None], 3, own=torch.zeros(3, 4, dtype=torch.bool))
    assert old_name.keys() == measures.keys()
