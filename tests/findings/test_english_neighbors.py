"""F10 on real vocabularies: embeddings that cluster by sound and use, or at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.findings.english import load_english, one_syllable_rime
from hooked_whisper.findings.english import neighbors as english_neighbors
from hooked_whisper.findings.english.neighbors import P_SOUND, P_USE, SOUND, UNSPELLED, USE
from hooked_whisper.findings.english.word_pairs import PairContrast, make_words
from hooked_whisper.findings.registry import REGISTRY
from tests.findings.worlds import small_context


@pytest.fixture(autouse=True)
def fewer(monkeypatch) -> None:
    for name, value in (("N_WORDS", 800), ("SAMPLED_PAIRS", 40_000), ("PERMUTATIONS", 120), ("DRAWS", 40)):
        monkeypatch.setattr(english_neighbors, name, value)


@pytest.fixture(scope="module")
def words():
    return make_words(load_english(), 800)


def _spelled(words, pairs) -> set[str]:
    return {f"{words.words[a]}-{words.words[b]}" for a, b in pairs}


def test_embeddings_of_sound_and_use_reproduce_the_finding(words) -> None:
    context = small_context(truth=False)
    rng = np.random.default_rng(0)
    rimes = {rime: rng.standard_normal(32) for rime in {one_syllable_rime(p) for p in words.phones} - {None}}
    sound = [np.sum([rng_of(phone) for phone in phones], axis=0) for phones in words.phones]
    sound = np.array(sound) / np.linalg.norm(sound, axis=1, keepdims=True)
    family = np.array([rimes.get(one_syllable_rime(p), np.zeros(32)) for p in words.phones]) / 4
    values, vectors = np.linalg.eigh(words.use)
    use = vectors[:, -32:] * np.sqrt(np.maximum(values[-32:], 0))
    tokens = load_english().token_ids(context.model)[words.rows]
    with torch.no_grad():
        context.model.decoder.token_embedding.weight[torch.from_numpy(tokens)] = torch.from_numpy(
            sound + family + 2 * use
        ).float()
    finding = REGISTRY["F10"].run(context)
    estimates = {criterion.name: criterion.estimate.value for criterion in finding.criteria}
    assert estimates[SOUND] > 0.64 and estimates[UNSPELLED] > 0.56 and estimates[USE] > 0.64
    assert estimates[P_SOUND] <= 0.01 and estimates[P_USE] <= 0.01
    controls = {control.name: control.values for control in finding.controls}
    assert abs(controls["shuffled words"][SOUND].value - 0.5) < 0.05
    assert abs(controls["untrained model"][SOUND].value - 0.5) < 0.1
    assert "grammar" not in finding.protocol + " ".join(finding.notes)
    assert len(finding.draw()) == 3 and finding.published


def rng_of(phone: str) -> np.ndarray:
    return np.random.default_rng(list(phone.encode())).standard_normal(32)


def test_random_embeddings_do_not_reproduce_it_and_published_lists_are_judged_for_tiny_only() -> None:
    context = small_context(truth=False)
    finding = REGISTRY["F10"].run(context)
    assert finding.status == "not reproduced" and len(finding.criteria) == 5
    object.__setattr__(context.model.cfg, "name", "tiny")
    assert len(REGISTRY["F10"].run(context).criteria) == 7


def test_kinds_of_word_pairs(words) -> None:
    alike = _spelled(words, words.sound_alike)
    assert {"buy-my", "do-to"} & alike or {"high-why", "me-see"} & alike
    assert "book-books" not in alike and "need-needs" not in alike
    apart = _spelled(words, words.rhymes_spelled_differently)
    assert apart <= _spelled(words, words.rhymes) <= alike
    assert not _spelled(words, words.eye_rhymes) & _spelled(words, words.rhymes)
    assert not _spelled(words, words.used_alike) & alike
    assert (words.sound_alike[:, 0] < words.sound_alike[:, 1]).all()


def test_matched_pairs_are_as_long_and_about_as_frequent(words) -> None:
    pairs = words.sound_alike
    matched = words.matched(pairs, np.random.default_rng(0))
    assert not {*map(tuple, pairs.tolist())} & {*map(tuple, matched.tolist())}
    lengths = np.array([len(phones) for phones in words.phones])
    assert abs(lengths[pairs].mean() - lengths[matched].mean()) < 0.1
    assert abs(words.log_frequency[pairs].mean() - words.log_frequency[matched].mean()) < 0.1


def test_the_bootstrap_is_around_the_auc(words) -> None:
    rng = np.random.default_rng(0)
    cosine = rng.standard_normal((len(words.words),) * 2)
    cosine[tuple(words.sound_alike.T)] += 1
    comparison = PairContrast(words.sound_alike, words.matched(words.sound_alike, rng))
    samples = comparison.auc_samples(cosine, rng, 200)
    assert samples.mean() == pytest.approx(comparison.auc(cosine), abs=0.01) and 0 < samples.std() < 0.05
    assert comparison.auc(cosine) == pytest.approx(0.76, abs=0.03)
