"""Every command checks its arguments before it loads weights or runs the encoder."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hooked_whisper.cli import parser as whisper_cli
from sae_lens_audio import Metadata, TopK, TopKConfig, save_sae
from sae_lens_audio.cli import parser as sae_cli
from tests.findings.worlds import small_model

SECONDS = 3.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, SAEs, recordings by two speakers with texts, an empty folder, and a file where a folder is needed."""
    folder = tmp_path_factory.mktemp("place")
    small_model().save_pretrained(folder / "model")
    for name, width, metadata in (
        ("sae", 32, Metadata(hook_name="encoder.blocks.1", checkpoint=str(folder / "model"))),
        ("wide", 48, Metadata(hook_name="encoder.blocks.1")),
        ("nameless", 32, Metadata()),
        ("of-tiny", 32, Metadata(hook_name="encoder.blocks.1", checkpoint="tiny.en")),
        ("of-nothing", 32, Metadata(hook_name="encoder.blocks.1", checkpoint="no-such-model")),
    ):
        save_sae(TopK(TopKConfig(width, 40, k=3)), folder / name, metadata)
    rng = np.random.default_rng(0)
    for speaker in ("ann", "ben"):
        (folder / "audio" / speaker).mkdir(parents=True)
        soundfile.write(folder / "audio" / speaker / f"{speaker}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
        (folder / "audio" / speaker / f"{speaker}.txt").write_text("hello there")
    (folder / "empty").mkdir()
    (folder / "file").write_text("in the way")
    (folder / "run.toml").write_text(
        f'[activations]\nmodel = "{folder / "model"}"\naudio = "{folder / "empty"}"\nhook = "encoder.blocks.1"\n'
        '[sae]\narchitecture = "topk"\nd_sae = 64\nk = 4\n[training]\nsteps = 10\nbatch = 8\n'
    )
    return folder


HOOK = ("--hook", "encoder.blocks.1")
# command with good arguments, and its options of which one at a time is replaced by bad ones
COMMANDS: dict[str, tuple[str, ...]] = {
    "reproduce": ("--only", "F2", "--corpus", "@audio", "--out", "@out"),
    "explore": ("@audio/ann/ann.wav", "--no-browser"),
    "features": (*HOOK, "--audio", "@audio", "--out", "@out"),
    "scan": (*HOOK, "--audio", "@audio", "--out", "@out"),
    "transcribe": ("@audio/ann/ann.wav",),
    "collect": (*HOOK, "--audio", "@audio", "--out", "@out"),
    "sae evaluate": ("@sae", "--audio", "@audio", "--speaker-folders", "--out", "@out"),
    "sae features": ("@sae", "--audio", "@audio", "--out", "@out"),
}
EVERY = (*COMMANDS,)
CORPUS = ("features", "scan", "collect", "sae evaluate", "sae features")
WRITES = ("reproduce", *CORPUS)

BAD = [
    *((command, ("--model", "tiny.eng"), "tiny.en") for command in EVERY),
    *((command, ("--device", "cuda:77"), "cuda:77") for command in EVERY),
    *((command, ("--language", "klingon"), "klingon") for command in EVERY),
    *((command, ("--out", "@file"), "expected a folder") for command in WRITES),
    *((command, ("--out", "@file/below"), "expected a folder") for command in WRITES),
    *((command, ("--audio", "@nowhere"), "nowhere") for command in CORPUS),
    *((command, ("--audio", "@empty"), "no audio files") for command in CORPUS),
    *((command, ("--layout", "timt"), "timit") for command in (*CORPUS, "reproduce")),
    *((command, ("--sentences", "3"), "--sentences") for command in CORPUS),
    *((command, ("--hook", "encoder.blocks.9"), "encoder.blocks.9") for command in CORPUS),
    *((command, ("--hook", "decoder.blocks.0"), "decoder.blocks.0") for command in ("features", "scan")),
    *((command, ("--units", "0:5000"), "4999") for command in ("features", "sae features")),
    ("reproduce", ("--corpus", "@nowhere"), "nowhere"),
    ("reproduce", ("--only", "F99"), "F99"),
    ("explore", ("--port", "70000"), "65535"),
    ("transcribe", ("@nowhere.wav",), "nowhere.wav"),
    ("collect", ("--hook", "encoder.blocks.1.attn.hook_pattern"), "hook_pattern has axes"),
    ("collect", ("--beyond", "20"), "--window sound"),
    ("collect", ("--padding", "keep", "--margin", "2"), "--margin"),
    ("sae evaluate", ("@wide",), "48"),
    ("sae features", ("@wide",), "48"),
    ("sae evaluate", ("@nameless",), "--hook"),
    ("sae evaluate", ("@of-tiny",), "tiny.en"),
    ("sae evaluate", ("--hook-out", "encoder.blocks.0"), "transcoder"),
    ("sae evaluate", ("--seeds",), "two or more"),
]


def filled(place: Path, out: Path, arguments: tuple[str, ...]) -> list[str]:
    return [str(out) if a == "@out" else str(place / a[1:]) if a.startswith("@") else a for a in arguments]


def with_replaced(good: tuple[str, ...], bad: tuple[str, ...]) -> tuple[str, ...]:
    """Options of ``bad`` replace those of ``good``; a leading positional argument replaces the first one."""
    if bad[0].startswith("@"):
        return (*bad, *good[1:])
    remaining: list[str] = []
    skip = False
    for argument in good:
        if skip:
            skip = False
        elif argument in bad:
            skip = True
        else:
            remaining.append(argument)
    return (*remaining, *bad)


def run(program: str, *arguments: str) -> int:
    main = sae_cli.main if program == "sae" else whisper_cli.main
    try:
        return main(list(arguments))
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.fixture
def nothing_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading weights into a model, and the encoder, fail the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something slow ran before the check")

    monkeypatch.setattr("hooked_whisper.loading.load_into", refuse)
    monkeypatch.setattr("hooked_whisper.model.encoder.Encoder.forward", refuse)


@pytest.mark.parametrize(
    ("command", "bad", "message"), BAD, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_a_wrong_argument_is_refused_before_anything_slow(
    command: str,
    bad: tuple[str, ...],
    message: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    nothing_slow: None,
    unchecked: None,
) -> None:
    out = tmp_path / "out"
    program, _, name = command.rpartition(" ")
    program = "sae" if name == "collect" else program
    model = () if "--model" in bad else ("--model", str(place / "model"))
    arguments = filled(place, out, with_replaced(COMMANDS[command], bad))
    started = time.process_time()
    assert run(program, name, *arguments, *model) == 2
    assert time.process_time() - started < SECONDS
    said, told = capsys.readouterr()
    assert said == "" and message in told and len(told.strip().splitlines()) == 1 and not out.exists()


def test_a_port_in_use(place: Path, capsys: pytest.CaptureFixture[str], nothing_slow: None) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert run("", "explore", "--model", str(place / "model"), "--port", port, "--no-browser") == 2
    assert port in capsys.readouterr().err


def test_the_model_that_an_sae_records_must_exist(
    place: Path, capsys: pytest.CaptureFixture[str], nothing_slow: None
) -> None:
    assert run("sae", "evaluate", str(place / "of-nothing"), "--audio", str(place / "audio")) == 2
    told = capsys.readouterr().err
    assert "of-nothing was trained on 'no-such-model'" in told and "--model" in told


def test_a_hook_may_be_named_by_its_alias(place: Path, tmp_path: Path) -> None:
    arguments = (str(place / "sae"), "--audio", str(place / "audio"), "--speaker-folders", "--no-phones")
    assert run("sae", "evaluate", *arguments, *HOOK, "--attached", "0", "--out", str(tmp_path / "out")) == 0


def test_training_checks_the_corpus_before_it_loads_the_model(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_slow: None
) -> None:
    assert run("sae", "train", str(place / "run.toml"), "--out", str(tmp_path / "run")) == 2
    assert "no audio files" in capsys.readouterr().err
    assert run("sae", "train", str(place / "run.toml"), "--out", str(place / "file")) == 2
    assert "expected a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("@nowhere",), "nowhere"),
        (("@empty",), "no audio files"),
        (("@audio", "--out", "@file"), "expected a folder"),
        (("@audio", "--model", "tiny.en"), "--texts own"),
        (("@audio", "--texts", "own", "--model", "tiny.eng"), "tiny.en"),
        (("@audio", "--language", "de"), "'de'"),
    ],
)
def test_align_checks_before_it_transcribes(
    arguments: tuple[str, ...], message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    nothing_slow: None,
) -> None:  # fmt: skip
    pytest.importorskip("pocketsphinx")
    out = () if "--out" in arguments else ("--out", str(tmp_path / "out"))
    started = time.process_time()
    assert run("", "align", *filled(place, tmp_path, arguments), *out) == 2
    assert time.process_time() - started < SECONDS
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


# --- warnings, interruptions, help -----------------------------------------------------------------------------------


@pytest.fixture
def loud_folder(tmp_path: Path) -> Path:
    """56 recordings by two speakers, all of them louder than full scale."""
    rng = np.random.default_rng(0)
    for k in range(56):
        (tmp_path / "loud" / f"s{k % 2}").mkdir(parents=True, exist_ok=True)
        samples = rng.uniform(-1, 1, 4_000)
        soundfile.write(tmp_path / "loud" / f"s{k % 2}" / f"{k:02d}.wav", 1.98 * samples, 16_000, "FLOAT")
    return tmp_path / "loud"


def test_56_loud_files_are_one_line_and_a_list(
    loud_folder: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ("scan", "--model", str(place / "model"), *HOOK, "--audio", str(loud_folder), "--out", str(out))
    assert run("", *command) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warned) == 1 and "56 files" in warned[0] and "00.wav (peak 1.9" in warned[0]
    assert str(out / "audio_warnings.txt") in warned[0] and "32768" not in warned[0]
    assert len((out / "audio_warnings.txt").read_text().splitlines()) == 56


@pytest.mark.parametrize(
    ("name", "hint"), [("scan", "the same command resumes"), ("features", "the same command resumes")]
)
def test_ctrl_c_gives_one_line_that_says_how_to_resume(
    name: str, hint: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hooked_whisper.model.encoder.Encoder.forward", interrupt)
    out = ("--out", str(tmp_path / "out"))
    assert run("", name, "--model", str(place / "model"), *HOOK, "--audio", str(place / "audio"), *out) == 130
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1] == f"hooked-whisper: interrupted; {hint}" and not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("cli", [whisper_cli, sae_cli], ids=["hooked-whisper", "sae-lens-audio"])
def test_the_help_of_every_command_is_grouped_and_has_examples(cli, capsys: pytest.CaptureFixture[str]) -> None:
    program = "sae" if cli is sae_cli else ""
    for command in cli.COMMANDS:
        assert run(program, command.name, "--help") == 0
        text = capsys.readouterr().out
        assert "examples:" in text and all(example in text for example in command.examples) and command.examples
    assert run(program, "--help") == 0
    text = capsys.readouterr().out
    assert "Exit codes" in text and all(command.name in text for command in cli.COMMANDS)


def test_the_example_of_train_is_a_valid_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sae_lens_audio.training.settings import read_settings

    assert run("sae", "train", "--example") == 0
    (tmp_path / "topk.toml").write_text(capsys.readouterr().out)
    settings = read_settings(tmp_path / "topk.toml")
    assert settings.activations.store == "acts" and settings.make_sae((64,)).n_features == 1024


@pytest.mark.parametrize("module", ["hooked_whisper.cli", "sae_lens_audio.cli"])
def test_help_needs_no_torch(module: str) -> None:
    start = f"import sys, {module} as cli"
    code = f"{start}\ntry: cli.main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
