"""Keywords and attributes of TransformerLens and SAELens that a Whisper model does not have, and what to use."""

from __future__ import annotations

from collections.abc import Mapping

_TEXT = "Whisper takes mel and tokens: use model.to_mel(audio) and model.to_tokens(text)"
_PROMPT = "model.to_tokens(text, prompt=...) writes or omits Whisper's prompt"
_PADDING = "tokens are not padded: rows of one batch have the same length"
_TEMPORARY = "hooks are removed when their context ends; reset_hooks() removes the others and clears every hook.ctx"

# of HookedTransformer.forward
FORWARD_KEYWORDS: Mapping[str, str] = {
    "input": _TEXT,
    "prepend_bos": _PROMPT,
    "padding_side": _PADDING,
    "attention_mask": "tokens are not padded; attn_masks= of run_with_hooks edits attention",
    "stop_at_layer": "use run_with_cache(names_filter=..., stop_early=True): it stops after the last requested point",
    "start_at_layer": "use model.encoder.from_resid or model.decoder.from_resid",
    "past_kv_cache": "use model.generate, or model.decoder(tokens, encoder_out, kv_cache)",
    "decoder_input": "use tokens=",
    "fwd_hooks": "use model.run_with_hooks(mel, tokens, fwd_hooks=[...])",
    "saes": "use model.run_with_saes(mel, tokens, saes=...)",
    "use_error_term": "use model.run_with_saes(mel, tokens, saes=..., use_error_term=True)",
    "clear_contexts": _TEMPORARY,
    "reset_hooks_end": _TEMPORARY,
    "reset_saes_end": "SAEs are detached when the call ends; `with model.saes(...):` attaches them for a block of code",
}

# of HookedTransformer.run_with_cache
CACHE_KEYWORDS: Mapping[str, str] = {
    **{keyword: answer for keyword, answer in FORWARD_KEYWORDS.items() if keyword != "fwd_hooks"},
    "stop_at_layer": "use stop_early=True, which stops after the last point of names_filter",
    "return_cache_object": "the cache is always an ActivationCache; cache.cache_dict is a plain dictionary",
    "saes": "use run_with_cache_with_saes(..., saes=...), or `with model.attach_sae(sae, hook):` around this call",
    "use_error_term": "use run_with_cache_with_saes(..., saes=..., use_error_term=True)",
}

_STACKS = "Whisper has two stacks: "
_PER_STACK = _STACKS + "use model.encoder.{0}, model.decoder.{0} (self-attention) or model.decoder.cross.{0}"
_MLP = _STACKS + "use model.encoder.{0} or model.decoder.{0}"
_NO_FLAG = "not needed: hook points that cost extra are computed when a hook or a cache requests them"

# of HookedTransformer and HookedSAETransformer
MODEL_ATTRIBUTES: Mapping[str, str] = {
    "blocks": _STACKS + "use model.encoder.blocks or model.decoder.blocks",
    **{name: _PER_STACK.format(name) for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O", "QK", "OV")},
    **{name: _MLP.format(name) for name in ("W_in", "b_in", "W_out", "b_out", "accumulated_bias")},
    "embed": "use model.W_E, or model.decoder.token_embedding; audio is embedded by model.encoder.conv1 and conv2",
    "pos_embed": "use model.W_pos, or model.encoder.W_pos",
    "ln_final": "use model.decoder.ln_final, or model.encoder.ln_post",
    "W_E_pos": "use torch.cat([model.W_E, model.W_pos])",
    **{
        name: _NO_FLAG
        for name in ("set_use_attn_result", "set_use_split_qkv_input", "set_use_hook_mlp_in", "set_use_attn_in")
    },
    "setup": "use model.name_hook_points, which the constructor calls",
    "set_tokenizer": "the tokenizer follows from the vocabulary, see from_pretrained(vocabulary=...)",
    "process_weights_": "use hooked_whisper.loading.process_weights(model), or the options of from_pretrained",
    "load_and_process_state_dict": "use HookedWhisper.from_pretrained(model_or_file, fold_ln=True, ...)",
    "sample_datapoint": "use hooked_whisper.corpora.packaged_speech()",
    "add_sae": "SAEs are attached for a block of code: `with model.saes({hook: sae}):` or model.attach_sae(sae, hook)",
    "reset_saes": "SAEs are detached when the context of model.saes or model.attach_sae ends",
    "acts_to_saes": "list the points of attached SAEs with model.hook_names('*.hook_sae_input')",
}

# of the modules of HookedTransformer
UNEMBED_ATTRIBUTES: Mapping[str, str] = {"W_U": "use model.W_U (tied to W_E)", "b_U": "use model.b_U"}
