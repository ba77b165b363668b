"""Run the phone evaluation of a random model of any size in a separate process, and print how many GiB it grew.

Arguments: blocks, neurons per block, clips, labels, seconds per clip, whether to compute each block's directions.
"""

from __future__ import annotations

import resource
import sys

import numpy as np

from hooked_whisper import HookedWhisper
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.corpora import Clip
from hooked_whisper.features.bases import LinearBasis, pca, random_orthonormal
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.phones import evaluation as phone_sites
from hooked_whisper.findings.phones.layer_probes import probe_layer
from hooked_whisper.protocols import SILENCE, Alignment, Interval

SPEAKERS = 10


def model(n_blocks: int, d_mlp: int, seconds: int) -> HookedWhisper:
    """Return a model with a narrow residual stream, which is fast to encode with; the evaluation reads neurons only."""
    encoder = EncoderConfig(n_mels=80, n_ctx=50 * seconds, d_model=8, n_heads=1, n_layers=n_blocks, d_mlp=d_mlp)
    decoder = DecoderConfig(n_vocab=60, n_ctx=12, d_model=8, n_heads=1, n_layers=1, d_mlp=8)
    return HookedWhisper(WhisperConfig(encoder, decoder)).eval()


def utterances(count: int, n_labels: int, seconds: int) -> tuple[Clip, ...]:
    rng = np.random.default_rng(0)
    labels = [SILENCE, *(f"p{i}" for i in range(n_labels - 1))]
    order = iter(np.concatenate([rng.permutation(n_labels) for _ in range(count * seconds)]))  # every label is said
    clips = []
    for k in range(count):
        starts = np.arange(10 * seconds) / 10
        said = [next(order) for _ in starts]
        phones = tuple(Interval(float(a), float(a + 0.1), labels[i]) for a, i in zip(starts, said, strict=True))
        audio = (0.1 * rng.standard_normal(16_000 * seconds)).astype(np.float32)
        alignment = Alignment(f"u{k}", f"s{k % SPEAKERS}", "", float(seconds), (), phones)
        clips.append(Clip.aligned(audio, alignment))
    return tuple(clips)


def once() -> None:
    """Reuse the decompositions and the probe of the first block: each of 5120 dimensions takes a minute."""
    bases: dict[str, LinearBasis] = {}

    def same_random(d: int, seed: int) -> LinearBasis:
        return bases.get("random") or bases.setdefault("random", random_orthonormal(d, seed=seed))

    def same_pca(rows, n: int) -> LinearBasis:
        return bases.get("pca") or bases.setdefault("pca", pca(rows, n))

    def same_probe(*arguments):
        if "probe" not in probes:
            probes["probe"] = probe_layer(*arguments)
        return probes["probe"]

    probes: dict[str, phone_sites.Probed] = {}
    phone_sites.random_orthonormal, phone_sites.pca = same_random, same_pca  # type: ignore[assignment]
    phone_sites.probe_layer = same_probe


def main() -> None:
    """Evaluate, and print by how much the process grew."""
    n_blocks, d_mlp, n_clips, n_labels, seconds, each = map(int, sys.argv[1:])
    clips = utterances(n_clips, n_labels, seconds)
    phone_sites._options = lambda context, n: CountOptions(k=n, min_tokens=2)  # few clips, all labels searched
    if not each:
        once()
    whole, blank = (model(n_blocks, d_mlp, seconds) for _ in range(2))
    small = [model(1, 16, seconds) for _ in range(2)]
    phone_sites.phone_evaluation(Context(small[0], small[1], clips))  # what libraries load at first use
    if not each:
        once()  # forget those of the small model
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    evaluation = phone_sites.phone_evaluation(Context(whole, blank, clips))
    assert evaluation.probes is not None and len(evaluation.probes.layers) == n_blocks
    assert (
        len(evaluation.neurons) == len(evaluation.random) == n_blocks and len(evaluation.neurons[0].names) == n_labels
    )
    assert all(
        len(site.phones.f1) == d_mlp for site in (*evaluation.neurons, *evaluation.random, *evaluation.untrained)
    )
    sys.stdout.write(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20}\n")


if __name__ == "__main__":
    main()
