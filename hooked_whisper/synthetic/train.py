"""Train the demo model. The result depends only on the settings and the corpus, also if the run is resumed."""

from __future__ import annotations

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from hooked_whisper.model.whisper import WhisperCore
from hooked_whisper.synthetic.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from hooked_whisper.synthetic.corpus import Corpus, differing_settings
from hooked_whisper.synthetic.data import IGNORE, LETTERS, SpeechBatch, SpeechBatches, corpus_vocabulary
from hooked_whisper.synthetic.evaluate import greedy, word_errors
from hooked_whisper.synthetic.recipe import TrainConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Losses:
    """Losses in nats: per predicted token and per CTC letter. Training minimizes ``total``."""

    total: Float[Tensor, ""]
    next_token: float
    ctc: float


def new_model(config: TrainConfig) -> WhisperCore:
    """Return a model initialized from the seed, with PyTorch's defaults, and a standard deviation of 0.02 for
    embeddings and decoder positions."""
    torch.manual_seed(config.seed)
    model = WhisperCore(config.model_config())
    nn.init.normal_(model.decoder.token_embedding.weight, std=0.02)
    nn.init.normal_(model.decoder.positional_embedding, std=0.02)
    return model


def losses(
    model: WhisperCore, ctc_head: nn.Linear, batch: SpeechBatch, ctc_weight: float, full_softmax: bool
) -> Losses:
    """Return the next-token cross-entropy plus, if ``ctc_weight`` is not zero, CTC on letters through ``ctc_head``."""
    mel = batch.mel()
    encoded = model.encoder(mel, positions=slice(batch.start, batch.start + mel.shape[-1] // 2))
    hidden = model.decoder.hidden(batch.tokens, encoded)  # [batch, token, d_model]
    predicted = batch.labels != IGNORE
    labels, rows = batch.labels[predicted], model.decoder.token_embedding.weight
    if not full_softmax:
        vocabulary = corpus_vocabulary()
        rows, labels = rows[vocabulary], torch.searchsorted(vocabulary, labels)
    next_token = F.cross_entropy(hidden[predicted] @ rows.T, labels)
    if ctc_weight == 0:
        return Losses(next_token, next_token.item(), 0.0)
    heard = batch.audible
    owner = torch.repeat_interleave(torch.arange(len(heard)), batch.n_letters)
    log_probs = ctc_head(encoded[heard]).log_softmax(-1).transpose(0, 1)
    ctc = F.ctc_loss(
        log_probs,
        batch.letters[heard[owner]],
        torch.full((int(heard.sum()),), log_probs.shape[0]),
        batch.n_letters[heard],
        zero_infinity=True,
    )
    return Losses(next_token + ctc_weight * ctc, next_token.item(), ctc.item())


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a step in progress is finished and saved."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {number: signal.signal(number, lambda n, _: caught.append(n)) for number in numbers}
    except ValueError:  # not in the main thread, which is the only one that receives signals
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    config: TrainConfig, corpus_folder: Path, run: Path, stop_at: int | None = None, start_from: Path | None = None
) -> WhisperCore:
    """Start or resume a training run in folder ``run``.

    Args:
        stop_at: stop after this step, as if interrupted.
        start_from: another run. A new run starts from its weights, optimizer state and step, with the new settings.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM, once the state is saved.
        ValueError: the folder has a run with other settings.
    """
    run.mkdir(parents=True, exist_ok=True)
    batches = SpeechBatches(Corpus(corpus_folder, "train"), config)
    held_out = Corpus(corpus_folder, "sentences")
    model = new_model(config)
    ctc_head = nn.Linear(config.d_model, len(LETTERS) + 1)
    modules: dict[str, nn.Module] = {"model": model, "ctc": ctc_head}
    parameters = [*model.parameters(), *ctc_head.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    facts: dict[str, Any] = {"config": json.loads(json.dumps(asdict(config))), "history": []}
    first = _resume(config, run, modules, optimizer, facts, start_from)
    last = config.steps if stop_at is None else min(stop_at, config.steps)
    model.train()
    clock = time.perf_counter()
    with _interruptible() as caught, tqdm(total=config.steps, initial=first, unit="step", mininterval=10) as bar:
        for step in range(first, last):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate(step)
            loss = losses(model, ctc_head, batches[step], config.ctc_weight(step), config.full_softmax(step))
            optimizer.zero_grad()
            loss.total.backward()
            norm = nn.utils.clip_grad_norm_(parameters, config.clip)
            if torch.isfinite(norm):
                optimizer.step()
            else:
                log.warning("step %d is skipped, because its gradient is not finite", step)
            done = step + 1
            bar.update()
            if done % config.log_every == 0 or done == last:
                now = time.perf_counter()
                numbers = {"next_token": loss.next_token, "ctc": loss.ctc, "norm": float(norm), "seconds": now - clock}
                _log(run, step=done, lr=config.learning_rate(step), **numbers)
                clock = now
                bar.set_postfix(loss=f"{loss.next_token:.3f}", ctc=f"{loss.ctc:.3f}")
            if done % config.evaluate_every == 0:
                _log(run, step=done, wer=_quick_wer(model, held_out, config))
            if done % config.checkpoint_every == 0 or done == last or caught:
                save_checkpoint(run, done, modules, optimizer, facts)
            if caught:
                raise KeyboardInterrupt
    return model


def _resume(
    config: TrainConfig,
    run: Path,
    modules: dict[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
    start_from: Path | None,
) -> int:
    """Load the newest state, and set ``facts["history"]`` to the steps and settings of earlier runs. Return the
    step."""
    saved = checkpoints(run)
    if not saved and start_from is not None:
        earlier = checkpoints(start_from)
        if not earlier:
            raise FileNotFoundError(f"there is no checkpoint in {start_from}: pass a folder of `train` as --start-from")
        step, before = load_checkpoint(earlier[-1], modules, optimizer)
        facts["history"] = [*before.get("history", []), {"until_step": step, "config": before["config"]}]
        return step
    if not saved:
        return 0
    step, before = load_checkpoint(saved[-1], modules, optimizer)
    saved_config = TrainConfig.from_dict(before["config"])
    if saved_config != config:
        differences = differing_settings(asdict(saved_config), asdict(config))
        raise ValueError(
            f"{run} has a run with other settings ({differences}): use another folder or the same settings"
        )
    facts["history"] = before.get("history", [])
    log.info("resuming at step %d", step)
    return step


def _quick_wer(model: WhisperCore, corpus: Corpus, config: TrainConfig) -> float:
    count = min(config.evaluate_utterances, len(corpus))
    model.eval()
    heard = greedy(model, [corpus.audio(i) for i in range(count)], full=False)
    model.train()
    errors, words = zip(*(word_errors(corpus.texts[i], heard[i]) for i in range(count)), strict=True)
    return sum(errors) / sum(words)


def _log(run: Path, **facts: Any) -> None:
    with open(run / "log.jsonl", "a", encoding="utf-8") as file:
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in facts.items()}
        file.write(json.dumps(rounded) + "\n")
