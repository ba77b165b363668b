"""Runs of a model with SAEs attached, or with an activation ablated, beside the clean run.

Shared work is done once: the encoder up to the block of the hook point, the reference tokens, the clean predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments
from hooked_whisper.corpora import Clip
from hooked_whisper.errors import AlignmentError, ArgumentError, HookedWhisperError, check_option
from hooked_whisper.features.phones.labeled_evaluation import Track
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.ablate import ablate
from hooked_whisper.interventions.activation_values import By, Means
from hooked_whisper.interventions.transcriber import Transcriber
from hooked_whisper.patching.resume import locate, n_layers
from hooked_whisper.protocols import AttachableSAE
from hooked_whisper.text import word_errors
from sae_lens_audio.evals.attached import CLEAN, MEAN, PADDING_TOO, ZERO, AttachedScores, ConditionCounts

Where = Literal["sound", "all"]
Selected = Bool[Tensor, "clip position"] | slice | None  # positions of each clip, a slice of tokens, or everywhere
CLIPS = 8  # per batch
_LOGITS = 1 << 26  # logits of reference tokens in memory: 256 MiB


class NoTextError(HookedWhisperError, ValueError):
    """No clip is a whole recording with its text.

    Cause: the corpus has no transcripts, or its recordings are longer than the model's window.
    Fix: add transcripts; cut long recordings.
    """


@renamed_arguments(dictionaries="saes")
@torch.no_grad()
def attached_scores(
    model: HookedWhisper,
    clips: Sequence[Clip],
    hook: str,
    saes: Mapping[str, AttachableSAE],
    mean: Float[Tensor, "d"],
    *,
    hook_out: str | None = None,
    where: Where = "sound",
    padding_too: Sequence[str] = (),
    language: str = "en",
    seed: int = 0,
    track: Track | None = None,
) -> AttachedScores:
    """Score every clip clean, with each SAE attached at ``hook``, and with the activation set to its mean or to zero.

    Word errors are of greedy transcripts; cross-entropy and divergence are teacher-forced on the references.

    Args:
        clips: whole recordings of at most one window, with their text; others are skipped.
        saes: SAEs or sparse baselines by name.
        mean: mean activation at ``hook_out`` (or ``hook``), from training rows.
        hook_out: the hook point that a transcoder predicts.
        where: ``"sound"`` replaces the positions that a clip fills and keeps padding (at decoder points: the tokens of
            the text, and keeps the prompt), for SAEs trained without padding; ``"all"`` replaces everywhere. Ablations
            do the same.
        padding_too: names of SAEs to run once more with ``"all"``.
        seed: of the bootstrap.
        track: wraps the batches, for instance in a progress bar.

    Raises:
        ArgumentError: an unknown or reserved name, or ``hook`` names several points.
        PatchError: an SAE does not fit the point.
        NoTextError: no clip is a whole recording with its text.
        AlignmentError: a text does not fit in the decoder.
        AudioError: a clip is longer than the window.
    """
    check_option("where", where, get_args(Where))
    reads = _name(model, hook)
    writes = reads if hook_out is None else _name(model, hook_out)
    whole = whole_clips(model, clips)
    if unknown := sorted(set(padding_too) - set(saes)):
        raise ArgumentError(f"padding_too names {unknown[0]!r}, which is not among the SAEs")
    if reserved := sorted(set(saes) & {CLEAN, ZERO, MEAN}):
        raise ArgumentError(f"an SAE cannot be called {reserved[0]!r}: that is a condition of every run")
    of_tokens = "token" in model.hook_dict[writes].axes
    conditions = _conditions(model, reads, writes, saes, mean, where)
    if where == "sound" and not of_tokens:
        more = _conditions(model, reads, writes, {name: saes[name] for name in padding_too}, mean, "all")
        conditions += [_Condition(f"{c.name}{PADDING_TOO}", "all", c.live) for c in more[: len(padding_too)]]
    runner = _Runner(model, whole, _resume(model, reads, writes), conditions, of_tokens, language)
    for batch in runner.batches if track is None else track(runner.batches):
        runner.run(batch)
    replaced = "text" if of_tokens and where == "sound" else where
    return AttachedScores(
        reads,
        writes,
        replaced,
        runner.ids,
        tuple(runner.references),
        runner.words,
        runner.tokens,
        runner.counts(),
        seed,
    )


def _name(model: HookedWhisper, hook: str) -> str:
    names = model.hook_names(hook)
    if len(names) != 1:
        raise ArgumentError(f"{hook!r} names {len(names)} points: an SAE is attached at one")
    return names[0]


def whole_clips(model: HookedWhisper, clips: Sequence[Clip]) -> list[Clip]:
    """Return the clips that are whole recordings with their text.

    Raises:
        NoTextError: there is none.
    """
    rate, position = model.time.sample_rate, model.time.seconds_per_position
    whole = [
        clip
        for clip in clips
        if clip.alignment.text.strip()
        and not clip.offset
        and clip.alignment.duration <= len(clip.samples) / rate + position
    ]
    if not whole:
        raise NoTextError(
            f"none of {len(clips)} clips is a whole recording with its text, so word errors and cross-entropy "
            f"are undefined: give texts, and recordings of {model.time.duration:g} s or less"
        )
    return whole


@dataclass(frozen=True, eq=False)
class _Condition:
    name: str
    where: Where
    live: Callable[[Selected], AbstractContextManager[Any]]  # takes the positions


def _conditions(
    model: HookedWhisper,
    reads: str,
    writes: str,
    saes: Mapping[str, AttachableSAE],
    mean: Float[Tensor, "d"],
    where: Where,
) -> list[_Condition]:
    out = None if reads == writes else writes

    def attached(sae: AttachableSAE) -> Callable[[Selected], AbstractContextManager[Any]]:
        return lambda positions: model.attach_sae(sae, reads, hook_out=out, positions=positions)

    def ablated(by: By) -> Callable[[Selected], AbstractContextManager[Any]]:
        def live(positions: Selected) -> AbstractContextManager[Any]:
            tokens = positions if isinstance(positions, slice) else None
            [(name, change)] = ablate(model, writes, by=by, positions=tokens)
            if isinstance(positions, Tensor):
                change = _only_at(positions, change)
            return model.hooks(fwd_hooks=[(name, change)])

        return live

    conditions = [_Condition(name, where, attached(sae)) for name, sae in saes.items()]
    by_mean = Means({writes: _at_point(model, writes, mean)}, {writes: 1})
    return [*conditions, _Condition(MEAN, where, ablated(by_mean)), _Condition(ZERO, where, ablated("zero"))]


def _at_point(model: HookedWhisper, name: str, mean: Float[Tensor, "d"]) -> Tensor:
    """Return a mean row in the shape of the hook point's vectors, split into heads where it has heads."""
    cfg = model.cfg.encoder if name.startswith("encoder.") else model.cfg.decoder
    heads = "head" in model.hook_dict[name].axes
    value = mean.to(model.device, model.dtype)
    return value.unflatten(0, (cfg.n_heads, -1)) if heads else value


def _only_at(positions: Bool[Tensor, "clip position"], change: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Restrict a change to these positions."""

    def changed(x: Tensor, hook: Any) -> Tensor:
        return torch.where(positions.view(*positions.shape, *[1] * (x.dim() - 2)), change(x, hook), x)

    return changed


@dataclass(frozen=True, eq=False)
class _Resume:
    """cache: hook point of the clean pass to resume from. resume: from its activation to the encoder output."""

    cache: str
    resume: Callable[[Tensor], Tensor]


def _resume(model: HookedWhisper, reads: str, writes: str) -> _Resume:
    stack, block = locate(model, reads)
    encoder, last = model.encoder, n_layers(model, "encoder")
    if stack == "decoder":
        return _Resume("encoder.hook_out", lambda x: x)

    def at_point(x: Tensor) -> Tensor:
        encoder.clock.offset = 0
        changed = model.hook_dict[reads](x)
        return changed if reads == "encoder.hook_out" else encoder.from_resid(changed, block + 1)

    if reads == writes and (reads == "encoder.hook_out" or reads.endswith(".hook_resid_post")):
        return _Resume(reads, at_point)
    if block < 0:
        return _Resume("encoder.hook_mel", model.embed_audio)
    name = f"encoder.blocks.{block}.hook_resid_pre" if block < last else f"encoder.blocks.{last - 1}.hook_resid_post"
    return _Resume(name, lambda x: encoder.from_resid(x, block))


class _Runner:
    """Runs batches of clips in every condition and collects the results.

    It does not read :mod:`hooked_whisper.activations`: that stream stops at the last hook point and gives rows, but
    each condition here continues the same clean pass to the encoder output and decodes it.
    """

    def __init__(
        self,
        model: HookedWhisper,
        clips: Sequence[Clip],
        resume: _Resume,
        conditions: Sequence[_Condition],
        of_tokens: bool,
        language: str,
    ) -> None:
        self.model, self.clips, self.resume, self.of_tokens = model, clips, resume, of_tokens
        self.conditions = [_Condition(CLEAN, "all", lambda positions: nullcontext()), *conditions]
        tokenizer = model.tokenizer
        self.forced = [[*tokenizer.encode(f" {c.alignment.text.strip()}"), tokenizer.eot] for c in clips]
        longest = max(map(len, self.forced))
        self.write = Transcriber(model, language, min(2 * longest + 4, model.cfg.decoder.n_ctx), batch=CLIPS)
        self.prompt = self.write.prompt()
        for clip, ids in zip(clips, self.forced, strict=True):
            if self.prompt.shape[1] + len(ids) > model.cfg.decoder.n_ctx:
                raise AlignmentError(f"{clip.alignment.utterance}: {len(ids)} tokens do not fit in the decoder")
        self.references = [self.write.normalize(c.alignment.text) for c in clips]
        self.ids = tuple(c.alignment.utterance for c in clips)
        self.words = np.array([len(text.split()) for text in self.references])
        self.tokens = np.array(list(map(len, self.forced)))
        step = max(1, min(CLIPS, _LOGITS // (longest * model.cfg.decoder.n_vocab)))
        self.batches = [list(range(k, min(k + step, len(clips)))) for k in range(0, len(clips), step)]
        self._texts: dict[str, list[str]] = {c.name: [] for c in self.conditions}
        self._nats: dict[str, list[float]] = {c.name: [] for c in self.conditions}
        self._kl: dict[str, list[float]] = {c.name: [] for c in self.conditions}

    def run(self, batch: list[int]) -> None:
        """Run the clips of one batch in every condition, clean first."""
        model = self.model
        mel = model.to_mel([self.clips[i].samples for i in batch])
        name = self.resume.cache
        encoded, cache = model.run_with_cache(mel, names_filter=[name])
        assert encoded is not None
        sound = self._sound(batch)
        targets = self._padded(batch)
        clean: Tensor | None = None
        for condition in self.conditions:
            with condition.live(None if condition.where == "all" else sound):
                changed = encoded if condition.name == CLEAN else self.resume.resume(cache[name])
                texts = self.write(changed)
                logprobs = self._forced(changed, targets)
            clean = logprobs if clean is None else clean
            self._add(condition.name, batch, texts, targets, logprobs, clean)

    def _sound(self, batch: list[int]) -> Selected:
        """Return the positions without padding, or the tokens without the prompt."""
        if self.of_tokens:
            return slice(self.prompt.shape[1], self.model.cfg.decoder.n_ctx)
        time = self.model.time
        ends = [time.n_positions(len(self.clips[i].samples) / time.sample_rate) for i in batch]
        positions = torch.arange(self.model.cfg.encoder.n_ctx, device=self.model.device)
        return positions < torch.tensor(ends, device=positions.device)[:, None]

    def _padded(self, batch: list[int]) -> Int[Tensor, "clip token"]:
        longest = max(len(self.forced[i]) for i in batch)
        eot = self.model.tokenizer.eot
        # pad with end-of-text: causal attention hides what follows a token
        rows = [[*self.forced[i], *[eot] * (longest - len(self.forced[i]))] for i in batch]
        return torch.tensor(rows, device=self.model.device)

    def _forced(
        self, encoded: Float[Tensor, "clip position d_model"], targets: Int[Tensor, "clip token"]
    ) -> Float[Tensor, "clip token vocab"]:
        """Return log-probabilities of the next token at every token of the reference."""
        decoder = self.model.decoder
        prompt = self.prompt.to(targets).expand(len(targets), -1)
        hidden = decoder.hidden(torch.cat([prompt, targets], dim=1)[:, :-1], encoded)
        return decoder.to_logits(hidden[:, prompt.shape[1] - 1 :]).log_softmax(-1)

    def _add(
        self,
        name: str,
        batch: list[int],
        texts: Iterable[str],
        targets: Int[Tensor, "clip token"],
        logprobs: Float[Tensor, "clip token vocab"],
        clean: Float[Tensor, "clip token vocab"],
    ) -> None:
        inside = torch.arange(targets.shape[1], device=targets.device) < torch.tensor(
            [[len(self.forced[i])] for i in batch], device=targets.device
        )
        token_logprobs = logprobs.gather(-1, targets[..., None])[..., 0].double()
        # padding after the end token is not counted
        divergence = (clean.exp() * (clean - logprobs)).sum(-1).double()
        self._texts[name] += texts
        self._nats[name] += (-token_logprobs).masked_fill(~inside, 0).sum(1).tolist()
        self._kl[name] += divergence.masked_fill(~inside, 0).sum(1).clamp_min(0).tolist()

    def counts(self) -> dict[str, ConditionCounts]:
        counts = {}
        for name in self._texts:
            errors = word_errors(self.references, self._texts[name], None)
            counts[name] = ConditionCounts(
                tuple(self._texts[name]),
                np.array([e.errors for e in errors]),
                np.array(self._nats[name]),
                np.array(self._kl[name]),
            )
        return counts
