"""Word times from cross-attention heads that read the audio in order.

Two methods:

- ``"whisper"`` (github.com/openai/whisper, ``timing.py``): pre-softmax scores of known alignment heads, cut to the
  audio; softmax, z-score over tokens, median filter 7, mean over heads.
- ``"norms"`` (Yeh et al. 2025, "Whisper Has an Internal Word Aligner", arXiv 2509.09987;
  github.com/30stomercury/whisper-char-alignment, ``timing.py``): median filter 3, softmax, the ten heads with the
  largest sum of row and column norms in this clip, normalized columns, mean over heads.

Both end with dynamic time warping. It, the median filter and the split into words come from openai-whisper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heads import read_heads
from hooked_whisper._support.heatmap import heat_map
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.renamed import renamed_method
from hooked_whisper._support.showing import Showing, Summary, Tabular, counted, joined, visible
from hooked_whisper.decoding import threads_kept
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint
from hooked_whisper.protocols import HeadLike, HeadRef, Interval

Method = Literal["whisper", "norms"]
Unit = Literal["token", "character"]
BlockHead = tuple[int, int]  # (block, head) of cross-attention
MEDIAN_WIDTH = {"whisper": 7, "norms": 3}  # positions
TOP_HEADS = 10  # of the method "norms"
_NAMES = "decoder.blocks.{}.cross_attn.hook_attn_scores"


@dataclass(frozen=True, eq=False, repr=False)
class WordAlignment(Tabular):
    """Words with their times, and the attention map they were read from.

    words: times in seconds; a word begins where the previous one ends, the first at 0.
    heads: averaged cross-attention heads, ``(block, head)``.
    labels: token that each row of ``matrix`` predicts: the tokens of the text, and end-of-text.
    matrix: the averaged map; the path maximizes its sum.
    """

    words: tuple[Interval, ...]
    heads: tuple[BlockHead, ...]
    method: Method
    unit: Unit
    labels: tuple[str, ...]
    matrix: Float[np.ndarray, "row position"]
    seconds_per_position: float

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one dict per word: word, start and end in seconds."""
        return [{"word": word.label, "start": word.start, "end": word.end} for word in self.words]

    def summary(self) -> Summary:
        heads = joined(HeadRef("cross", *head).label for head in self.heads)
        title = f"WordAlignment: {counted(len(self.words), 'word')}, method {self.method!r} by {self.unit}"
        notes = (f"cross-attention of {counted(len(self.heads), 'head')}: {heads}",)
        rows = tuple((word.label, round(word.start, 2), round(word.end, 2)) for word in self.words)
        return Summary(title, notes, ("word", "start (s)", "end (s)"), rows)

    def plot(self, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the averaged map: text down, seconds across. ``backend="plotly"`` returns a plotly figure."""
        rows, positions = self.matrix.shape
        return heat_map(
            self.matrix,
            title=title or f"Alignment ({self.method}, {len(self.heads)} heads)",
            x="time (s)",
            y="before token",
            unit="mean normalized attention",
            rows=[visible(label) for label in self.labels],
            extent=(0.0, positions * self.seconds_per_position, rows - 0.5, -0.5),
            facecolor="white",
            backend=backend,
        )

    draw = renamed_method("draw", "plot")


@dataclass(frozen=True, repr=False)
class Script(Showing):
    """Teacher-forced input of the decoder.

    tokens: prompt, text, end-of-text. word_ends: number of text tokens up to the end of each word.
    """

    tokens: tuple[int, ...]
    n_prompt: int
    words: tuple[str, ...]
    word_ends: tuple[int, ...]

    @property
    def rows(self) -> slice:
        """Decoder rows that predict the text and end-of-text. A row predicts the next token, so they start at the last
        token of the prompt."""
        return slice(self.n_prompt - 1, len(self.tokens) - 1)


def script(model: HookedWhisper, text: str, unit: Unit = "token", language: str = "en") -> Script:
    """Return the decoder input for a text: prompt without timestamps, text, end-of-text.

    unit: ``"token"`` as the tokenizer splits it; ``"character"`` for one token per letter, the first of a word with
        its space, so that the path can also advance within a word (arXiv 2509.09987).

    Raises:
        AlignmentError: the text has no words, it is longer than the decoder's window, or ``unit`` is unknown.
    """
    check_option("unit", unit, get_args(Unit), AlignmentError)
    spoken = text.split()
    if not spoken:
        raise AlignmentError("the text has no words to align: give the transcript")
    tokenizer = model.tokenizer
    prompt = model.to_tokens("", language=language if model.is_multilingual else "en")[0].tolist()
    if unit == "token":
        ids = model.to_tokens(" " + " ".join(spoken), prompt=False)[0].tolist()
        words, pieces = tokenizer.split_to_word_tokens([*ids, tokenizer.eot])
        words, lengths = words[:-1], [len(p) for p in pieces[:-1]]
        words, lengths = _with_punctuation(words, lengths)
    else:
        spelled = [[tokenizer.encode(f" {w[0]}"), *(tokenizer.encode(c) for c in w[1:])] for w in spoken]
        rows = [[i for piece in pieces for i in piece] for pieces in spelled]
        ids, words, lengths = [i for row in rows for i in row], spoken, [len(row) for row in rows]
    tokens = (*prompt, *ids, tokenizer.eot)
    if len(tokens) > model.cfg.decoder.n_ctx:
        raise AlignmentError(
            f"the transcript and its prompt have {len(tokens)} {unit}s, the decoder takes "
            f"{model.cfg.decoder.n_ctx}: align it in parts"
        )
    return Script(tokens, len(prompt), tuple(w.strip() for w in words), tuple(np.cumsum(lengths).tolist()))


def _with_punctuation(words: Sequence[str], lengths: Sequence[int]) -> tuple[list[str], list[int]]:
    """Join punctuation that the tokenizer split off to the word before it."""
    joined: list[str] = []
    counts: list[int] = []
    for word, n in zip(words, lengths, strict=True):
        if joined and not any(c.isalnum() for c in word) and not word.startswith(" "):
            joined[-1] += word
            counts[-1] += n
        else:
            joined.append(word)
            counts.append(n)
    return joined, counts


@torch.no_grad()
def cross_scores(
    model: HookedWhisper,
    encoder_out: Float[Tensor, "1 position d_model"],
    tokens: Sequence[int],
    n_positions: int,
    heads: Sequence[HeadLike] | None = None,
) -> Float[Tensor, "head token filled"]:
    """Return pre-softmax cross-attention scores of heads (default: all, block by block) over the first ``n_positions``.

    Takes one pass of the decoder. Live hooks and masks apply.

    Raises:
        AlignmentError: as :func:`check_heads`.
    """
    refs = check_heads(model, heads)
    blocks = sorted({block for block, _ in refs})
    scores: dict[int, Tensor] = {}

    def keep(x: Tensor, hook: HookPoint) -> None:
        of_block = [head for block, head in refs if block == hook.layer()]
        scores[hook.layer()] = x[0, of_block, :, :n_positions].clone()

    ids = torch.tensor([list(tokens)], device=model.device)
    with model.hooks(fwd_hooks=[([_NAMES.format(block) for block in blocks], keep)]):
        model.decoder.hidden(ids, encoder_out)
    rows = {block: iter(scores[block]) for block in blocks}
    return torch.stack([next(rows[block]) for block, _ in refs]).float()


def check_heads(model: HookedWhisper, heads: Sequence[HeadLike] | None) -> list[BlockHead]:
    """Return cross-attention heads as ``(block, head)``; all of them for ``None``.

    heads: ``(block, head)``, ``"cross 3.1"``, ...; see :meth:`HeadRef.parse`.

    Raises:
        AlignmentError: the list is empty, or a head does not exist or is not a cross-attention head.
    """
    refs = read_heads(heads, model.cfg, "cross", AlignmentError)
    if not refs:
        raise AlignmentError("no heads to align with: give at least one (block, head), or None for all")
    for ref in refs:
        if ref.stack != "cross":
            raise AlignmentError(f"{ref} is not a cross-attention head: give (block, head) or 'cross 3.1'")
    return [(ref.block, ref.head) for ref in refs]


def head_maps(
    scores: Float[Tensor, "head token position"], method: Method
) -> tuple[Float[Tensor, "head token position"], Float[Tensor, "head"]]:
    """Return each head's normalized map, and the weight by which the method selects heads (``"norms"``: summed row and
    column norms; ``"whisper"``: 1).

    Raises:
        AlignmentError: ``method`` is unknown.
    """
    check_option("method", method, get_args(Method), AlignmentError)
    from whisper.timing import median_filter

    if method == "whisper":
        weights = scores.softmax(-1)
        std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
        maps = torch.nan_to_num((weights - mean) / std, nan=0.0, posinf=0.0, neginf=0.0)
        return median_filter(maps, MEDIAN_WIDTH[method]), torch.ones(len(scores), device=scores.device)
    weights = median_filter(scores, MEDIAN_WIDTH[method]).softmax(-1)
    columns = weights.norm(dim=-2, keepdim=True)
    strength = columns.sum((-2, -1)) + weights.norm(dim=-1).sum(-1)
    return weights / columns.clamp_min(torch.finfo(weights.dtype).tiny), strength


def word_times(
    matrix: Float[Tensor, "row position"], text: Script, seconds_per_position: float | int
) -> tuple[Interval, ...]:
    """Return word times along the path with the largest sum through ``matrix`` (rows as :attr:`Script.rows`)."""
    times = path_starts(matrix) * float(seconds_per_position)
    edges = times[[0, *text.word_ends]]
    return tuple(Interval(float(a), float(b), w) for a, b, w in zip(edges[:-1], edges[1:], text.words, strict=True))


def path_starts(matrix: Float[Tensor, "row position"]) -> Int[np.ndarray, "row"]:
    """Return the position at which the path with the largest sum enters each row (``whisper.timing.dtw``)."""
    from whisper.timing import dtw

    with threads_kept():
        rows, positions = dtw(-matrix)
    return positions[np.append(True, np.diff(rows) > 0)]


@torch.no_grad()
def align(
    model: HookedWhisper,
    source: Float[Tensor, "1 a b"],
    text: str,
    *,
    duration: float | int | None = None,
    heads: Sequence[HeadLike] | None = None,
    method: Method = "whisper",
    unit: Unit | None = None,
    language: str = "en",
) -> WordAlignment:
    """Return when each word of a transcript is spoken.

    Args:
        source: one clip: its mel ``[1, mel, frame]`` or its encoder output ``[1, position, d_model]``.
        text: the transcript, teacher-forced.
        duration: of the clip (s); attention to the padding after it is ignored. Default: the whole window.
        heads: cross-attention heads to average, ``(block, head)`` or ``"cross 3.1"``. Default: ``"whisper"`` takes
            ``model.alignment_heads``, ``"norms"`` the ten strongest in this clip.
        method: ``"whisper"`` or ``"norms"``; see :mod:`hooked_whisper.analysis.alignment`.
        unit: ``"token"`` or ``"character"``; default: tokens for ``"whisper"``, characters for ``"norms"``.

    Raises:
        AlignmentError: the transcript is empty or too long, a head does not exist, or a method or unit is unknown.
        AudioError: ``duration`` is outside the window.
    """
    check_option("method", method, get_args(Method), AlignmentError)
    if unit is not None:
        check_option("unit", unit, get_args(Unit), AlignmentError)
    used_unit: Unit = unit or ("character" if method == "norms" else "token")
    text_script = script(model, text, used_unit, language)
    time = model.time
    n_positions = time.n_ctx if duration is None else time.n_positions(duration)
    if not n_positions:
        raise AlignmentError("the clip has no audio: give a duration above 0 s")
    encoder_out = encode(model, source)
    candidates = heads
    if heads is None and method == "whisper":
        candidates = [(int(b), int(h)) for b, h in model.alignment_heads.indices().T.tolist()]
    averaged = check_heads(model, candidates)
    maps, strength = head_maps(cross_scores(model, encoder_out, text_script.tokens, n_positions, averaged), method)
    if heads is None and method == "norms":
        best = strength.topk(min(TOP_HEADS, len(averaged))).indices.sort().values
        maps, averaged = maps[best], [averaged[i] for i in best.tolist()]
    matrix = maps.mean(0)[text_script.rows].cpu()
    labels = model.to_str_tokens(list(text_script.tokens[text_script.n_prompt :]))
    words = word_times(matrix, text_script, time.seconds_per_position)
    return WordAlignment(
        words, tuple(averaged), method, used_unit, tuple(labels), matrix.numpy(), time.seconds_per_position
    )


def encode(model: HookedWhisper, source: Float[Tensor, "clip a b"]) -> Float[Tensor, "clip position d_model"]:
    """Return the encoder output of a mel; an encoder output is returned unchanged.

    Raises:
        AlignmentError: ``source`` has neither shape.
    """
    cfg = model.cfg.encoder
    if source.shape[1:] == (cfg.n_mels, cfg.n_frames):
        return model.embed_audio(source)
    if source.shape[1:] == (cfg.n_ctx, cfg.d_model):
        return source
    raise AlignmentError(
        f"a clip is a mel [{cfg.n_mels}, {cfg.n_frames}] or an encoder output [{cfg.n_ctx}, {cfg.d_model}], "
        f"got {list(source.shape[1:])}: model.to_mel(audio) makes a mel"
    )
