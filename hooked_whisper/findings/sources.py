"""Where a finding's clips and truth come from: the spoken world, or a user's own recordings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hooked_whisper.analysis.alignment import align
from hooked_whisper.audio import load_audio
from hooked_whisper.errors import AlignmentError, AudioError
from hooked_whisper.findings.context import Context, Utterance
from hooked_whisper.findings.transcripts import Transcriber, normalize_words
from hooked_whisper.findings.truth import Truth, make_truth
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment
from hooked_whisper.speech.recordings import held_out_sentences
from hooked_whisper.speech.world import SpokenWorld

LEAD = 0.5  # seconds of silence before a synthetic clip, so that a cut can be moved to before its first word
DEMO = "demo"
FURTHER = 200  # clips for findings on phones: with the first 100 most phones are said 50 times or more


@dataclass(frozen=True)
class Clips:
    """Utterances and a sentence on where they are from."""

    utterances: tuple[Utterance, ...]
    origin: str


def world_of(model: str) -> SpokenWorld | None:
    """The world that a model was trained on: the packaged one for ``demo``, or one saved beside the weights."""
    if model == DEMO:
        return SpokenWorld.default()
    folder = Path(model)
    return SpokenWorld.load(folder) if (folder / "grammar.json").is_file() else None


def truth_of(world: SpokenWorld, model: HookedWhisper) -> Truth:
    """What is true in a world, with this model's token ids."""
    from hooked_whisper.speech.corpus import CorpusConfig
    from hooked_whisper.speech.grammar import MAX_WORDS, MIN_WORDS

    return make_truth(
        world.words,
        {word: model.to_single_token(f" {word}") for word in world.words},
        model.tokenizer.eot,
        np.asarray(world.transition_matrix),
        world.sounds.phones,
        world.sounds.rhyme_of,
        shortest=MIN_WORDS,
        longest=MAX_WORDS,
        sentences=CorpusConfig().train,
        class_of=world.grammar.class_of,
    )


def synthetic_clips(world: SpokenWorld, count: int, seed: int = 0) -> Clips:
    """Held-out sentences spoken by the held-out speakers of espeak-ng in turn; the packaged clips without it."""
    speakers = [s.id for s in world.speakers if s.split == "held-out" and s.synthesiser == "espeak"]
    texts = held_out_sentences(world, 2 * count, seed)  # some sentences have words the synthesiser runs together
    try:
        utterances = _spoken(world, texts, speakers, count)
    except (RuntimeError, OSError, ImportError) as error:
        return packaged_clips(world, count, f"no synthesiser ({error})")
    return Clips(
        utterances,
        f"{len(utterances)} held-out sentences spoken by held-out speakers {', '.join(speakers)} (espeak-ng)",
    )


def further_clips(
    world: SpokenWorld, taken: Sequence[Utterance], count: int = FURTHER, seed: int = 0
) -> tuple[Utterance, ...]:
    """Other held-out sentences than those taken, by all held-out speakers in turn: flite's too if flite is there.

    Without espeak-ng: the packaged clips that are not among those taken.
    """
    known = {u.text for u in taken}
    voices = [s for s in world.speakers if s.split == "held-out"]
    speakers = [s.id for s in voices if s.synthesiser == "espeak" or shutil.which(s.synthesiser)]
    texts = [t for t in held_out_sentences(world, 2 * (count + len(taken)), seed) if t not in known]
    try:
        return _spoken(world, texts, speakers, count, "more-")
    except (RuntimeError, OSError, ImportError):
        names = {u.id for u in taken}
        return tuple(u for u in packaged_clips(world, len(taken) + count, "").utterances if u.id not in names)


def _spoken(
    world: SpokenWorld, texts: Sequence[str], speakers: Sequence[str], count: int, prefix: str = ""
) -> tuple[Utterance, ...]:
    """As many of the texts as are wanted, by the speakers in turn; texts that cannot be said are passed over."""
    utterances: list[Utterance] = []
    for text in texts:
        if len(utterances) == count:
            break
        speaker = speakers[len(utterances) % len(speakers)]
        try:
            audio, alignment = world.say(text, speaker)
        except ValueError:
            continue
        utterances.append(_with_lead(audio, replace(alignment, utterance=f"{prefix}{speaker}-{len(utterances):03d}")))
    return tuple(utterances)


def packaged_clips(world: SpokenWorld, count: int, why: str) -> Clips:
    """The held-out recordings that ship with the package."""
    clips = world.clips()[:count]
    utterances = tuple(_with_lead(clip.audio, clip.alignment) for clip in clips)
    return Clips(utterances, f"{why}: the {len(utterances)} packaged held-out clips instead")


def _with_lead(audio: np.ndarray, alignment: Alignment) -> Utterance:
    lead = np.zeros(round(LEAD * 16_000), np.float32)
    return Utterance(np.concatenate([lead, audio.astype(np.float32)]), alignment.shifted(LEAD))


def recordings(model: HookedWhisper, files: Sequence[str], language: str) -> Clips:
    """A user's files in windows of the model's length; text and word times are the model's own, without intervention.

    Raises:
        AudioError: a file that is missing or is not audio.
    """
    utterances: list[Utterance] = []
    window = model.time.n_samples
    for file in files:
        samples = load_audio(file).detach().cpu().float()
        for number, start in enumerate(range(0, len(samples), window)):
            part = samples[start : start + window]
            if len(part) < 1600:
                continue
            name = Path(file).name if len(samples) <= window else f"{Path(file).name} #{number + 1}"
            utterances.append(_recorded(model, part, name, language))
    if not utterances:
        raise AudioError("the audio files have less than 0.1 s of sound in them: give longer ones")
    files_word = "file" if len(files) == 1 else "files"
    return Clips(
        tuple(utterances), f"{len(utterances)} windows of {len(files)} {files_word}; text and times by the model"
    )


@torch.no_grad()
def _recorded(model: HookedWhisper, samples: torch.Tensor, name: str, language: str) -> Utterance:
    """The text is what the model writes in one greedy pass, as the findings read it; the times are by alignment."""
    duration = len(samples) / model.time.sample_rate
    encoded = model.embed_audio(model.to_mel(samples))
    text = _readable(model, Transcriber(model, language)(encoded)[0])
    try:
        found = align(model, encoded, text, duration=duration, language=language).words
    except AlignmentError:  # nothing written, or more than the decoder can read again: no word has a time
        found = ()
    words = (replace(w, start=min(w.start, duration), end=min(w.end, duration)) for w in found)
    return Utterance(samples.numpy(), Alignment(name, name, text, duration, tuple(words)))


def _readable(model: HookedWhisper, text: str) -> str:
    """As much of a text as the decoder can read again; a model that raves writes more."""
    ids = model.to_tokens(f" {text}", prompt=False)[0]
    most = model.cfg.decoder.n_ctx // 2
    return text if len(ids) <= most else normalize_words(model.tokenizer.decode(ids[:most].tolist()))


def untrained_twin(model: HookedWhisper, seed: int) -> HookedWhisper:
    """The same architecture with seeded random weights; the process's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        twin = HookedWhisper(model.cfg)
    return twin.to(device=model.device, dtype=model.dtype).eval()


def make_context(
    model: HookedWhisper,
    name: str,
    *,
    audio: Sequence[str] = (),
    utterances: int = 100,
    language: str = "en",
    seed: int = 0,
    speech: bool = True,
    progress: bool = False,
) -> Context:
    """Model, untrained twin, truth (if the model called ``name`` has a world), and clips.

    ``audio`` files win over the world's sentences; with neither there are no clips, and what needs them is not
    testable.
    ``speech=False`` makes none.
    """
    world = world_of(name)
    clips = Clips((), "none: this model has no spoken world of its own, and no --audio was given")
    if not speech:
        clips = Clips((), "none was needed")
    elif audio:
        clips = recordings(model, audio, language)
    elif world is not None:
        clips = synthetic_clips(world, utterances, seed)
    further = None
    if speech and not audio and world is not None:
        further = partial(further_clips, world, clips.utterances, seed=seed)
    return Context(
        model,
        untrained_twin(model, seed),
        clips.utterances,
        None if world is None else truth_of(world, model),
        reference="model" if audio else "truth",
        language=language,
        seed=seed,
        progress=progress,
        facts={"origin": clips.origin},
        more_speech=further,
    )
