"""F12: attributions and ablations compared with separate runs, a decoder with one language head, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.findings import REGISTRY, Context, language_entry, run_experiment
from hooked_whisper.findings.language_entry import DETECTED, LOST, RANKS, READ
from hooked_whisper.findings.speech.language_readings import other_halves, read_language
from hooked_whisper.findings.speech.sample import detect, languages_of
from tests.core.twins import listeners
from tests.findings.worlds import small_context, small_model, utterance

CODES = ["en", "de", "fr", "en", "de", "fr"]
RNG = np.random.default_rng(0)


def context_of(model: HookedWhisper, codes: list[str], **more) -> Context:
    clips = []
    for k, code in enumerate(codes):
        clip = utterance(f"u{k}", "the red cat", seed=k)
        clips.append(clip.with_alignment(replace(clip.alignment, extra={"language": code} if code else {})))
    return Context(model, small_model(1), tuple(clips), None, **more)


def ids_of(model: HookedWhisper) -> torch.Tensor:
    return torch.tensor([model.tokenizer.to_language_token(code) for code in ("de", "en", "fr")])


@torch.no_grad()
def test_attribution_lens_and_ablation_match_separate_runs() -> None:
    model = small_model(4)
    encoded = torch.randn(6, 60, 32, generator=torch.Generator().manual_seed(0))
    readings = read_language(model, encoded, CODES, RNG)
    assert readings.codes == ("de", "en", "fr") and readings.heads == ("X0.0", "X0.1", "X1.0", "X1.1")
    assert readings.error < 1e-3
    ids, all_ids = ids_of(model), torch.tensor(model.tokenizer.all_language_tokens)
    start = torch.tensor([[model.tokenizer.sot]])
    for clip in (0, 4):
        true = readings.codes.index(CODES[clip])
        others = [k for k in range(3) if k != true]

        def difference(hooks=(), clip=clip, true=true, others=others) -> float:
            with model.hooks(fwd_hooks=list(hooks)):
                logits = model.logits(start, encoded[clip : clip + 1])[0, 0, ids]
            return float(logits[true] - logits[others].mean())

        whole = difference()
        assert readings.parts[:, clip].sum() == pytest.approx(whole, abs=1e-3)
        for index, (block, head) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):

            def cut(z, head=head):
                z[:, :, head] = 0
                return z

            without = difference([(f"decoder.blocks.{block}.cross_attn.hook_z", cut)])
            assert readings.ablated[index, clip] == pytest.approx(whole - without, abs=1e-5)
        silent = difference([("decoder.blocks.1.cross_attn.hook_z", torch.zeros_like)])
        assert readings.blocks[1, clip] == pytest.approx(whole - silent, abs=1e-5)
        _, cache = model.run_with_cache(tokens=start, encoder_out=encoded[clip : clip + 1])
        z = cache["decoder", "cross_z", 1][0, 0, 1]
        wrote = z @ model.decoder.cross.W_O[1, 1]
        lens = (model.decoder.ln_final(wrote) @ model.W_U[:, all_ids]).softmax(-1)
        where = model.tokenizer.all_language_tokens.index(int(ids[true]))
        assert readings.lens[3, clip] == pytest.approx(float(lens[where]), rel=1e-4)
    assert not listeners(model)


def decoder_with_a_language_head() -> tuple[HookedWhisper, torch.Tensor]:
    """Head X1.0 copies the encoder's first entries into the direction of a language; the other heads write nothing."""
    model = small_model(2)
    encoded = torch.zeros(15, 60, 32)
    with torch.no_grad():
        model.decoder.token_embedding.weight *= 20
        for block in model.decoder.blocks:
            block.cross_attn.out.weight.zero_()
            block.cross_attn.out.bias.zero_()
        attn = model.decoder.blocks[1].cross_attn
        attn.value.weight.zero_()
        attn.value.bias.zero_()
        for k, token in enumerate(ids_of(model)):
            attn.value.weight[k, k] = 1.0
            attn.out.weight[:, k] = 20 * model.W_E[token]
            encoded[k::3, :, k] = 1.0
    return model, encoded


def test_a_decoder_that_reads_language_through_one_head_reproduces_the_claim() -> None:
    model, encoded = decoder_with_a_language_head()
    context = context_of(model, ["de", "en", "fr"] * 5)
    context.__dict__["encoded"] = encoded
    finding = run_experiment(REGISTRY["F12"], context)
    assert finding.status in ("reproduced", "partly"), finding.status_reason
    values = {c.name: c.estimate.value for c in finding.criteria}
    assert values[READ] == 1 and values[DETECTED] == 1
    assert values[LOST] == pytest.approx(2 / 3)  # without the head every clip is heard as the same language
    assert finding.measurement(RANKS).at(model="this model", heads="all", bound="value") == pytest.approx(1)
    direct = finding.measurement("direct attribution").values.mean(0)
    assert np.unravel_index(direct.argmax(), direct.shape) == (1, 0)
    assert any("X1.0" in note for note in finding.notes)
    assert len(finding.draw()) == 4


def test_untrained_decoder_does_not_reproduce_it() -> None:
    context = context_of(small_model(9), ["de", "en", "fr"] * 5)
    assert run_experiment(REGISTRY["F12"], context).status in ("measured, no verdict", "not reproduced")


def test_languages_come_from_the_corpus_the_model_or_the_context() -> None:
    model, encoded = decoder_with_a_language_head()
    assert detect(model, encoded[:3]) == ["de", "en", "fr"]
    recorded = context_of(model, ["", "", "fr"], reference="model")
    recorded.__dict__["encoded"] = encoded[:3]
    assert languages_of(recorded) == ["de", "en", "fr"]
    assert languages_of(context_of(model, ["", "de"], language="es")) == ["es", "de"]


def test_heads_are_chosen_on_other_clips() -> None:
    assert other_halves([0, 0, 1, 1, 1]) == [[1, 3], [0, 2, 4]]
    assert other_halves([0]) == [[0], [0]]


@torch.no_grad()
def test_heads_set_to_zero_together_are_those_that_add_most() -> None:
    model, encoded = decoder_with_a_language_head()
    readings = read_language(model, encoded, ["de", "en", "fr"] * 5, RNG)
    assert readings.without["nothing"].mean() == 1 and readings.without["others"].mean() == 1
    assert readings.without["least"].mean() == 1 and readings.without["most"].mean() == pytest.approx(1 / 3)


def test_an_untestable_context_gives_the_reason() -> None:
    monolingual = run_experiment(REGISTRY["F12"], small_context(count=2))
    assert monolingual.status == "not testable" and "one language (en)" in monolingual.status_reason
    assert monolingual.draw() == []
    assert run_experiment(REGISTRY["F12"], small_context()).status == "not testable"
    few = run_experiment(REGISTRY["F12"], context_of(small_model(0), ["en", "de"]))
    assert few.status == "measured, no verdict" and ("rarest" in few.status_reason or "detects" in few.status_reason)
    with pytest.raises(ValueError, match="two languages"):
        read_language(small_model(0), torch.zeros(2, 60, 32), ["en", "en"], RNG)
    assert language_entry.SUMS in [c.name for c in few.gates]  # holds for any model: no evidence
