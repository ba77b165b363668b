"""Word times from cross-attention: heads that read the audio in order, and the cheapest path through their maps.

Two recipes. ``"whisper"``: OpenAI's (github.com/openai/whisper, ``timing.py``): pre-softmax scores of known alignment
heads cut to the audio, softmax, z-score over tokens, median filter 7, mean over heads. ``"norms"``: Yeh et al. 2025,
"Whisper Has an Internal Word Aligner", arXiv 2509.09987 (github.com/30stomercury/whisper-char-alignment, its
``timing.py``): median filter 3, softmax, the ten heads of the largest sum of row and column norms in this very clip,
columns normalised, mean. Both end with dynamic time warping; it, the median filter and the split into words are
openai-whisper's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper.decoding import threads_kept
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint
from hooked_whisper.protocols import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["whisper", "norms"]
Unit = Literal["token", "character"]
Head = tuple[int, int]
MEDIAN_WIDTH = {"whisper": 7, "norms": 3}  # positions
TOP_HEADS = 10  # of the recipe "norms"
_NAMES = "decoder.blocks.{}.cross_attn.hook_attn_scores"


@dataclass(frozen=True, eq=False)
class WordAlignment:
    """Words with their times, and what they were read from.

    words: times in seconds; a word begins where the one before it ends, the first at 0.
    heads: (block, head) that were averaged.
    labels: what each row of ``matrix`` comes to write: the tokens of the text, and the end.
    matrix: the averaged map; the path maximises its sum.
    """

    words: tuple[Interval, ...]
    heads: tuple[Head, ...]
    method: Method
    unit: Unit
    labels: tuple[str, ...]
    matrix: Float[np.ndarray, "row position"]
    seconds_per_position: float

    def draw(self, title: str = "") -> Figure:
        """The averaged map: text down, seconds across."""
        rows, positions = self.matrix.shape
        return heat_map(
            self.matrix,
            title=title or f"Alignment ({self.method}, {len(self.heads)} heads)",
            x="time (s)",
            y="before token",
            unit="mean normalised attention",
            rows=self.labels,
            extent=(0.0, positions * self.seconds_per_position, rows - 0.5, -0.5),
        )

    def __repr__(self) -> str:
        words = ", ".join(f"{w.label} {w.start:.2f}-{w.end:.2f}" for w in self.words)
        return f"WordAlignment({self.method}, {len(self.heads)} heads: {words})"


@dataclass(frozen=True)
class Script:
    """A text as the decoder reads it, teacher-forced. ``tokens`` are prompt, text, end; ``word_ends[w]`` is how many
    text tokens there are up to the end of word ``w``."""

    tokens: tuple[int, ...]
    n_prompt: int
    words: tuple[str, ...]
    word_ends: tuple[int, ...]

    @property
    def rows(self) -> slice:
        """Of the decoder's rows, those that write the text's tokens and the end: one later than the prompt's last
        but one, since a row writes what comes after it."""
        return slice(self.n_prompt - 1, len(self.tokens) - 1)


def script(model: HookedWhisper, text: str, unit: Unit = "token", language: str = "en") -> Script:
    """Prompt without timestamps, text, end of text.

    unit: ``"token"`` as the tokenizer splits it; ``"character"``: one token per letter, the first of a word with its
        space, so that the path can step within a word too (arXiv 2509.09987).

    Raises:
        AlignmentError: no words, more tokens than the decoder has places for, or an unknown unit.
    """
    check_option("unit", unit, get_args(Unit), AlignmentError)
    spoken = text.split()
    if not spoken:
        raise AlignmentError("there are no words to align: give the transcript as text")
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
            f"the transcript is {len(tokens)} {unit}s long with its prompt, the decoder has "
            f"{model.cfg.decoder.n_ctx} places: align it in parts"
        )
    return Script(tokens, len(prompt), tuple(w.strip() for w in words), tuple(np.cumsum(lengths).tolist()))


def _with_punctuation(words: Sequence[str], lengths: Sequence[int]) -> tuple[list[str], list[int]]:
    """Punctuation that the tokenizer made a word of its own goes back to the word before it."""
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
    heads: Sequence[Head] | None = None,
) -> Float[Tensor, "chosen token heard"]:
    """Pre-softmax cross-attention scores of the chosen heads (default: all, block by block), over the first
    ``n_positions``; one pass of the decoder, and no more than this is kept of it. Hooks and masks that are in place
    have their effect."""
    chosen = check_heads(model, heads)
    blocks = sorted({block for block, _ in chosen})
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor, hook: HookPoint) -> None:
        block = int(hook.name.split(".")[2])
        mine = [head for b, head in chosen if b == block]
        kept[block] = x[0, mine, :, :n_positions].clone()

    ids = torch.tensor([list(tokens)], device=model.device)
    with model.hooks(fwd_hooks=[([_NAMES.format(block) for block in blocks], keep)]):
        model.decoder.hidden(ids, encoder_out)
    at = {block: iter(kept[block]) for block in blocks}
    return torch.stack([next(at[block]) for block, _ in chosen]).float()


def check_heads(model: HookedWhisper, heads: Sequence[Head] | None) -> list[Head]:
    """The heads as given; all cross-attention heads for ``None``.

    Raises:
        AlignmentError: none, or one that the decoder does not have.
    """
    cfg = model.cfg.decoder
    every = [(block, head) for block in range(cfg.n_layers) for head in range(cfg.n_heads)]
    if heads is None:
        return every
    known = set(every)
    for pair in heads:
        if tuple(pair) not in known:
            raise AlignmentError(
                f"there is no cross-attention head {tuple(pair)}: blocks are 0 to {cfg.n_layers - 1}, heads 0 to "
                f"{cfg.n_heads - 1}, as (block, head)"
            )
    if not heads:
        raise AlignmentError("no heads to align with: give at least one (block, head), or None")
    return [(int(block), int(head)) for block, head in heads]


def head_maps(
    scores: Float[Tensor, "head token position"], method: Method
) -> tuple[Float[Tensor, "head token position"], Float[Tensor, "head"]]:
    """Each head's normalised map, and the recipe's own weight of the head (``"norms"``: summed row and column norms).

    The maps of chosen heads are averaged; see the head of this file for the two recipes.
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
    """The words along the path of the largest sum through ``matrix`` (rows as :attr:`Script.rows`)."""
    times = path_starts(matrix) * float(seconds_per_position)
    edges = times[[0, *text.word_ends]]
    return tuple(Interval(float(a), float(b), w) for a, b, w in zip(edges[:-1], edges[1:], text.words, strict=True))


def path_starts(matrix: Float[Tensor, "row position"]) -> Int[np.ndarray, "row"]:
    """Position at which the path of the largest sum enters each row (dynamic time warping, ``whisper.timing.dtw``)."""
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
    heads: Sequence[Head] | None = None,
    method: Method = "whisper",
    unit: Unit | None = None,
    language: str = "en",
) -> WordAlignment:
    """When each word of a transcript is said.

    Args:
        source: one clip: its mel ``[1, mel, frame]`` or its encoder output ``[1, position, d_model]``.
        text: the transcript, teacher-forced.
        duration: of the clip (s); attention to the padding behind it is cut away. Default: the whole window.
        heads: (block, head) to average. Default: ``"whisper"`` takes ``model.alignment_heads``, ``"norms"`` its ten
            strongest in this clip.
        method: ``"whisper"`` or ``"norms"``, see the head of this file.
        unit: ``"token"`` or ``"character"``; default: tokens for ``"whisper"``, characters for ``"norms"``.

    Raises:
        AlignmentError: no words, a transcript too long, heads that do not exist, an unknown method or unit.
        AudioError: a duration outside the window.
    """
    check_option("method", method, get_args(Method), AlignmentError)
    if unit is not None:
        check_option("unit", unit, get_args(Unit), AlignmentError)
    used: Unit = unit or ("character" if method == "norms" else "token")
    text_of = script(model, text, used, language)
    time = model.time
    n_positions = time.n_ctx if duration is None else time.n_positions(duration)
    if not n_positions:
        raise AlignmentError("the clip has no audio: its duration must be more than 0 s")
    encoder_out = encode(model, source)
    given = heads
    if heads is None and method == "whisper":
        given = [(int(b), int(h)) for b, h in model.alignment_heads.indices().T.tolist()]
    chosen = check_heads(model, given)
    maps, strength = head_maps(cross_scores(model, encoder_out, text_of.tokens, n_positions, chosen), method)
    if heads is None and method == "norms":
        best = strength.topk(min(TOP_HEADS, len(chosen))).indices.sort().values
        maps, chosen = maps[best], [chosen[i] for i in best.tolist()]
    matrix = maps.mean(0)[text_of.rows].cpu()
    labels = model.to_str_tokens(list(text_of.tokens[text_of.n_prompt :]))
    words = word_times(matrix, text_of, time.seconds_per_position)
    return WordAlignment(words, tuple(chosen), method, used, tuple(labels), matrix.numpy(), time.seconds_per_position)


def encode(model: HookedWhisper, source: Float[Tensor, "clip a b"]) -> Float[Tensor, "clip position d_model"]:
    """Encoder output of a mel; an encoder output as it is."""
    cfg = model.cfg.encoder
    if source.shape[1:] == (cfg.n_mels, cfg.n_frames):
        return model.embed_audio(source)
    if source.shape[1:] == (cfg.n_ctx, cfg.d_model):
        return source
    raise AlignmentError(
        f"a clip is a mel of [{cfg.n_mels}, {cfg.n_frames}] or an encoder output of [{cfg.n_ctx}, {cfg.d_model}], "
        f"got {list(source.shape[1:])}: take model.to_mel(audio)"
    )
