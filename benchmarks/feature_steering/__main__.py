"""Measure whether transcripts follow SAE features: ``python -m benchmarks.feature_steering [--audio FOLDER]``.

For words of held-out voices, the latents of one consonant are erased, or erased and those of another consonant set,
where the consonant is said. Is the word that this spells written, and do other words stay? The controls have the same
norm at the same positions, or are at other positions. The measurement resumes after an interruption; results are in
docs/data/feature_steering.json.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.feature_steering.cases import Case, Neighbors, cases_of_clip
from benchmarks.feature_steering.edits import EDITS, GROUP, MARGIN, PUSH, changes
from benchmarks.feature_steering.estimates import summarize
from benchmarks.feature_steering.outcomes import outcomes
from benchmarks.feature_steering.phone_latents import PhoneLatents
from hooked_whisper import HookedWhisper
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora import Recording, cmu_dictionary, open_corpus, packaged_speech
from hooked_whisper.corpora.packaged import SpeechKind
from hooked_whisper.interventions import clean_transcripts
from sae_lens_audio.architectures import SAE
from sae_lens_audio.evals import labeled_clips
from sae_lens_audio.releases import load_named

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "data" / "feature_steering.json"
SPEECH: tuple[SpeechKind, ...] = ("prose", "fragment", "semantic")


@dataclass(frozen=True, eq=False)
class Experiment:
    """A model, an SAE at a hook point of its encoder, and the latents of each phone."""

    model: HookedWhisper
    sae: SAE
    hook: str
    phones: PhoneLatents
    neighbors: Neighbors

    @torch.no_grad()
    def measure(self, recording: Recording, per_clip: int) -> list[dict[str, Any]]:
        """Return the cases of one recording with the outcomes of every edit."""
        model, alignment = self.model, recording.alignment()
        if alignment is None or alignment.duration > model.time.duration:
            return []
        encoder_out, resid = self._encode(model.to_mel([recording.audio()]))
        clean = clean_transcripts(model, encoder_out, alignments=[alignment])
        ids, text = clean.ids[0], clean.texts[0]
        if not ids:
            return []
        prompt = model.to_tokens("")
        tokens = torch.cat([prompt, torch.tensor([ids], device=prompt.device)], dim=1)[:, :-1]
        logprobs = model.logits(tokens, encoder_out)[0, prompt.shape[1] - 1 :].log_softmax(-1)
        cases = cases_of_clip(model, self.neighbors, alignment, text, ids, clean.times[0], logprobs, per_clip, MARGIN)
        return [self._of_case(case, ids, resid[0], encoder_out) for case in cases]

    def _encode(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        resid: list[torch.Tensor] = []
        with self.model.hooks(fwd_hooks=[(self.hook, lambda x, hook: resid.append(x.clone()))]):
            encoder_out = self.model.embed_audio(mel)
        return encoder_out, resid[0]

    def _of_case(
        self, case: Case, ids: Sequence[int], resid: torch.Tensor, encoder_out: torch.Tensor
    ) -> dict[str, Any]:
        edits = changes(case, self.sae, self.phones, resid)
        block = int(self.hook.split(".")[2]) + 1
        rows = [self.model.encoder.from_resid((resid + change)[None], block) for change in edits.values()]
        results = outcomes(self.model, case, ids, torch.cat([encoder_out, *rows]), self._homophones(case))
        norms = {edit: float(change.norm(dim=-1).sum()) / (case.stop - case.start) for edit, change in edits.items()}
        return {
            "case": case.to_dict(),
            "norm_of_resid": round(float(resid[case.start : case.stop].norm(dim=-1).mean()), 3),
            "outcomes": {
                edit: {**outcome.to_dict(), "norm": round(norms[edit], 3)}
                for edit, outcome in zip(edits, results, strict=True)
            },
        }

    def _homophones(self, case: Case) -> list[str]:
        spelled = self.neighbors.spelled
        return [word for phones in cmu_dictionary()[case.foil] for word in spelled.get(phones, ())]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--sae", help="folder, or packaged SAE (default: that of the hook point)")
    parser.add_argument("--hook", default="encoder.blocks.2", help="residual stream after a block of the encoder")
    parser.add_argument("--audio", type=Path, help="measure on this corpus with words and phones too, such as TIMIT")
    parser.add_argument("--per-clip", type=int, default=2, help="words of one clip (default: 2)")
    parser.add_argument("--clips", type=int, help="about so many clips of each corpus, evenly spaced (default: all)")
    parser.add_argument("--split", default="held-out", choices=("held-out", "train"), help="of the packaged speech")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "feature_steering", help="finished clips")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file (default: docs/data/feature_steering.json)")
    parsed = parser.parse_args(arguments)

    started = time.monotonic()
    model = HookedWhisper.from_pretrained(parsed.model)
    loaded = load_named(parsed.sae or f"{parsed.model}/{parsed.hook}")
    if not isinstance(loaded.sae, SAE):
        raise SystemExit(f"{parsed.sae}: a {type(loaded.sae).__name__} is not linear in its latents, take an SAE")
    sae = loaded.sae.float().to(model.device).eval()
    corpora = {"packaged": packaged_speech(list(SPEECH), language="en", split=parsed.split)}
    if parsed.audio is not None:
        corpora[parsed.audio.name] = open_corpus(str(parsed.audio))
    if parsed.clips:
        corpora = {name: corpus[:: max(1, len(corpus) // parsed.clips)] for name, corpus in corpora.items()}

    with torch.no_grad():
        digest = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in sae.parameters())).hexdigest()[:12]
    config = {
        "model": parsed.model,
        "hook": parsed.hook,
        "sae": _sae_name(parsed),
        "weights": digest,
        "architecture": type(sae).__name__,
        "latents": len(sae.W_dec),
        "group": GROUP,
        "push": PUSH,
        "margin": MARGIN,
        "per_clip": parsed.per_clip,
        "split": parsed.split,
    }
    folder = parsed.work / hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    phones = _phone_latents(model, sae, parsed.hook, parsed.work / f"phones-{parsed.model}-{parsed.hook}-{digest}.pt")
    experiment = Experiment(model, sae, parsed.hook, phones, Neighbors(model))
    results = {
        name: list(_records(experiment, corpus, folder / f"{name}.jsonl", name, parsed.per_clip))
        for name, corpus in corpora.items()
    }
    report = {
        **config,
        "clips": parsed.clips,
        "edits": list(EDITS),
        "corpora": {name: summarize(records) for name, records in results.items() if records},
        "examples": {name: _examples(records) for name, records in results.items()},
        "seconds_of_last_run": round(time.monotonic() - started),
        "threads": torch.get_num_threads(),
    }
    write_atomic(parsed.out, (json.dumps(report, indent=1) + "\n").encode())
    for name, summary in report["corpora"].items():
        _show(name, summary)


def _sae_name(parsed: argparse.Namespace) -> str:
    """Return the name of the SAE, without folders of this machine."""
    if parsed.sae is None:
        return f"{parsed.model}/{parsed.hook}"
    path = Path(parsed.sae)
    return "/".join(path.parts[-2:]) if path.exists() else parsed.sae


def _phone_latents(model: HookedWhisper, sae: SAE, hook: str, path: Path) -> PhoneLatents:
    if path.exists():
        return PhoneLatents(**torch.load(path, map_location=model.device, weights_only=True))
    recordings = packaged_speech("prose", split="train")
    phones = PhoneLatents.learned(model, sae, hook, labeled_clips(model, recordings, len(recordings)).clips)
    buffer = io.BytesIO()
    torch.save(vars(phones), buffer)
    write_atomic(path, buffer.getvalue())  # an interrupted save would stop the run that resumes
    return phones


def _records(
    experiment: Experiment, corpus: Iterable[Recording], path: Path, name: str, per_clip: int
) -> Iterator[dict[str, Any]]:
    """Yield the records of all clips: finished ones from the file, the others measured and appended to it."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    finished = {row["clip"]: row["records"] for row in map(_parsed, lines) if row}
    with path.open("a", encoding="utf-8") as file:
        for recording in tqdm(list(corpus), desc=name, mininterval=5):
            if recording.id not in finished:
                finished[recording.id] = experiment.measure(recording, per_clip)
                file.write(json.dumps({"clip": recording.id, "records": finished[recording.id]}) + "\n")
                file.flush()
            yield from finished[recording.id]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:  # the last line of an interrupted run
        return None


def _examples(records: Sequence[dict[str, Any]], most: int = 6) -> list[dict[str, Any]]:
    """Every n-th case with its texts, without selection by result."""
    step = max(1, len(records) // most)
    return [
        {
            **{key: record["case"][key] for key in ("clip", "word", "foil", "phone", "other")},
            **{edit: record["outcomes"][edit]["text"] for edit in ("erase", "push", "push, random latents")},
        }
        for record in records[::step][:most]
    ]


def _show(name: str, summary: dict[str, Any]) -> None:
    print(f"{name}: {summary['cases']} cases, {summary['clips']} clips, {summary['speakers']} speakers")
    for edit, row in summary["estimates"].items():
        numbers = "  ".join(
            f"{measure} {value:.3f} [{low:.3f}, {high:.3f}]" for measure, (value, low, high) in row.items()
        )
        print(f"  {edit:26} {numbers}")
    for criterion in summary["criteria"]:
        print("  met" if criterion["met"] else "  NOT met", criterion)


if __name__ == "__main__":
    main()
