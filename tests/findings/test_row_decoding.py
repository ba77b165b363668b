"""Decoding in shared batches has the same texts as decoding one by one."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper.findings.core.row_decoding import DecodingQueue, greedy_ids, transcribe_cuts
from hooked_whisper.findings.core.transcripts import Transcriber
from hooked_whisper.interventions import replace_spans
from tests.findings.worlds import small_model


@pytest.fixture(scope="module")
def model():
    """Return a random model whose rows end at different steps."""
    small = small_model(0)
    original, eot = small.decoder.to_logits, small.tokenizer.eot

    def to_logits(hidden: torch.Tensor) -> torch.Tensor:
        logits = original(hidden)
        logits[..., eot] = torch.where((9 * hidden[..., 0]).sin() > 0.7, 1e3, -1e3)
        return logits

    small.decoder.to_logits = to_logits
    with torch.no_grad():
        small.decoder.positional_embedding *= 50
    return small


def encoded(model, rows: int) -> torch.Tensor:
    return torch.randn(rows, model.cfg.encoder.n_ctx, 32, generator=torch.Generator().manual_seed(1)) * 3


def test_finished_rows_do_not_change_the_others(model) -> None:
    clips = encoded(model, 12)
    transcriber = Transcriber(model, max_new_tokens=16)
    rows = greedy_ids(model, transcriber.prompt(), clips, 12, 16)
    assert len({len(row) for row in rows}) > 2  # otherwise this test shows nothing
    assert rows == transcriber.ids(clips) == [transcriber.ids(clip[None])[0] for clip in clips]


def test_transcribe_cuts_matches_replaced_encoder_outputs(model) -> None:
    clip, null = encoded(model, 2)
    spans = [slice(0, 9), slice(5, 40), slice(20, 20), slice(50, 60), slice(0, 60)]
    transcriber = Transcriber(model, max_new_tokens=16)
    texts = transcribe_cuts(transcriber, clip, null, spans)
    assert texts == transcriber(replace_spans(clip, spans, null))
    assert len(set(texts)) > 2
    assert transcribe_cuts(transcriber, clip, null, []) == []
    assert not any(model.list_hooks().values())


def test_queue_keeps_the_order_of_each_condition(model) -> None:
    clips = encoded(model, 7)
    transcriber = Transcriber(model, max_new_tokens=8)
    queue = DecodingQueue(transcriber, ("a", "b"), batch=4)
    queue.add("a", clips[:3])
    queue.add("b", clips[:3] * 2)
    queue.add("a", clips[3:])
    queue.flush()
    assert queue.texts == {"a": transcriber(clips), "b": transcriber(clips[:3] * 2)}
