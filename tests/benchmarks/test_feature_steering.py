"""Steering of features: edits equal those of an attached SAE, controls have the same norm, words and foils fit the
dictionary, and the verdict needs whole intervals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from whisper.tokenizer import get_tokenizer

from benchmarks.feature_steering.cases import CONSONANTS, Case, Neighbors, cases_of_clip
from benchmarks.feature_steering.edits import CONTROLS, EDITS, GROUP, PUSH, changes, similar_latents
from benchmarks.feature_steering.estimates import MEASURES, estimate, summarize
from benchmarks.feature_steering.outcomes import fate
from benchmarks.feature_steering.phone_latents import NAMES, PhoneLatents
from hooked_whisper import HookedWhisper
from hooked_whisper.interventions import clean_transcripts
from hooked_whisper.interventions.forced_text import Times
from hooked_whisper.protocols import Alignment, Interval
from sae_lens_audio import TopK, TopKConfig, ablate_latents, clamp_latents

HOOK = "encoder.blocks.2"
CASE = Case("clip", "speaker", "seat", "sheet", "S", "SH", 1, 1, 0, start=20, stop=30, away=60)


@pytest.fixture(scope="module")
def demo() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo")


@pytest.fixture(scope="module")
def resid(demo: HookedWhisper) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(demo.cfg.encoder.n_ctx, demo.cfg.encoder.d_model, generator=rng)


@pytest.fixture(scope="module")
def sae(resid: torch.Tensor) -> TopK:
    return TopK(TopKConfig(d_in=resid.shape[1], d_sae=256, k=8), seed=0).eval()


@pytest.fixture(scope="module")
def phones(sae: TopK, resid: torch.Tensor) -> PhoneLatents:
    ids = torch.arange(len(resid)) % len(NAMES)
    return PhoneLatents.of_rows(sae, resid, ids)


def test_latents_of_a_phone_are_those_that_rise_with_it(sae: TopK) -> None:
    directions = sae.W_dec.detach()
    ids = torch.arange(400) % 2  # SIL and AA
    rows = torch.where(ids[:, None] == 1, 5 * directions[3] + directions[7], directions[9])
    learned = PhoneLatents.of_rows(sae, rows, ids)
    assert int(learned.latents("AA", 1)) == 3
    assert learned.counts[:2].tolist() == [200, 200] and float(learned.means[5].abs().sum()) == 0
    assert torch.allclose(learned.overall, (learned.means[0] + learned.means[1]) / 2, atol=1e-5)
    assert torch.allclose(learned.residual_difference("SIL", "AA"), rows[1] - rows[0], atol=1e-4)
    assert float(learned.f1[1, learned.detector("AA")]) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["erase", "push"])
def test_edits_are_those_of_the_attached_sae(demo: HookedWhisper, resid: torch.Tensor, kind: str) -> None:
    sae = TopK(TopKConfig(d_in=resid.shape[1], d_sae=256, k=128), seed=0).eval()  # many latents are active everywhere
    phones = PhoneLatents.of_rows(sae, resid, torch.arange(len(resid)) % len(NAMES))
    old, new = phones.latents("S", GROUP), phones.latents("SH", GROUP)
    positions = (CASE.start, CASE.stop)
    hooks = ablate_latents(HOOK, old.tolist(), positions=positions)
    if kind == "push":
        hooks = hooks + clamp_latents(HOOK, new.tolist(), (PUSH * phones.typical("SH", new)).tolist(), positions)
    mel = torch.randn(1, demo.cfg.encoder.n_mels, demo.cfg.encoder.n_frames, generator=torch.Generator().manual_seed(1))
    outputs: list[torch.Tensor] = []
    capture = [("encoder.blocks.3.hook_resid_pre", lambda x, hook: outputs.append(x[0].clone()))]
    with torch.no_grad(), demo.attach_sae(sae, HOOK, use_error_term=True):
        for edit in ([], hooks):
            with demo.hooks(fwd_hooks=[*edit, *capture]):
                demo.embed_audio(mel)
    clean, edited = outputs
    change = changes(CASE, sae, phones, clean)[kind]  # type: ignore[index]
    assert float(change.norm()) > 0
    torch.testing.assert_close(edited, clean + change, atol=1e-3, rtol=1e-4)


def test_controls_have_the_norm_of_the_edit_and_only_its_positions(
    sae: TopK, phones: PhoneLatents, resid: torch.Tensor
) -> None:
    edits = changes(CASE, sae, phones, resid)
    assert tuple(edits) == EDITS
    for kind, (random, direction, elsewhere) in CONTROLS.items():
        norm = edits[kind].norm(dim=-1)
        for control in (random, direction):
            torch.testing.assert_close(edits[control].norm(dim=-1), norm, atol=1e-4, rtol=1e-4)
        outside = torch.ones(len(resid), dtype=torch.bool)
        outside[CASE.away : CASE.away + CASE.stop - CASE.start] = False
        assert not edits[elsewhere][outside].any()
        cosine = torch.nn.functional.cosine_similarity(edits[kind][20:30], edits[random][20:30]).abs()
        assert float(cosine.max()) < 0.9
    again = changes(CASE, sae, phones, resid)
    assert all(torch.equal(edits[edit], again[edit]) for edit in EDITS)


def test_similar_latents_fire_about_as_often_and_are_others(phones: PhoneLatents) -> None:
    latents = phones.latents("S", GROUP)
    matched = similar_latents(phones, latents, torch.Generator().manual_seed(0))
    assert len(set(matched.tolist())) == GROUP and not set(matched.tolist()) & set(latents.tolist())
    spread = (phones.firing[matched] - phones.firing[latents]).abs()
    assert float(spread.max()) < float(phones.firing.max() - phones.firing.min()) / 2


@pytest.fixture(scope="module")
def english() -> HookedWhisper:
    return HookedWhisper.from_pretrained("tiny.en")


def test_foils_differ_in_one_consonant_and_are_no_homophones() -> None:
    english: Any = SimpleNamespace(tokenizer=get_tokenizer(False))
    neighbors = Neighbors(english)
    assert ("SH", "sheet") in neighbors.foils("seat", "S")
    assert ("M", "meet") in neighbors.foils("seat", "S") and ("M", "meat") in neighbors.foils("seat", "S")
    assert neighbors.foils("seat", "K") == []  # the word has no such phone
    assert neighbors.foils("sea", "S") == []  # too short
    assert all(other in CONSONANTS and other != "S" for other, _ in neighbors.foils("seat", "S"))


@pytest.mark.real
def test_cases_take_correct_words_and_a_span_without_the_phones(english: HookedWhisper) -> None:
    phones = [("DH", 0.0), ("AH", 0.1), ("S", 0.2), ("IY", 0.4), ("T", 0.6), ("W", 0.8), ("AA", 0.9), ("Z", 1.2)]
    edges = [start for _, start in phones] + [1.4]
    intervals = tuple(Interval(edges[k], edges[k + 1], label) for k, (label, _) in enumerate(phones))
    words = (Interval(0.0, 0.2, "the"), Interval(0.2, 0.8, "seat"), Interval(0.8, 1.4, "was"))
    alignment = Alignment("clip", "me", "the seat was", 1.4, words, intervals)
    ids = english.tokenizer.encode(" The seat was")
    logprobs = torch.full((len(ids), english.tokenizer.eot), -10.0)
    neighbors = Neighbors(english)
    logprobs[1, neighbors.tokens["sheet"]] = -1.0
    times: Times = [(word.start, word.end) for word in words]
    cases = cases_of_clip(english, neighbors, alignment, "The seat was", ids, times, logprobs, 9, 2)
    (case,) = [case for case in cases if case.word == "seat"]
    assert (case.word, case.foil, case.phone, case.other, case.written, case.token) == (
        "seat", "sheet", "S", "SH", 1, 1,
    )  # fmt: skip
    assert (case.start, case.stop) == (8, 22)
    assert case.away >= 40 and case.away + case.stop - case.start <= 70
    wrong = "The sheet was"
    assert not [
        c
        for c in cases_of_clip(
            english, neighbors, alignment, wrong, english.tokenizer.encode(f" {wrong}"), times, logprobs, 9, 2
        )
        if c.written == 1
    ]


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ("the seat was not there", ("seat", 0.0)),
        ("the sheet was not there", ("sheet", 0.0)),
        ("the was not there", ("", 0.0)),
        ("the sheet is not there", ("sheet", 0.25)),
        ("a seat was not there now", ("seat", 0.25)),
        ("", ("", 1.0)),
    ],
)
def test_fate_of_a_word_and_of_the_others(edited: str, expected: tuple[str, float]) -> None:
    assert fate("the seat was not there", 1, edited) == expected


def test_intervals_resample_units_not_cases() -> None:
    values = np.array([0.0, 0, 0, 0, 1, 1, 1, 1] * 5)
    by_case = estimate(values, [str(k) for k in range(40)])
    by_clip = estimate(values, [str(k // 4) for k in range(40)])
    assert by_case.value == by_clip.value == 0.5
    assert by_clip.row[2] - by_clip.row[1] > 1.5 * (by_case.row[2] - by_case.row[1])


def record(clip: int, **shares: float) -> dict[str, Any]:
    outcomes = {edit: dict.fromkeys(MEASURES, 0.0) for edit in EDITS}
    outcomes["push"] |= {"foil": shares["foil"], "others_changed": shares["others"]}
    outcomes["erase"]["logprob"] = shares["logprob"]
    case = CASE.to_dict() | {"clip": str(clip), "speaker": "one"}
    return {"case": case, "outcomes": outcomes}


@pytest.mark.parametrize(
    ("shares", "met"),
    [
        ({"foil": 1.0, "others": 0.0, "logprob": -2.0}, [True, True, True]),
        ({"foil": 0.0, "others": 0.2, "logprob": -0.1}, [False, False, False]),
    ],
)
def test_criteria(shares: dict[str, float], met: list[bool]) -> None:
    summary = summarize([record(clip, **shares) for clip in range(20)])
    assert [criterion["met"] for criterion in summary["criteria"]] == met
    assert summary["resampled"] == "clips" and summary["cases"] == 20


def test_a_criterion_needs_the_whole_interval() -> None:
    mixed = [record(clip, foil=float(clip % 4 == 0), others=0.0, logprob=-1.0) for clip in range(20)]
    first = summarize(mixed)["criteria"][0]
    assert first["estimate"][0] == 0.25 and not first["met"]


@pytest.mark.real
def test_measures_a_packaged_clip(english: HookedWhisper) -> None:
    from benchmarks.feature_steering.__main__ import Experiment
    from hooked_whisper.corpora import packaged_speech

    model = english
    sae = TopK(TopKConfig(d_in=384, d_sae=256, k=8), seed=0).eval()
    rows = torch.randn(400, 384, generator=torch.Generator().manual_seed(0))
    phones = PhoneLatents.of_rows(sae, rows, torch.arange(400) % len(NAMES))
    experiment = Experiment(model, sae, HOOK, phones, Neighbors(model))
    recordings = packaged_speech("prose", split="held-out")
    records = next(r for r in (experiment.measure(recording, 1) for recording in recordings[:8]) if r)
    case, outcomes = records[0]["case"], records[0]["outcomes"]
    assert tuple(outcomes) == EDITS and case["word"] != case["foil"]
    clean = clean_transcripts(model, model.to_mel([next(r for r in recordings if r.id == case["clip"]).audio()]))
    assert case["word"] in clean.texts[0].lower()
    assert all(np.isfinite(row["logprob"]) for row in outcomes.values())
