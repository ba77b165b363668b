"""A benchmark for SAEs of speech models: ``sae-lens-audio bench``.

- ``BenchmarkData`` (``benchmark_data``): activations of labeled speech by speakers that nothing was trained on
- ``Subject``: an SAE or a control (axes, neurons, principal and random directions, an untrained SAE)
- ``BenchmarkMetric``, ``Score``, ``MetricFamily``: what is measured; ``families``: all of it
- ``run_benchmark`` scores SAEs and controls: ``Benchmark``, which ``load_benchmark`` reads
"""

from sae_lens_audio.benchmark.data import BenchmarkData, benchmark_data
from sae_lens_audio.benchmark.families import families
from sae_lens_audio.benchmark.metric import BenchmarkMetric, MetricFamily, Score, estimate_by_speaker
from sae_lens_audio.benchmark.results import Benchmark, SubjectScores, load_benchmark
from sae_lens_audio.benchmark.run import BenchmarkOptions, benchmark_points, run_benchmark, score_subject
from sae_lens_audio.benchmark.store import ScoreStore
from sae_lens_audio.benchmark.subjects import Subject, control_subjects

__all__ = [
    "Benchmark",
    "BenchmarkData",
    "BenchmarkMetric",
    "BenchmarkOptions",
    "MetricFamily",
    "Score",
    "ScoreStore",
    "Subject",
    "SubjectScores",
    "benchmark_data",
    "benchmark_points",
    "control_subjects",
    "estimate_by_speaker",
    "families",
    "load_benchmark",
    "run_benchmark",
    "score_subject",
]
