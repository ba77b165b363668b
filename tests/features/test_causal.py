"""Causal check: results equal those of plain hooks, controls are matched, errors name the value."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.errors import AlignmentError, PatchError
from hooked_whisper.features import Centroids, axes, random_orthonormal
from hooked_whisper.features.causal import CausalEffect, causal_effects
from hooked_whisper.interventions import ablate
from hooked_whisper.interventions.forced_text import token_logprobs
from hooked_whisper.interventions.steer import random_control, steer
from hooked_whisper.protocols import Alignment, Interval
from tests.core.twins import listeners
from tests.findings.worlds import small_model

POST, RESID = "encoder.blocks.0.mlp.hook_post", "encoder.blocks.1.hook_resid_post"


def spoken(name: str, words: dict[str, str]) -> Alignment:
    """Words of one-letter phones, 0.4 s each, in a clip of 1.2 s."""
    spans, phones = [], []
    for k, (word, letters) in enumerate(words.items()):
        start = 0.4 * k
        spans.append(Interval(start, start + 0.4, word))
        step = 0.4 / len(letters)
        phones += [Interval(start + j * step, start + (j + 1) * step, p) for j, p in enumerate(letters)]
    return Alignment(name, "s", " ".join(words), 1.2, tuple(spans), tuple(phones))


CLIPS = (spoken("u", {"red": "red", "cat": "kat"}), spoken("v", {"the": "de", "key": "ki", "sea": "si"}))


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


@pytest.fixture(scope="module")
def mels() -> torch.Tensor:
    return torch.randn(2, 80, 120, generator=torch.Generator().manual_seed(0))


def slow(model: HookedWhisper, mels: torch.Tensor, hooks: list) -> list[np.ndarray]:
    """Log-probabilities of the single-token words of each clip, from a full pass with hooks."""
    ids = [[model.to_single_token(f" {w.label}") for w in a.words] for a in CLIPS]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        return token_logprobs(model, model.embed_audio(mels), model.to_tokens(""), ids)


def table(effect: CausalEffect, field: str) -> np.ndarray:
    return np.array([getattr(w, field) for w in effect.words])


def test_setting_zero_equals_zero_ablation(model: HookedWhisper, mels: torch.Tensor) -> None:
    effects = causal_effects(model, mels, CLIPS, POST, axes(64), {5: "k", 9: "d"})
    assert [(e.unit, e.phone, e.label) for e in effects] == [(5, "k", "5"), (9, "d", "9")]
    # clips of 1.2 s fill the 60 positions of this model's window
    for effect in effects:
        hooks = ablate(model, POST, units=[effect.unit])
        np.testing.assert_allclose(table(effect, "before"), np.concatenate(slow(model, mels, [])), atol=1e-4)
        np.testing.assert_allclose(table(effect, "after"), np.concatenate(slow(model, mels, hooks)), atol=1e-4)
    assert table(effects[0], "has_phone").tolist() == [False, True, False, True, False]
    assert table(effects[1], "has_phone").tolist() == [True, False, True, False, False]
    assert not listeners(model)


def test_means_are_over_words_with_and_without(model: HookedWhisper, mels: torch.Tensor) -> None:
    (effect,) = causal_effects(model, mels, CLIPS, POST, axes(64), {5: "k"}, to=3.0)
    change, has = table(effect, "change"), table(effect, "has_phone")
    assert effect.with_phone.value == pytest.approx(change[has].mean())
    assert effect.without_phone.value == pytest.approx(change[~has].mean())
    assert effect.difference.value == pytest.approx(change[has].mean() - change[~has].mean())
    control = table(effect, "control_change")
    expected = effect.difference.value - (control[has].mean() - control[~has].mean())
    assert effect.beyond_control.value == pytest.approx(expected)
    assert effect.difference.low <= effect.difference.high and len(effect.to_rows()) == 5


def test_the_control_is_a_random_direction_of_the_same_size(model: HookedWhisper, mels: torch.Tensor) -> None:
    """At a residual direction moved by a constant, the control is steering along the random direction."""
    basis = random_orthonormal(32, 3, seed=1)
    _, cache = model.run_with_cache(mels, names_filter=RESID, stop_early=True)
    features = basis.encode(cache[RESID])[..., 2]
    (effect,) = causal_effects(model, mels, CLIPS, RESID, basis, {2: "a"}, to=4.0, seed=7)
    other = random_control(basis.directions[2], 7)
    assert other.norm() == pytest.approx(1, abs=1e-5)
    after = []
    for k in range(2):
        vector = (4.0 - features[k])[:, None] * other  # one vector per position
        after.append(slow(model, mels[[k, k]], steer(model, RESID, vector))[k])
    np.testing.assert_allclose(table(effect, "control"), np.concatenate(after), atol=1e-4)
    assert effect.norm == pytest.approx(float((4.0 - features).abs().mean()), rel=1e-4)


def test_where_phone_changes_only_its_positions(model: HookedWhisper, mels: torch.Tensor) -> None:
    (effect,) = causal_effects(model, mels, CLIPS, POST, axes(64), {5: "t"}, to=2.0, where="phone")
    span = model.time.span(CLIPS[0].phones[-1].start, CLIPS[0].phones[-1].end, rounding="outer")
    _, cache = model.run_with_cache(mels, names_filter=POST, stop_early=True)
    expected = (2.0 - cache[POST][0, span, 5]).abs().mean()
    assert effect.norm == pytest.approx(float(expected), rel=1e-4)
    assert table(effect, "change")[2:] == pytest.approx(0, abs=1e-5)  # the second clip has no such phone


def test_setting_the_same_value_changes_nothing(model: HookedWhisper, mels: torch.Tensor) -> None:
    dead = small_model(0)
    with torch.no_grad():
        dead.encoder.blocks[0].mlp.down.weight[:, 5] = 0
    (effect,) = causal_effects(dead, mels, CLIPS, POST, axes(64), {5: "k"}, to=9.0)
    assert table(effect, "change") == pytest.approx(0, abs=1e-5) and effect.norm > 0


def test_errors(model: HookedWhisper, mels: torch.Tensor) -> None:
    with pytest.raises(PatchError, match="not one point of the encoder"):
        causal_effects(model, mels, CLIPS, "decoder.blocks.0.mlp.hook_post", axes(64), {0: "k"})
    with pytest.raises(PatchError, match="expected 0 to 63"):
        causal_effects(model, mels, CLIPS, POST, axes(64), {64: "k"})
    with pytest.raises(PatchError, match="no `directions`"):
        causal_effects(model, mels, CLIPS, POST, Centroids(torch.zeros(2, 64), ("a", "b")), {0: "k"})
    with pytest.raises(AlignmentError, match="one for each"):
        causal_effects(model, mels, CLIPS[:1], POST, axes(64), {0: "k"})
    with pytest.raises(AlignmentError, match="no clip has"):
        causal_effects(model, mels[:1], [Alignment("u", "s", "red", 1.0)], POST, axes(64), {0: "k"})
