"""The benchmark cases: one task each, in our implementation and in others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from whisper.model import MultiHeadAttention

from benchmarks.bench.models import Models
from hooked_whisper.model import KVCache, local_window

OURS = "ours"
TORCH_HOOKS = ("torch hook on openai-whisper", "torch hook on transformers")
NNSIGHT, NNSIGHT_EAGER = "nnsight on transformers", "nnsight on transformers eager"
Work = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One task, in several implementations.

    work: implementation -> function that returns the activations it caches.
    against: implementations to compare ours with; the target applies to the fastest.
    target: largest acceptable ratio of times.
    same: implementations that must return the same numbers as ours, in the same order.
    counted: whether FLOPs can be counted (not for compiled code).
    """

    name: str
    work: Mapping[str, Work]
    against: tuple[str, ...]
    target: float | None = None
    notes: str = ""
    same: tuple[str, ...] = ()
    counted: bool = True


def cases(m: Models) -> list[Case]:
    return [*forward(m), *caching(m), *windows(m), *precision(m)]


def forward(m: Models) -> list[Case]:
    decoder = m.hf.model.decoder
    peers = ("openai-whisper", "transformers")
    n = m.tokens.shape[1]
    return [
        Case(
            "encoder, 30 s",
            {
                OURS: lambda: m.ours.encoder(m.mel),
                "openai-whisper": lambda: m.openai.encoder(m.mel),
                "transformers": lambda: m.hf.model.encoder(m.mel).last_hidden_state,
            },
            peers,
            1.0,
            same=peers,
        ),
        Case(
            f"decoder, {n} tokens",
            {
                OURS: lambda: m.ours.decoder(m.tokens, m.encoded),
                "openai-whisper": lambda: m.openai.decoder(m.tokens, m.encoded),
                "transformers": lambda: m.hf.proj_out(
                    decoder(m.tokens, encoder_hidden_states=m.encoded, use_cache=False).last_hidden_state
                ),
            },
            peers,
            1.0,
            same=peers,
        ),
        Case(
            f"greedy decode, {n} tokens",
            {
                OURS: lambda: greedy_ours(m, n),
                "openai-whisper": lambda: greedy_openai(m, n),
                "transformers": lambda: greedy_transformers(m, n),
            },
            peers,
            1.0,
            same=peers,
        ),
    ]


def greedy_ours(m: Models, n: int) -> list[Tensor]:
    cache, new, generated = KVCache(), m.tokens[:, :4], []
    for _ in range(n):
        new = m.ours.decoder(new, m.encoded, cache)[:, -1:].argmax(-1)
        generated.append(new)
    return generated


def greedy_openai(m: Models, n: int) -> list[Tensor]:
    cache, hooks = m.openai.install_kv_cache_hooks()
    new, generated = m.tokens[:, :4], []
    for _ in range(n):
        new = m.openai.decoder(new, m.encoded, kv_cache=cache)[:, -1:].argmax(-1)
        generated.append(new)
    for hook in hooks:
        hook.remove()
    return generated


def greedy_transformers(m: Models, n: int) -> list[Tensor]:
    past, new, generated = None, m.tokens[:, :4], []
    for _ in range(n):
        out = m.hf.model.decoder(new, encoder_hidden_states=m.encoded, past_key_values=past, use_cache=True)
        past = out.past_key_values
        new = m.hf.proj_out(out.last_hidden_state)[:, -1:].argmax(-1)
        generated.append(new)
    return generated


# --- keeping activations ---------------------------------------------------------------------------------------------


def caching(m: Models) -> list[Case]:
    openai, hf = m.openai.encoder, m.hf.model.encoder
    middle = m.ours.cfg.encoder.n_layers // 2 - 1
    resid, pattern = f"encoder.blocks.{middle}.hook_resid_post", f"encoder.blocks.{middle}.attn.hook_pattern"
    residuals = "encoder.blocks.*.hook_resid_post"
    return [
        Case(
            "one residual of the middle, no logits",
            {
                OURS: lambda: m.ours.run_with_cache(m.mel, names_filter=resid, stop_early=True)[1],
                "ours, bare encoder": lambda: m.ours.encoder(m.mel),
                "torch hook on openai-whisper": lambda: hooked(
                    m.openai.encoder, [m.openai.encoder.blocks[middle]], m.mel
                ),
                "torch hook on transformers": lambda: hooked(
                    m.hf.model.encoder, [m.hf.model.encoder.layers[middle]], m.mel
                ),
                **nnsight_work(m, "residual", middle),
            },
            ("ours, bare encoder",),
            0.6,
            same=(*TORCH_HOOKS, NNSIGHT),
        ),
        Case(
            "every residual of the encoder",
            {
                OURS: lambda: m.ours.run_with_cache(m.mel, names_filter=residuals)[1],
                "torch hook on openai-whisper": lambda: hooked(openai, list(openai.blocks), m.mel),
                "torch hook on transformers": lambda: hooked(
                    m.hf.model.encoder, list(m.hf.model.encoder.layers), m.mel
                ),
                "transformers, output_hidden_states": lambda: hf(m.mel, output_hidden_states=True),
                **nnsight_work(m, "residuals", middle),
            },
            TORCH_HOOKS,
            same=(*TORCH_HOOKS, NNSIGHT),
        ),
        Case(
            "every point but scores and patterns, both stacks",
            {
                OURS: lambda: m.ours.run_with_cache(m.mel, m.tokens, names_filter=everything(m))[1],
                "ours, bare forward": lambda: m.ours(m.mel, m.tokens),
                "torch hooks on every module of openai-whisper": lambda: hooked_all(m),
            },
            ("ours, bare forward",),
            1.15,
            "what is kept takes new memory: page faults are part of it",
        ),
        Case(
            "one attention pattern of the middle, no logits",
            {
                OURS: lambda: m.ours.run_with_cache(m.mel, names_filter=pattern, stop_early=True)[1],
                "transformers eager, output_attentions": lambda: m.eager.model.encoder(
                    m.mel, output_attentions=True
                ).attentions[middle],
                "openai-whisper without sdpa, its scores": lambda: openai_scores(m, middle),
                **nnsight_work(m, "pattern", middle),
            },
            ("transformers eager, output_attentions",),
            0.5,
            same=("transformers eager, output_attentions", "openai-whisper without sdpa, its scores", NNSIGHT_EAGER),
        ),
    ]


def everything(m: Models) -> list[str]:
    return [name for name in m.ours.default_cache_names() if not name.endswith(("hook_attn_scores", "hook_pattern"))]


def hooked(model: nn.Module, modules: list[nn.Module], *inputs: Tensor) -> list[Any]:
    """Cache activations with plain torch forward hooks."""
    activations: list[Any] = []
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(lambda _m, _i, out: activations.append(out)).remove)
        model(*inputs)
    return activations


def hooked_all(m: Models) -> list[Any]:
    modules = [module for module in m.openai.modules() if module is not m.openai]
    return hooked(m.openai, modules, m.mel, m.tokens)


def openai_scores(m: Models, block: int) -> list[Any]:
    before, MultiHeadAttention.use_sdpa = MultiHeadAttention.use_sdpa, False
    try:
        activations = hooked(m.openai.encoder, [m.openai.encoder.blocks[block].attn], m.mel)
    finally:
        MultiHeadAttention.use_sdpa = before
    return [scores.softmax(-1) for _, scores in activations]


def nnsight_work(m: Models, what: str, block: int) -> dict[str, Work]:
    """Cache activations with nnsight around transformers; empty if it is not installed."""
    try:
        from nnsight import NNsight
    except ImportError:
        return {}
    model = NNsight(m.eager.model.encoder if what == "pattern" else m.hf.model.encoder)

    def residual() -> Tensor:
        with model.trace(m.mel) as tracer:
            saved = model.layers[block].output.save()
            tracer.stop()
        return saved

    def residuals() -> list[Tensor]:
        activations: list[Tensor] = []
        with model.trace(m.mel):
            for layer in model.layers:
                activations.append(layer.output.save())
        return activations

    def pattern() -> Tensor:
        with model.trace(m.mel) as tracer:
            saved = model.layers[block].self_attn.output[1].save()
            tracer.stop()
        return saved

    name = NNSIGHT_EAGER if what == "pattern" else NNSIGHT
    return {name: {"residual": residual, "residuals": residuals, "pattern": pattern}[what]}


# --- windows, precision, compilation ---------------------------------------------------------------------------------


def windows(m: Models) -> list[Case]:
    def within(k: int) -> Work:
        def work() -> object:
            with m.ours.hooks(attn_masks={"encoder": local_window(k)}):
                return m.ours.encoder(m.mel)

        return work

    work = {OURS: within(50), "ours, full encoder": lambda: m.ours.encoder(m.mel)}
    work |= {f"ours, k={k}": within(k) for k in (25, 100, 200)}
    return [Case("local window, k=50, every encoder block", work, ("ours, full encoder",), 0.7)]


def precision(m: Models) -> list[Case]:
    low = m.ours.encoder
    compiled = compiler(m.ours.encoder)
    selected = [
        *(_in_half(m, dtype) for dtype in (torch.bfloat16, torch.float16)),
        Case(
            "encoder, torch.compile",
            {OURS: lambda: compiled()(m.mel), "ours, not compiled": lambda: low(m.mel)},
            ("ours, not compiled",),
            counted=False,
        ),
    ]
    return selected + (on_cuda(m) if torch.cuda.is_available() else [])


def _in_half(m: Models, dtype: torch.dtype) -> Case:
    half, mel = type(m.ours)(m.ours.cfg).to(dtype).encoder, m.mel.to(dtype)
    work: dict[str, Work] = {OURS: lambda: half(mel), "ours, float32": lambda: m.ours.encoder(m.mel)}
    return Case(f"encoder, {str(dtype).removeprefix('torch.')}", work, ("ours, float32",), 1.0)


def compiler(module: nn.Module) -> Callable[[], Any]:
    """Compile on first use, because importing torch's compiler takes seconds."""
    return cache(lambda: torch.compile(module, fullgraph=True))


def on_cuda(m: Models) -> list[Case]:
    """Compare half precision with transformers (whose fused attention uses flash kernels), compiled and uncompiled."""
    return [_on_cuda(m, torch.float16, "float16"), _on_cuda(m, torch.bfloat16, "bfloat16")]


def _on_cuda(m: Models, dtype: torch.dtype, name: str) -> Case:
    ours = type(m.ours)(m.ours.cfg).to("cuda", dtype).eval()
    hf = type(m.hf)(m.hf.config).to("cuda", dtype).eval()
    mel, tokens = m.mel.to("cuda", dtype), m.tokens.to("cuda")
    compiled = compiler(ours.encoder)

    def timed(work: Work) -> Work:
        def synchronised() -> object:
            out = work()
            torch.cuda.synchronize()
            return out

        return synchronised

    work = {
        OURS: timed(lambda: ours(mel, tokens)),
        "transformers": timed(lambda: hf(mel, decoder_input_ids=tokens).logits),
        "ours, encoder compiled": timed(lambda: ours.decoder(tokens, compiled()(mel))),
    }
    return Case(f"forward on CUDA, {name}", work, ("transformers",), 1.0, counted=False)
