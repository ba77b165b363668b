"""What an edit does to the transcript: fate of the word and of the others, and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.feature_steering.cases import Case
from hooked_whisper import HookedWhisper
from hooked_whisper.interventions.forced_text import text_of, words_of_tokens
from hooked_whisper.interventions.transcriber import Transcriber, normalize_words
from hooked_whisper.text import word_diff

MORE_TOKENS = 8  # that an edited transcript may have beyond the clean one
EditedEncoderOut = Float[Tensor, "edit position d"]


@dataclass(frozen=True)
class Outcome:
    """Effect of one edit on one case.

    changed: whether the word is another one, or missing. foil: whether the foil is written in its place.
    others_changed: share of the other words that are changed or missing.
    logprob: change of the word's log-probability (nats). preference: change of the log-probability of the foil minus
        that of the word. others_logprob: mean change of the other words' log-probability.
    """

    changed: bool
    foil: bool
    others_changed: float
    logprob: float
    preference: float
    others_logprob: float
    text: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def outcomes(
    model: HookedWhisper, case: Case, ids: Sequence[int], encoder_out: EditedEncoderOut, homophones: Sequence[str] = ()
) -> list[Outcome]:
    """Return the outcome of every edit; the first row of ``encoder_out`` is the unedited clip.

    ids: text tokens of the unedited transcript. homophones: other spellings of the foil.
    """
    transcriber = Transcriber(model, max_new_tokens=len(ids) + MORE_TOKENS, batch=len(encoder_out))
    texts = [text_of(model, row) for row in transcriber.ids(encoder_out[1:])]
    words, foil = _forced(model, case, ids, encoder_out)
    clean = text_of(model, ids)
    index = len(normalize_words(" ".join(clean.split()[: case.written])).split())
    others = np.arange(words.shape[1]) != case.written
    results = []
    for row, text in enumerate(texts, 1):
        change = words[row] - words[0]
        replacement, others_changed = fate(normalize_words(clean), index, normalize_words(text))
        results.append(
            Outcome(
                changed=replacement != case.word,
                foil=replacement in (case.foil, *homophones),
                others_changed=others_changed,
                logprob=float(change[case.written]),
                preference=float(foil[row] - foil[0]),
                others_logprob=float(change[others].mean()) if others.any() else 0.0,
                text=text,
            )
        )
    return results


def fate(clean: str, index: int, edited: str) -> tuple[str, float]:
    """Return what is written for word ``index`` of a text (empty if missing), and the share of other words changed."""
    position, replacement, changed = 0, "", 0
    for op in word_diff(clean, edited):
        span = range(position, position + len(op.reference))
        if index in span:
            replacement = " ".join(op.hypothesis[index - position : index - position + 1])
        if op.kind != "equal":
            changed += sum(k != index for k in span)
        position += len(op.reference)
    return replacement, changed / max(position - 1, 1)


def _forced(
    model: HookedWhisper, case: Case, ids: Sequence[int], encoder_out: EditedEncoderOut
) -> tuple[Float[np.ndarray, "edit word"], Float[np.ndarray, "edit"]]:
    """Log-probability of each word of the clean transcript, and of the foil minus the word's token."""
    prompt = model.to_tokens("")
    targets = torch.tensor([list(ids)], device=encoder_out.device).expand(len(encoder_out), -1)
    tokens = torch.cat([prompt.to(targets).expand(len(encoder_out), -1), targets], dim=1)[:, :-1]
    hidden = model.decoder.hidden(tokens, encoder_out)[:, prompt.shape[1] - 1 :]
    logprobs = model.decoder.to_logits(hidden).log_softmax(-1)
    of_token = logprobs.gather(-1, targets[..., None])[..., 0].double().cpu()
    of_word = torch.tensor(words_of_tokens(model, ids))
    words = torch.zeros(len(of_token), int(of_word.max()) + 1, dtype=of_token.dtype).index_add(1, of_word, of_token)
    at_word = logprobs[:, case.token]
    return words.numpy(), (at_word[:, case.foil_token] - at_word[:, ids[case.token]]).double().cpu().numpy()
