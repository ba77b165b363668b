"""F9 on real vocabularies: decoders that know English bigrams, word frequencies, or nothing."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from hooked_whisper.findings.english import English, load_english
from hooked_whisper.findings.english import bigrams as english_bigrams
from hooked_whisper.findings.english.bigrams import OWN, PARTIAL, TOP, Followers, make_task, other_prompts
from hooked_whisper.findings.registry import REGISTRY
from tests.findings.worlds import small_context


@pytest.fixture(autouse=True)
def fewer(monkeypatch) -> None:
    for name, value in (("PROMPTS", 80), ("DRAWS", 100), ("SHUFFLES", 3), ("KINDS", ("zero audio",))):
        monkeypatch.setattr(english_bigrams, name, value)
    monkeypatch.setattr(english_bigrams, "load_english", frequent)


@lru_cache(maxsize=1)
def frequent() -> English:
    """The 4,000 most frequent words of the packaged list."""
    english = load_english()
    rows = np.sort(np.argsort(-english.counts)[:4000])
    words, phones = (tuple(names[i] for i in rows) for names in (english.words, english.phones))
    return English(words, english.counts[rows], phones, english.bigrams[rows][:, rows])


def _context(table: np.ndarray, **more):
    """Return a context without truth, whose model predicts the row of logits of each word of the list."""
    context = small_context(truth=False, **more)
    ids = torch.from_numpy(frequent().token_ids(context.model))
    row_of = {int(token): i for i, token in enumerate(ids)}
    last: dict[str, torch.Tensor] = {}

    def answer(x: torch.Tensor, hook) -> torch.Tensor:
        out = torch.full_like(x, -30.0)
        for row, token in enumerate(last["tokens"]):
            if int(token) in row_of:
                out[row, -1, ids] = torch.from_numpy(table[row_of[int(token)]]).to(x)
        return out

    context.model.add_hook("decoder.hook_tokens", lambda x: last.update(tokens=x[:, -1].clone()))
    context.model.add_hook("unembed.hook_out", answer)
    return context


def test_a_decoder_that_knows_bigrams_reproduces_the_finding() -> None:
    english = frequent()
    finding = REGISTRY["F9"].run(_context(np.log(english.bigrams.toarray() + 1e-3)))
    assert finding.status == "reproduced", finding.status_reason
    assert [criterion.name for criterion in finding.criteria] == [PARTIAL, OWN, TOP]
    assert finding.statistic.estimate.value == pytest.approx(1) and finding.criteria[2].estimate.value == 1
    controls = {control.name: control.values for control in finding.controls}
    assert abs(controls["another prompt"][PARTIAL].value) < 0.1
    assert controls["word frequencies"][TOP].value < 0.2
    assert "grammar" not in finding.protocol + " ".join(finding.notes)
    assert finding.parameters["prompts"] == 80
    assert any(table.title == "After '␣very': logit minus mean over prompts" for table in finding.tables)
    assert finding.published and len(finding.draw()) == 3


def test_decoder_that_knows_only_frequencies_does_not_reproduce_it() -> None:
    english = frequent()
    finding = REGISTRY["F9"].run(_context(np.tile(np.log(english.counts), (len(english.words), 1))))
    assert finding.status == "not reproduced"
    assert abs(finding.criteria[0].estimate.value or 0.0) < 0.05  # nothing is left once frequency is taken out


def test_published_lists_are_judged_for_tiny_only() -> None:
    context = small_context(truth=False)
    assert len(REGISTRY["F9"].run(context).criteria) == 3
    object.__setattr__(context.model.cfg, "name", "tiny")
    finding = REGISTRY["F9"].run(context)
    assert len(finding.criteria) == 7 and finding.status == "not reproduced"
    assert "untrained model, published lists" in [control.name for control in finding.controls]


def test_prompts_have_followers_that_do_not_follow_everything() -> None:
    task = make_task(load_english(), 150)
    assert len(task.prompts) == 150
    assert task.common[[task.words.index(word) for word in ("and", "of", "the")]].all()
    assert (task.attested[:, ~task.common].sum(axis=1) >= 20).all()
    assert task.attested[:, ~task.common].mean(axis=0).max() < 0.2


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 40))
def test_partial_correlation_is_that_of_residuals(seed: int, n: int) -> None:
    x, y, z = np.random.default_rng(seed).standard_normal((3, n))
    ranks = [rankdata(v) - (n + 1) / 2 for v in (x, y, z)]
    residuals = [r - ranks[2] * (r @ ranks[2]) / (ranks[2] @ ranks[2]) for r in ranks[:2]]
    expected = np.corrcoef(*residuals)[0, 1] if min(np.abs(r).max() for r in residuals) > 1e-6 else np.nan
    assert Followers.of(np.arange(n), y, z).partial(x) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@given(st.integers(2, 50), st.integers(0, 1000))
def test_other_prompts_are_never_the_same_prompt(n: int, seed: int) -> None:
    other = other_prompts(n, np.random.default_rng(seed))
    assert sorted(other) == list(range(n)) and (other != np.arange(n)).all()
