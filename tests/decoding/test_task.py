"""The faster filters and the faster choice of tokens give what openai-whisper's give."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import whisper
from hypothesis import given, settings
from hypothesis import strategies as st
from whisper.decoding import ApplyTimestampRules, DecodingOptions, DecodingTask, GreedyDecoder, SuppressTokens

from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.decoding import decode
from hooked_whisper.decoding.task import HookedDecodingTask, _faster, _Greedy, most_probable
from hooked_whisper.hooked import HookedWhisper

BEGIN, EOT, N_VOCAB = 24, 20, 40
CPU = torch.device("cpu")


def rules(latest: int | None) -> ApplyTimestampRules:
    tokenizer = SimpleNamespace(timestamp_begin=BEGIN, eot=EOT, no_timestamps=23)
    return ApplyTimestampRules(tokenizer, 3, latest)  # type: ignore[arg-type]


@given(
    sampled=st.lists(st.lists(st.integers(0, N_VOCAB - 1), min_size=4, max_size=4), min_size=1, max_size=3),
    length=st.integers(0, 4),
    latest=st.sampled_from([None, 0, 5]),
    scale=st.sampled_from([0.0, 1e-4, 1.0, 20.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=300, deadline=None)
def test_timestamp_rules(sampled, length, latest, scale, seed) -> None:
    tokens = torch.cat([torch.zeros(len(sampled), 3), torch.tensor(sampled)[:, :length]], 1).long()
    logits = scale * torch.randn(len(sampled), N_VOCAB, generator=torch.Generator().manual_seed(seed))
    theirs, ours = logits.clone(), logits.clone()
    rules(latest).apply(theirs, tokens)
    _faster(rules(latest), CPU).apply(ours, tokens)
    assert torch.equal(ours, theirs)


@given(rows=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_greedy_choice(rows, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, N_VOCAB, generator=generator).round(decimals=1)  # with ties
    logits[:, 5:9] = -torch.inf
    tokens = torch.randint(EOT - 2, EOT + 2, (rows, 5), generator=generator)
    sums = torch.randn(rows, generator=generator)
    theirs, ours = sums.clone(), sums.clone()
    expected, completed = GreedyDecoder(0.0, EOT).update(tokens, logits.clone(), theirs)
    actual, ended = _Greedy(0.0, EOT).update(tokens, logits.clone(), ours)
    assert torch.equal(actual, expected) and ended == bool(completed)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert torch.equal(most_probable(logits), logits.argmax(-1))


def test_suppressed_tokens() -> None:
    theirs = torch.randn(2, N_VOCAB)
    ours = theirs.clone()
    SuppressTokens([3, 7]).apply(theirs, torch.zeros(2, 3))
    _faster(SuppressTokens([3, 7]), CPU).apply(ours, torch.zeros(2, 3))
    assert torch.equal(ours, theirs)


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    torch.manual_seed(1)
    cfg = WhisperConfig(EncoderConfig(80, 60, 32, 2, 1, 64), DecoderConfig(51865, 448, 32, 2, 2, 64))
    return HookedWhisper(cfg)


OPTIONS = [
    {},
    {"prompt": list(range(300, 500)), "prefix": " so"},
    {"beam_size": 3, "prompt": "a word"},
    {"without_timestamps": True, "suppress_tokens": "", "suppress_blank": False},
]


@pytest.mark.parametrize("changes", OPTIONS)
@torch.no_grad()
def test_results_equal_those_of_openais_task(model, changes) -> None:
    options = DecodingOptions(language="en", fp16=False, sample_len=12, **changes)
    encoded = torch.randn(1, 60, 32, generator=torch.Generator().manual_seed(4))
    (theirs,), (ours,) = (task(model, options).run(encoded) for task in (DecodingTask, HookedDecodingTask))
    assert ours.tokens == theirs.tokens
    assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-5)
    assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, rel=1e-5)


@torch.no_grad()
def test_hooks_on_the_unembedding_see_the_whole_prompt(model) -> None:
    encoded = torch.randn(1, 60, 32)
    shapes: list[tuple[int, ...]] = []
    options = {"language": "en", "sample_len": 3, "prompt": "a word"}
    plain = decode(model, encoded, **options)
    with model.hooks(fwd_hooks=[("unembed.hook_in", lambda x: shapes.append(tuple(x.shape)))]):
        hooked = decode(model, encoded, **options)
    assert shapes[0][1] > 4 and {shape[1] for shape in shapes[1:]} == {1}
    assert hooked[0].tokens == plain[0].tokens  # type: ignore[index]


def test_decode_runs_the_faster_task(model, monkeypatch) -> None:
    monkeypatch.setattr(whisper.decoding.ApplyTimestampRules, "apply", None)  # openai-whisper's would fail
    assert decode(model, torch.randn(1, 60, 32), language="en", sample_len=2)
