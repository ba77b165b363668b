"""Helpers under the names of ``transformer_lens.utils``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.showing import Summary, Tabular, visible
from hooked_whisper.config import OFFICIAL_MODEL_NAMES as OFFICIAL_MODEL_NAMES
from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks.hook_names import unknown_name
from hooked_whisper.hooks.short_names import block_name, stack_names
from hooked_whisper.model.composition import composition_scores
from hooked_whisper.model.loss import lm_accuracy, lm_cross_entropy_loss
from hooked_whisper.model.names import one_block_names
from hooked_whisper.protocols import STACKS, Stack

__all__ = [
    "CandidateToken",
    "PromptTest",
    "composition_scores",
    "get_act_name",
    "get_device",
    "lm_accuracy",
    "lm_cross_entropy_loss",
    "test_prompt",
    "to_numpy",
]

# names of TransformerLens' third argument
_LAYER_TYPES = ("attn", "mlp", "a", "m", "b", "block", "blocks", "attention", "ln1", "ln2", "ln_final")
_COMPACT = re.compile(r"(?P<kind>[a-z_]+?)(?P<layer>\d+)(?P<norm>[a-z_]\w*)?")

_ELSEWHERE: Mapping[str, str] = {
    "get_corner": "index the tensor: x[:3, :3]",
    "remove_batch_dim": "index the tensor: x[0]; for a cache use cache.remove_batch_dim()",
    "Slice": "pos_slice= accepts integers, slices, lists and masks",
    "download_file_from_hf": "use huggingface_hub.hf_hub_download",
    "tokenize_and_concatenate": "use hooked_whisper.activations.iter_activations on a corpus of recordings",
    "get_dataset": "use hooked_whisper.corpora",
    "gelu_new": "Whisper uses the exact GELU, torch.nn.functional.gelu",
    "sample_logits": "use model.generate or model.decode(mel, temperature=...)",
}


def __getattr__(name: str) -> Any:
    answer = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
    raise AttributeError(f"hooked_whisper.utils has no {name}{answer}")


def get_act_name(name: str, layer: int | None = None, stack: Stack | None = None, layer_type: str | None = None) -> str:
    """Return the hook name that a short name stands for: ``get_act_name("pattern", 3, "decoder")`` is
    ``"decoder.blocks.3.attn.hook_pattern"``.

    Args:
        name: as in ``cache["decoder", "pattern", 3]``: ``q``, ``k``, ``v``, ``z``, ``pattern``, ``resid_post``,
            ``mlp_post``, ``cross_pattern``, ``embed``, ``out``, ... ``"pattern3"`` includes the layer. A full name is
            returned unchanged.
        layer: number of the block; ``None`` outside the blocks.
        stack: ``"encoder"``, ``"decoder"``, or ``"cross"`` for the decoder's cross-attention.
        layer_type: the norm that ``scale`` and ``normalized`` belong to: ``"ln1"``, ``"ln_cross"`` or ``"ln2"``.

    Raises:
        ArgumentError: the stack is missing or unknown, or ``layer`` is not a block number.
        UnknownHookError: there is no such hook point; the message names the closest.
    """
    if stack is None and layer is None and ("." in name or name.startswith("hook_")):
        return name
    if stack is None or stack in _LAYER_TYPES:
        example = ", ".join(map(repr, (name, layer, "decoder", *((stack,) if stack in ("ln1", "ln2") else ()))))
        received = "none was given" if stack is None else f"{stack!r} is a part of a block"
        raise ArgumentError(
            f"get_act_name needs a stack as its third argument, {received}: write get_act_name({example}), or "
            "'encoder', or 'cross' for cross-attention"
        )
    check_option("stack", stack, STACKS)
    compact = _COMPACT.fullmatch(name)
    if layer is None and compact is not None:
        name, layer, layer_type = compact["kind"], int(compact["layer"]), compact["norm"] or layer_type
    known = one_block_names()
    if layer is None:
        candidates = stack_names(name, stack)
        for candidate in candidates:
            if candidate in known:
                return candidate
        in_block = block_name(name, stack, 0, layer_type or "ln1")
        if in_block in known:
            raise ArgumentError(f"{name!r} is inside the blocks: give the number of one as layer=")
        raise unknown_name(candidates[0], known)
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        raise ArgumentError(f"layer is the number of a block, 0 or more, not {layer!r}")
    in_first = block_name(name, stack, 0, layer_type)
    if in_first not in known:
        raise unknown_name(in_first, known)
    return block_name(name, stack, layer, layer_type)


def to_numpy(x: Tensor | np.ndarray | list[Any] | float) -> np.ndarray:
    """Return a tensor, parameter, list or number as an array."""
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return np.asarray(x)


def get_device() -> torch.device:
    """Return the device that ``from_pretrained`` uses by default: CUDA if available, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class CandidateToken:
    """A token that the model could write next, its rank (0 is the top), logit and probability."""

    text: str
    rank: int
    logit: float
    probability: float


@dataclass(frozen=True, repr=False)
class PromptTest(Tabular):
    """How a model continues a text: each token of the answer, and the top tokens in its place."""

    prompt: tuple[str, ...]
    answer: tuple[CandidateToken, ...]
    top: tuple[tuple[CandidateToken, ...], ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per token of the answer and per top token."""
        return [
            {"position": k, "answer": token is answer, "token": token.text, "rank": token.rank, "logit": token.logit}
            | {"probability": token.probability}
            for k, answer in enumerate(self.answer)
            for token in (answer, *self.top[k])
        ]

    def summary(self) -> Summary:
        rows = []
        for token, top in zip(self.answer, self.top, strict=True):
            best = ", ".join(f"{visible(t.text)} {t.probability:.1%}" for t in top)
            rows.append((visible(token.text), token.rank, f"{token.logit:.2f}", f"{token.probability:.2%}", best))
        prompt = "".join(self.prompt)
        return Summary(f"After {prompt!r}", columns=("answer", "rank", "logit", "probability", "top"), rows=tuple(rows))


@torch.no_grad()
def test_prompt(
    prompt: str,
    answer: str,
    model: HookedWhisper,
    mel: Float[Tensor, "batch mel frame"] | None = None,
    *,
    top_k: int = 5,
) -> PromptTest:
    """Return rank, logit and probability of each token of an answer that follows a text, with the top tokens.

    Args:
        prompt: the text so far, without Whisper's prompt, which is added: ``" The cat"``.
        answer: what should follow, with its leading space: ``" sat"``.
        model: a model with a tokenizer.
        mel: of one clip; required, unlike in TransformerLens.
        top_k: number of top tokens.

    Raises:
        ArgumentError: there is no mel.
    """
    if mel is None:
        raise ArgumentError(
            "test_prompt got no mel, but Whisper also needs audio: write test_prompt(prompt, answer, model, "
            "model.to_mel(audio)); to test the text without speech, pass "
            "hooked_whisper.interventions.baseline_mel(model, 'zero audio')"
        )
    before = model.to_tokens(prompt)
    ids = model.to_tokens(answer, prompt=False)
    tokens = torch.cat([before, ids], dim=1)
    logits = model(mel, tokens)[0, before.shape[1] - 1 : -1].float()  # [answer token, vocab]
    probabilities = logits.softmax(-1)

    def ranked(row: int, token: int) -> CandidateToken:
        rank = int((logits[row] > logits[row, token]).sum())
        text = model.to_single_str_token(token)
        return CandidateToken(text, rank, float(logits[row, token]), float(probabilities[row, token]))

    best = logits.topk(top_k).indices.tolist()
    return PromptTest(
        tuple(model.to_str_tokens(before)),
        tuple(ranked(row, token) for row, token in enumerate(ids[0].tolist())),
        tuple(tuple(ranked(row, token) for token in tops) for row, tops in enumerate(best)),
    )


test_prompt.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest
