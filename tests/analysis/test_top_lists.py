"""Rankings of tokens: text tokens by default, all tokens on request; tokens given as ids or strings."""

from __future__ import annotations

import torch

from hooked_whisper.analysis import nearest_tokens, text_tokens, top_tokens
from tests.findings.worlds import small_model


def test_top_tokens_are_text_by_default() -> None:
    model = small_model()
    values = torch.arange(model.cfg.decoder.n_vocab, dtype=torch.float32)
    eot = model.tokenizer.eot
    assert [token.id for token in top_tokens(model, values, 3)] == [eot - 1, eot - 2, eot - 3]
    assert top_tokens(model, values, 1, text_only=False)[0].id == model.cfg.decoder.n_vocab - 1
    assert text_tokens(model).tolist() == list(range(eot))


def test_nearest_tokens_are_text_by_default() -> None:
    model = small_model()
    token, special = model.to_single_token(" rug"), model.cfg.decoder.n_vocab - 1
    with torch.no_grad():
        model.W_E[special] = model.W_E[token]
    assert nearest_tokens(model, " rug", 5) == nearest_tokens(model, token, 5)
    assert special not in [near.id for near in nearest_tokens(model, token, 24)]
    assert nearest_tokens(model, token, 1, text_only=False)[0].id == special
    assert nearest_tokens(model, token, 1, torch.tensor([token, special]))[0].id == special
