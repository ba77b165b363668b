"""All experiments by id: those of this package, and those that other packages register as entry points."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from hooked_whisper.errors import ArgumentError, HookedWhisperError, closest
from hooked_whisper.findings.alignment_heads import AlignmentHeads
from hooked_whisper.findings.attention_windows import AttentionWindows
from hooked_whisper.findings.audio_against_context import AudioAgainstContext
from hooked_whisper.findings.bigrams import Bigrams
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting
from hooked_whisper.findings.core.finding import Finding, draw_with
from hooked_whisper.findings.cut_words import CutWords
from hooked_whisper.findings.decoder_lens import DecoderLens
from hooked_whisper.findings.early_blocks import EarlyBlocks
from hooked_whisper.findings.encoder_locality import EncoderLocality
from hooked_whisper.findings.feature_visualization import FeatureVisualization
from hooked_whisper.findings.head_windows import LocalHeads
from hooked_whisper.findings.language_entry import LanguageEntry
from hooked_whisper.findings.language_steering import LanguageSteering
from hooked_whisper.findings.listening import Listening
from hooked_whisper.findings.neighbors import Neighbors
from hooked_whisper.findings.phonetic_neurons import PhoneticNeurons
from hooked_whisper.findings.polyphony import Polyphony
from hooked_whisper.findings.semantic_neurons import SemanticNeurons
from hooked_whisper.findings.speech_probes import SpeechProbes
from hooked_whisper.findings.speech_similarity import SpeechSimilarity
from hooked_whisper.findings.word_fragments import WordFragments
from hooked_whisper.findings.word_swap import WordSwap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

GROUP = "hooked_whisper.findings"
"""Entry points of other packages under this name: an :class:`Experiment`, its class, or a module that has one."""


class ModuleExperiment(Experiment[Finding]):
    """An experiment in the form of version 0.1: a module with ``ID``, ``TITLE``, ``CLAIM``, ``PROTOCOL``,
    ``NEEDS_SPEECH``, ``run`` and ``draw``."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.id, self.title = module.ID, module.TITLE
        self.claim, self.protocol = module.CLAIM, module.PROTOCOL
        self.needs_speech = getattr(module, "NEEDS_SPEECH", True)
        self.after = getattr(module, "AFTER", "")

    def run(self, context: Context) -> Finding:
        return self.measure(context)

    def measure(self, context: Context) -> Finding:
        return self.module.run(context)  # type: ignore[no-any-return]

    def judge(self, measured: Finding, setting: Setting) -> Finding:
        return measured

    @property
    def module_name(self) -> str:
        return str(self.module.__name__)

    def draw(self, finding: Finding) -> list[Figure]:
        return self.module.draw(finding)  # type: ignore[no-any-return]


def experiment_of(entry: Any) -> Experiment[Any]:
    """Return the experiment that an entry point names: an instance, a class, or a module that defines one.

    Raises:
        ArgumentError: the module defines no experiment, or more than one.
        AttributeError: a module in the form of version 0.1 lacks one of its names.
    """
    if isinstance(entry, Experiment):
        return entry
    if inspect.isclass(entry) and issubclass(entry, Experiment):
        return entry()
    classes = [
        value
        for value in vars(entry).values()
        if inspect.isclass(value) and issubclass(value, Experiment) and value.__module__ == entry.__name__
    ]
    if not classes and hasattr(entry, "ID"):
        return ModuleExperiment(entry)
    if len(classes) != 1:
        raise ArgumentError(
            f"{entry.__name__} defines {len(classes)} experiments, expected 1: name the class in the entry point, "
            f"as in {entry.__name__}:MyExperiment"
        )
    return classes[0]()  # type: ignore[no-any-return]


class UnknownFindingError(HookedWhisperError, KeyError):
    """No experiment has this id.

    Cause: a typing error, or a package with further experiments that is not installed.
    Fix: use one of the ids in the message.
    """


def unknown_id(id: str, known: Iterable[str]) -> str:
    """Return a message that names the ids most similar to ``id``, and all ids."""
    ids = list(known)
    near = closest(id.upper(), ids)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    return f"there is no finding {id!r}{hint}; the findings are {', '.join(ids)}"


class _Registry(Mapping[str, Experiment[Any]]):
    """Experiments by id. Entry points are loaded on first use, because their packages import this one."""

    def __init__(self, experiments: Sequence[Experiment[Any]]) -> None:
        self._packaged = experiments

    @cached_property
    def _experiments(self) -> dict[str, Experiment[Any]]:
        return _with_entry_points(self._packaged)

    def __getitem__(self, id: str) -> Experiment[Any]:
        if id not in self._experiments:
            raise UnknownFindingError(unknown_id(id, self))
        return self._experiments[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._experiments)

    def __len__(self) -> int:
        return len(self._experiments)

    def __repr__(self) -> str:
        return f"Experiments({', '.join(self)})"


def _with_entry_points(packaged: Sequence[Experiment[Any]]) -> dict[str, Experiment[Any]]:
    experiments = list(packaged)
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        try:
            experiment = experiment_of(point.load())
        except Exception as error:  # an error in another package must not hide the other findings
            log.warning("the experiments of %s cannot be loaded: %s: %s", point.value, type(error).__name__, error)
            continue
        ids = [known.id for known in experiments]
        position = ids.index(experiment.after) + 1 if experiment.after in ids else len(ids)
        experiments.insert(position, experiment)
    return {experiment.id: experiment for experiment in experiments}


REGISTRY: Mapping[str, Experiment[Any]] = _Registry(
    (
        Bigrams(),
        Neighbors(),
        EncoderLocality(),
        AttentionWindows(),
        LocalHeads(),
        CutWords(),
        PhoneticNeurons(),
        Polyphony(),
        EarlyBlocks(),
        SemanticNeurons(),
        WordFragments(),
        FeatureVisualization(),
        Listening(),
        LanguageEntry(),
        SpeechProbes(),
        LanguageSteering(),
        SpeechSimilarity(),
        WordSwap(),
        DecoderLens(),
        AlignmentHeads(),
        AudioAgainstContext(),
    )
)

draw_with(lambda id: REGISTRY.get(id))  # looked up on each call: other packages' experiments are loaded late


def select_experiments(ids: str | None) -> list[Experiment[Any]]:
    """Return the experiments for ``"F2,F9"`` (any case) in the registry's order; all for ``None``.

    Raises:
        UnknownFindingError: an id does not exist.
        ArgumentError: ``ids`` names no finding, such as ``""``.
    """
    if ids is None:
        return list(REGISTRY.values())
    wanted = [id.strip().upper() for id in ids.split(",") if id.strip()]
    if not wanted:
        raise ArgumentError(f"{ids!r} names no finding, expected ids separated by commas: {', '.join(REGISTRY)}")
    for id in wanted:
        if id not in REGISTRY:
            raise UnknownFindingError(unknown_id(id, REGISTRY))
    return [experiment for experiment in REGISTRY.values() if experiment.id in wanted]
