"""Attached SAEs: equal to a manual pass, exact for a perfect SAE, paired intervals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Clip
from hooked_whisper.errors import AlignmentError, ArgumentError, PatchError, UnknownHookError
from hooked_whisper.features.bases import axes
from hooked_whisper.text import word_error
from sae_lens_audio.architectures import (
    Crosscoder,
    CrosscoderConfig,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
)
from sae_lens_audio.evals import attached_runs as splicing_runs
from sae_lens_audio.evals.attached import CLEAN, MEAN, ZERO, AttachedScores, ConditionCounts
from sae_lens_audio.evals.attached_runs import NoTextError, attached_scores
from tests.findings.worlds import small_model
from tests.sae.evals.clips import HOOK, sentences

D = 32


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


def sae() -> TopK:
    return TopK(TopKConfig(D, 48, k=4), seed=3)


def n_sound(clip: Clip) -> int:
    return -(-len(clip.samples) // 320)


@torch.no_grad()
def forced_by_hand(model: HookedWhisper, clip: Clip, change=None, hook: str = HOOK) -> Tensor:
    """Log-probabilities of the next token, of one clip in one pass from the sound on."""
    ids = [*model.tokenizer.encode(f" {clip.alignment.text}"), model.tokenizer.eot]
    prompt = model.to_tokens("")
    tokens = torch.cat([prompt, torch.tensor([ids])], dim=1)[:, :-1]
    hooks = [] if change is None else [(hook, change)]
    logits = model.run_with_hooks(model.to_mel(clip.samples), tokens, fwd_hooks=hooks)
    rows = logits[0, prompt.shape[1] - 1 :].double().log_softmax(-1)
    return torch.cat([rows, torch.tensor(ids)[:, None].double()], dim=1)  # the targets go with them


def nats(rows: Tensor) -> float:
    return -float(rows[:, :-1].gather(1, rows[:, -1:].long()).sum())


def divergence(clean: Tensor, other: Tensor) -> float:
    p, q = clean[:, :-1], other[:, :-1]
    return float((p.exp() * (p - q)).sum())


HOOKS = [
    HOOK,
    "encoder.blocks.0.hook_resid_post",
    "encoder.hook_out",
    "encoder.blocks.1.hook_mlp_out",
    "encoder.ln_post.hook_normalized",
    "encoder.hook_embed",
]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_condition_equals_a_separate_pass(model: HookedWhisper, hook: str) -> None:
    clips, coder, mean = sentences(3), sae(), torch.linspace(-1, 1, D)
    scores = attached_scores(model, clips, hook, {"sae": coder}, mean, padding_too=["sae"])
    assert list(scores.conditions) == [CLEAN, "sae", MEAN, ZERO, "sae, padding too"]
    assert scores.hook == scores.hook_out == hook and scores.where == "sound"
    for k, clip in enumerate(clips):
        n = n_sound(clip)

        def at(value, everywhere: bool = False, n: int = n):
            def change(x: Tensor) -> Tensor:
                new = value(x)
                if not everywhere:
                    new[:, n:] = x[:, n:]
                return new

            return change

        clean = forced_by_hand(model, clip)
        passes = {
            CLEAN: clean,
            "sae": forced_by_hand(model, clip, at(coder), hook),
            MEAN: forced_by_hand(model, clip, at(lambda x: mean.expand_as(x).clone()), hook),
            ZERO: forced_by_hand(model, clip, at(torch.zeros_like), hook),
            "sae, padding too": forced_by_hand(model, clip, at(coder, True), hook),
        }
        for name, rows in passes.items():
            got = scores.conditions[name]
            assert got.nats[k] == pytest.approx(nats(rows), rel=1e-5), (name, k)
            assert got.kl[k] == pytest.approx(divergence(clean, rows), rel=1e-3, abs=5e-6), (name, k)
            assert got.errors[k] == word_error(scores.references[k], got.texts[k], None).errors
    assert scores.tokens.tolist() == [len(model.tokenizer.encode(f" {c.alignment.text}")) + 1 for c in clips]
    assert scores.words.tolist() == [4, 3, 2]


def test_a_perfect_sae_recovers_everything(model: HookedWhisper) -> None:
    scores = attached_scores(model, sentences(3), HOOK, {"all of it": axes(D)}, torch.zeros(D))
    np.testing.assert_allclose(scores.conditions["all of it"].nats, scores.conditions[CLEAN].nats, rtol=1e-6)
    assert scores.conditions["all of it"].texts == scores.conditions[CLEAN].texts
    for ablation in (ZERO, MEAN):
        back = scores.recovered("kl", "all of it", ablation)
        assert back.value == pytest.approx(1, abs=1e-4) and back.low == pytest.approx(1, abs=1e-3)
        assert scores.recovered("kl", ablation, ablation).value == 0
    assert scores.change("cross_entropy", "all of it").value == pytest.approx(0, abs=1e-5)
    assert scores.kl(CLEAN).value == 0 and scores.kl(ZERO).value > 0


def test_mean_of_zero_is_zero_ablation(model: HookedWhisper) -> None:
    scores = attached_scores(model, sentences(2), HOOK, {}, torch.zeros(D))
    np.testing.assert_array_equal(scores.conditions[MEAN].nats, scores.conditions[ZERO].nats)


def test_results_do_not_depend_on_batches(model: HookedWhisper, monkeypatch: pytest.MonkeyPatch) -> None:
    clips, coder = sentences(3), sae()
    whole = attached_scores(model, clips, HOOK, {"sae": coder}, torch.zeros(D))
    monkeypatch.setattr(splicing_runs, "_LOGITS", 1)
    seen: list[list[int]] = []

    def track(batches):
        for batch in batches:
            seen.append(batch)
            yield batch

    alone = attached_scores(model, clips, HOOK, {"sae": coder}, torch.zeros(D), track=track)
    assert seen == [[0], [1], [2]]
    for name, got in whole.conditions.items():
        np.testing.assert_allclose(got.nats, alone.conditions[name].nats, rtol=1e-5)
        np.testing.assert_allclose(got.kl, alone.conditions[name].kl, rtol=1e-3, atol=1e-6)


def test_transcoders_replace_another_point(model: HookedWhisper) -> None:
    coder = TopKTranscoder(TopKTranscoderConfig(D, 40, d_out=D, k=3, skip=True))
    with torch.no_grad():
        coder.W_skip.normal_(generator=torch.Generator().manual_seed(0))
    reads, writes = "encoder.blocks.1.hook_mlp_in", "encoder.blocks.1.hook_mlp_out"
    clips = sentences(2)
    scores = attached_scores(model, clips, reads, {"t": coder}, torch.zeros(D), hook_out=writes, where="all")
    assert (scores.hook, scores.hook_out) == (reads, writes)
    for k, clip in enumerate(clips):
        with torch.no_grad():
            _, cache = model.run_with_cache(model.to_mel(clip.samples), names_filter=[reads])
            predicted = coder(cache[reads])
        rows = forced_by_hand(model, clip, lambda x, new=predicted: new, writes)
        assert scores.conditions["t"].nats[k] == pytest.approx(nats(rows), rel=1e-5)


def test_points_of_the_decoder_are_replaced_at_the_text(model: HookedWhisper) -> None:
    hook, clips, coder, mean = "decoder.blocks.0.hook_resid_post", sentences(2), sae(), torch.linspace(-1, 1, D)
    scores = attached_scores(model, clips, hook, {"sae": coder}, mean, padding_too=["sae"])
    assert scores.where == "text" and list(scores.conditions) == [CLEAN, "sae", MEAN, ZERO]
    everywhere = attached_scores(model, clips, hook, {"sae": coder}, mean, where="all")

    def text_only(x: Tensor, value) -> Tensor:
        return torch.cat([x[:, :4], value(x)[:, 4:]], dim=1)  # behind the four tokens of the prompt

    for k, clip in enumerate(clips):
        for name, value in (("sae", coder), (MEAN, lambda x: mean.expand_as(x)), (ZERO, torch.zeros_like)):
            text = forced_by_hand(model, clip, lambda x, value=value: text_only(x, value), hook)
            assert scores.conditions[name].nats[k] == pytest.approx(nats(text), rel=1e-5)
            whole = forced_by_hand(model, clip, lambda x, value=value: value(x).clone(), hook)
            assert everywhere.conditions[name].nats[k] == pytest.approx(nats(whole), rel=1e-5)


@pytest.mark.parametrize("hook", ["encoder.blocks.1.attn.hook_z", "decoder.blocks.0.cross_attn.hook_v"])
def test_heads_are_concatenated(model: HookedWhisper, hook: str) -> None:
    clips, coder, mean = sentences(2), sae(), torch.linspace(-1, 1, D)
    scores = attached_scores(model, clips, hook, {"sae": coder}, mean)
    assert scores.where == "sound"
    for k, clip in enumerate(clips):
        n = n_sound(clip)

        def change(x: Tensor, n: int = n) -> Tensor:
            return torch.cat([mean.view(2, 16).expand_as(x)[:, :n], x[:, n:]], dim=1)

        rows = forced_by_hand(model, clip, change, hook)
        assert scores.conditions[MEAN].nats[k] == pytest.approx(nats(rows), rel=1e-5)

        def spliced(x: Tensor, n: int = n) -> Tensor:
            return torch.cat([coder(x.flatten(2)).unflatten(2, (2, 16))[:, :n], x[:, n:]], dim=1)

        rows = forced_by_hand(model, clip, spliced, hook)
        assert scores.conditions["sae"].nats[k] == pytest.approx(nats(rows), rel=1e-5)


def test_parts_of_recordings_and_clips_without_text_are_left_out(model: HookedWhisper) -> None:
    from dataclasses import replace

    clips = sentences(2)
    whole = clips[0].alignment
    silent = clips[0].with_alignment(replace(whole, text=" "))
    parts = [replace(clips[0], offset=0.2), clips[0].with_alignment(replace(whole, duration=9.0))]
    scores = attached_scores(model, [silent, *parts, clips[1]], HOOK, {}, torch.zeros(D))
    assert scores.clips == ("u1",)
    with pytest.raises(NoTextError, match="none of 3 clips is a whole recording with its text"):
        attached_scores(model, [silent, *parts], HOOK, {}, torch.zeros(D))
    long = clips[0].with_alignment(replace(clips[0].alignment, text="very " * 80))
    with pytest.raises(AlignmentError, match="do not fit in the decoder"):
        attached_scores(model, [long], HOOK, {}, torch.zeros(D))


def test_saes_that_do_not_fit_are_refused(model: HookedWhisper) -> None:
    clips, mean = sentences(1), torch.zeros(D)
    with pytest.raises(UnknownHookError):
        attached_scores(model, clips, "encoder.blocks.9.hook_resid_post", {}, mean)
    with pytest.raises(ArgumentError, match="names 2 points"):
        attached_scores(model, clips, "encoder.blocks.*.hook_resid_post", {}, mean)
    with pytest.raises(PatchError, match="d_in = 16"):
        attached_scores(model, clips, HOOK, {"sae": TopK(TopKConfig(16, 20, k=2))}, mean)
    with pytest.raises(PatchError, match="crosscoder"):
        attached_scores(model, clips, HOOK, {"sae": Crosscoder(CrosscoderConfig(D, 20, n_blocks=2))}, mean)
    with pytest.raises(PatchError, match="hook_out"):
        attached_scores(model, clips, HOOK, {"t": TopKTranscoder(TopKTranscoderConfig(D, 40, d_out=D, k=3))}, mean)
    with pytest.raises(ArgumentError, match="cannot be called 'clean'"):
        attached_scores(model, clips, HOOK, {"clean": sae()}, mean)
    with pytest.raises(ArgumentError, match="padding_too"):
        attached_scores(model, clips, HOOK, {"sae": sae()}, mean, padding_too=["other"])
    assert not model.list_hooks() and "hook_sae" not in " ".join(model.hook_names())


def counts(errors: list[int], scale: float = 1.0) -> ConditionCounts:
    values = np.array(errors, dtype=float)
    return ConditionCounts(("",) * len(errors), np.array(errors), values * scale, values)


def test_intervals_are_paired() -> None:
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 9, 40)
    scores = AttachedScores(
        HOOK, HOOK, "sound", tuple(map(str, range(40))), ("",) * 40, np.full(40, 10), np.full(40, 5),
        {CLEAN: counts(clean.tolist()), "sae": counts((clean + 1).tolist()), ZERO: counts((clean + 4).tolist())},
    )  # fmt: skip
    clear = scores.change("wer", "sae")
    assert clear.value == pytest.approx(0.1) and clear.low == pytest.approx(0.1) and clear.high == pytest.approx(0.1)
    assert scores.wer("sae").high - scores.wer("sae").low > 0.05
    back = scores.recovered("wer", "sae")
    assert back.value == pytest.approx(0.75) and back.low == pytest.approx(0.75)
    assert scores.cross_entropy("sae").value == pytest.approx((clean + 1).sum() / 200)
    assert scores.recovered("wer", "sae", CLEAN).value is None
    with pytest.raises(ArgumentError, match="no condition 'zero'"):
        scores.wer("zero")


def test_an_unknown_measure(unchecked: None) -> None:
    coder = {CLEAN: counts([1])}
    scores = AttachedScores(HOOK, HOOK, "sound", ("a",), ("x",), np.array([1]), np.array([1]), coder)
    with pytest.raises(ArgumentError, match=r"measure must be .*'loss'"):
        scores.value("loss", CLEAN)  # type: ignore[arg-type]
