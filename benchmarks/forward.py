"""Forward passes side by side: hooked_whisper (nobody listening), openai-whisper, transformers (both fused).

    python -m benchmarks.forward [--rounds 15] [--threads 2] [--size tiny] [--json FILE]

Same random weights, same input, one process; the three take turns, so that whatever else the machine does falls on all
of them. What counts is the ratio of medians and its spread, not the milliseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
import whisper
from tqdm.auto import tqdm
from transformers import WhisperConfig as HFConfig
from transformers import WhisperForConditionalGeneration

from hooked_whisper.config import RELEASED
from hooked_whisper.model import KVCache, WhisperCore
from hooked_whisper.weights import load_into, resolve

Case = dict[str, Callable[[], object]]


def build(size: str) -> tuple[WhisperCore, whisper.Whisper, WhisperForConditionalGeneration]:
    """The same random weights three times."""
    torch.manual_seed(0)
    cfg = RELEASED[size]
    theirs = whisper.Whisper(cfg.dims).eval()
    torch.nn.init.normal_(theirs.decoder.positional_embedding, std=0.02)
    checkpoint = resolve(theirs)
    ours = WhisperCore(checkpoint.config).eval()
    load_into(ours, checkpoint)
    enc, dec = cfg.encoder, cfg.decoder
    hf = WhisperForConditionalGeneration(
        HFConfig(
            vocab_size=dec.n_vocab,
            num_mel_bins=enc.n_mels,
            d_model=enc.d_model,
            encoder_layers=enc.n_layers,
            decoder_layers=dec.n_layers,
            encoder_attention_heads=enc.n_heads,
            decoder_attention_heads=dec.n_heads,
            encoder_ffn_dim=enc.d_mlp,
            decoder_ffn_dim=dec.d_mlp,
            attn_implementation="sdpa",
        )
    ).eval()
    return ours, theirs, hf


def cases(size: str, n_tokens: int) -> dict[str, Case]:
    ours, theirs, hf = build(size)
    mel = torch.randn(1, ours.cfg.encoder.n_mels, ours.cfg.encoder.n_frames)
    tokens = torch.randint(0, 50000, (1, n_tokens))
    encoded = theirs.encoder(mel)
    hf_decoder = hf.model.decoder

    def greedy_ours() -> None:
        cache = KVCache()
        new = tokens[:, :4]
        for _ in range(n_tokens):
            logits = ours.decoder(new, encoded, cache)
            new = logits[:, -1:].argmax(-1)

    def greedy_openai() -> None:
        cache, hooks = theirs.install_kv_cache_hooks()
        new = tokens[:, :4]
        for _ in range(n_tokens):
            logits = theirs.decoder(new, encoded, kv_cache=cache)
            new = logits[:, -1:].argmax(-1)
        for hook in hooks:
            hook.remove()

    def greedy_hf() -> None:
        past, new = None, tokens[:, :4]
        for _ in range(n_tokens):
            out = hf_decoder(new, encoder_hidden_states=encoded, past_key_values=past, use_cache=True)
            past = out.past_key_values
            new = hf.proj_out(out.last_hidden_state)[:, -1:].argmax(-1)

    return {
        "encoder, 30 s": {
            "ours": lambda: ours.encoder(mel),
            "openai-whisper": lambda: theirs.encoder(mel),
            "transformers": lambda: hf.model.encoder(mel).last_hidden_state,
        },
        f"decoder, {n_tokens} tokens": {
            "ours": lambda: ours.decoder(tokens, encoded),
            "openai-whisper": lambda: theirs.decoder(tokens, encoded),
            "transformers": lambda: hf.proj_out(hf_decoder(tokens, encoder_hidden_states=encoded).last_hidden_state),
        },
        f"greedy, {n_tokens} tokens, cached": {
            "ours": greedy_ours,
            "openai-whisper": greedy_openai,
            "transformers": greedy_hf,
        },
    }


@torch.inference_mode()
def measure(case: Case, rounds: int, label: str) -> dict[str, list[float]]:
    for fn in case.values():
        fn()
    seconds: dict[str, list[float]] = {name: [] for name in case}
    order = list(case)
    for turn in tqdm(range(rounds), desc=label, leave=False):
        # start with another one each round: the first after a pause is the slowest
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.perf_counter()
            case[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(ours: list[float], peer: list[float]) -> tuple[float, float, float]:
    """Median of the per-round ratios, with their quartiles."""
    pairs = [a / b for a, b in zip(ours, peer, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4)
    return middle, low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="tiny", choices=sorted(RELEASED))
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    versions = (
        f"torch {torch.__version__}, openai-whisper {whisper.__version__}, transformers {transformers.__version__}"
    )
    print(f"{args.size}, float32, {args.threads} threads, {platform.machine()}; {versions}\n")
    print("| work | peer | ours / peer (median of rounds) | quartiles | ours ms | peer ms |\n|---|---|---|---|---|---|")
    rows = []
    for label, case in cases(args.size, args.tokens).items():
        seconds = measure(case, args.rounds, label)
        mine = seconds["ours"]
        for peer in ("openai-whisper", "transformers"):
            middle, low, high = ratio(mine, seconds[peer])
            ms = [1e3 * statistics.median(s) for s in (mine, seconds[peer])]
            rows.append({"work": label, "peer": peer, "ratio": middle, "quartiles": [low, high], "ms": ms})
            print(f"| {label} | {peer} | {middle:.2f} | {low:.2f} to {high:.2f} | {ms[0]:.0f} | {ms[1]:.0f} |")
    if args.json:
        args.json.write_text(json.dumps({"versions": versions, "size": args.size, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
