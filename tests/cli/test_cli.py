"""The command line: exit codes, one-line errors, JSON, a whole run on a small model."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from copy import copy

import numpy as np
import pytest
import soundfile

from hooked_whisper import decoding
from hooked_whisper.cli import parser as cli
from hooked_whisper.findings import Finding
from tests.findings.worlds import small_context, small_model


def run(*arguments: str) -> int:
    try:
        return cli.main(list(arguments))
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    small_model(n_ctx=100).save_pretrained(path, {"wer": "not measured", "command": "made by a test"})
    return str(path)


@pytest.fixture(scope="module")
def half_minute(tmp_path_factory) -> str:
    """A model with openai-whisper's window of 30 s, which its ``transcribe`` takes for granted."""
    path = tmp_path_factory.mktemp("model")
    small_model(n_ctx=1500).save_pretrained(path)
    return str(path)


@pytest.fixture
def clip(tmp_path) -> str:
    path = tmp_path / "clip <b>.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    return str(path)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("reproduce", "--utterances", "0"),
        ("reproduce", "--utterances", "many"),
        ("reproduce", "--seed", "-1"),
        ("reproduce", "--only", "F99"),
        ("reproduce", "--only", ","),
        ("reproduce", "--audio", "missing.wav"),
        ("reproduce", "--audio", "."),
        ("reproduce", "--model", "no-such-model"),
        ("transcribe",),
        ("transcribe", "missing.wav"),
        ("hooks", "--model", "larg-v3"),
        ("hooks", "--model", "tiny", "--names", "nope.*"),
        ("hooks", "--bogus"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(arguments, capsys, tmp_path, monkeypatch, unchecked) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1 and "error" in captured.err
    assert "Traceback" not in captured.err


def test_files_that_are_not_audio(capsys, tmp_path, half_minute, unchecked) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"not audio at all")
    assert run("transcribe", str(bad), "--model", half_minute, "--language", "en") == 2
    assert "bad.wav" in capsys.readouterr().err


def test_a_model_with_another_window_cannot_transcribe_but_findings_run(capsys, folder, clip, tmp_path) -> None:
    assert run("transcribe", clip, "--model", folder) == 2
    assert "window of 30 s" in capsys.readouterr().err
    out = tmp_path / "o"
    assert run("reproduce", "--audio", clip, "--model", folder, "--out", str(out), "--only", "F1,L2,L3") == 0
    findings = json.loads((out / "findings.json").read_text())["findings"]
    assert not any(f["status"] in ("reproduced", "error") for f in findings)


def test_missing_device_is_refused(capsys, folder, clip) -> None:
    assert run("transcribe", clip, "--model", folder, "--device", "cuda:77") == 2
    assert "--device cpu" in capsys.readouterr().err


def test_help_and_version(capsys) -> None:
    for arguments in (("--help",), ("reproduce", "--help"), ("transcribe", "-h"), ("hooks", "-h")):
        assert run(*arguments) == 0
        assert "usage: hooked-whisper" in capsys.readouterr().out
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("hooked-whisper ")


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "hooked_whisper", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("hooked-whisper ")


def test_hooks_of_a_released_size_need_no_weights(capsys) -> None:
    assert run("hooks", "--model", "large-v3-turbo", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row for row in rows}
    pattern = by_name["decoder.blocks.3.cross_attn.hook_pattern"]
    assert pattern["axes"] == ["batch", "head", "query", "key"] and pattern["shape"] == [None, 20, None, 1500]
    assert by_name["encoder.hook_mel"]["shape"] == [None, 128, 3000]
    assert by_name["decoder.blocks.0.attn.hook_pattern"]["shape"] == [None, 20, None, None]
    assert by_name["encoder.blocks.31.attn.hook_result"]["optional"] is True
    assert by_name["encoder.hook_pos_embed"]["shape"] == [1500, 1280]
    assert rows[-1]["name"] == "unembed.hook_out" and rows[-1]["shape"] == [None, None, 51866]
    assert "encoder.blocks.32.hook_resid_pre" not in by_name and "decoder.blocks.4.hook_resid_pre" not in by_name


def test_hooks_have_the_shapes_of_a_real_pass(folder, capsys) -> None:
    assert run("hooks", "--model", folder, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    model = small_model(n_ctx=100)
    mel, tokens = model.to_mel(np.zeros(16_000, np.float32)), model.to_tokens(" very")
    _, cache = model.run_with_cache(mel, tokens, names_filter=lambda name: True)
    assert [r["name"] for r in rows] == model.hook_names()
    for row in rows:
        shape = tuple(cache[row["name"]].shape)
        assert len(shape) == len(row["shape"])
        assert all(want in (None, got) for want, got in zip(row["shape"], shape, strict=True)), row


def test_hooks_table_and_glob(capsys) -> None:
    assert run("hooks", "--model", "tiny", "--names", "encoder.blocks.0.attn.hook_[qk]") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "position=1500" in lines[0] and "head=6" in lines[0]


def without_fallback(monkeypatch) -> None:
    """A random model always needs the fallback over temperatures, which takes long."""
    each = decoding.transcribe_each
    monkeypatch.setattr(decoding, "transcribe_each", lambda *a, **k: each(*a, **k, temperature=0))


def test_transcribe_json(half_minute, clip, capsys, monkeypatch) -> None:
    without_fallback(monkeypatch)
    assert run("transcribe", clip, "--model", half_minute, "--language", "en", "--json", "--word-timestamps") == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["file"] == clip and result["language"] == "en" and "segments" in result


def test_bad_file_is_reported_and_the_rest_is_transcribed(half_minute, clip, capsys, monkeypatch, tmp_path) -> None:
    without_fallback(monkeypatch)
    bad, gone = tmp_path / "bad.wav", tmp_path / "gone.wav"
    bad.write_bytes(b"not audio at all")
    files = [str(bad), clip, str(gone), str(tmp_path)]
    assert run("transcribe", *files, "--model", half_minute, "--language", "en") == 1
    said, told = capsys.readouterr()
    assert said.startswith(f"{clip}: ") and "3 of 4 recordings" in told
    assert all(f"{file}: " in told for file in files if file != clip) and "Traceback" not in told
    assert run("transcribe", *files, "--model", half_minute, "--language", "en", "--json") == 1
    assert [result["file"] for result in json.loads(capsys.readouterr().out)] == [clip]
    assert run("transcribe", str(bad), str(bad), "--model", half_minute, "--language", "en", "--json") == 2
    assert json.loads(capsys.readouterr().out) == []


def test_results_before_an_interruption_are_printed(half_minute, clip, capsys, monkeypatch) -> None:
    each = decoding.transcribe_each

    def transcribe_each(*arguments, **options):
        yield next(each(*arguments, **options, temperature=0))
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "transcribe_each", transcribe_each)
    assert run("transcribe", clip, clip, "--model", half_minute, "--language", "en", "--json") == 130
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_interruption_exits_130(monkeypatch, folder, capsys, tmp_path) -> None:
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("hooked_whisper.findings.bigrams.Bigrams.run", interrupt)
    monkeypatch.setattr("hooked_whisper.cli.reproduce.load_model", interrupt)
    assert run("reproduce", "--model", folder, "--only", "F9", "--out", str(tmp_path)) == 130
    assert "interrupted" in capsys.readouterr().err


def experiment_with(experiment, **replaced):
    """A copy of an experiment with replaced methods."""
    changed = copy(experiment)
    vars(changed).update(replaced)
    return changed


def test_failing_finding_is_recorded_and_the_others_run(monkeypatch, folder, capsys, tmp_path) -> None:
    from hooked_whisper.findings import registry

    def broken(context):
        raise ZeroDivisionError("<oops>")

    def untestable(context):
        return Finding("F10", "title", "claim", "protocol", "model", {}, {}, reason_untestable="no truth")

    entries = {
        "F9": experiment_with(registry.REGISTRY["F9"], run=broken),
        "F10": experiment_with(registry.REGISTRY["F10"], run=untestable),
    }
    monkeypatch.setattr(registry, "REGISTRY", entries)
    assert run("reproduce", "--model", folder, "--out", str(tmp_path)) == 1
    data = json.loads((tmp_path / "findings.json").read_text())
    assert [f["status"] for f in data["findings"]] == ["error", "not testable"]
    assert data["findings"][0]["error"] == "ZeroDivisionError: <oops>"
    assert "&lt;oops&gt;" in (tmp_path / "index.html").read_text()
    assert "Traceback" not in capsys.readouterr().err


def test_alignment_of_user_recordings(half_minute, clip, capsys, tmp_path, monkeypatch) -> None:
    from hooked_whisper.findings import attention_windows as windows

    monkeypatch.setattr(windows, "WINDOWS", (10, 20))
    monkeypatch.setattr(windows, "NARROWER", ())
    monkeypatch.setattr("hooked_whisper.findings.core.context.MOST_TOKENS", 6)
    out = tmp_path / "out"
    assert (
        run(
            "reproduce", "--model", half_minute, "--audio", clip, "--out", str(out), "--only", "f2,f4", "--threads", "1"
        )
        == 0
    )
    data = json.loads((out / "findings.json").read_text())
    assert [f["id"] for f in data["findings"]] == ["F2", "F4"]
    assert [f["status"] for f in data["findings"]] == ["measured, no verdict", "not testable"]
    assert data["findings"][0]["inputs"]["reference"] == "model"
    html = (out / "index.html").read_text()
    assert "clip <b>" not in html and str(tmp_path) not in html.split("<footer")[0]
    assert sorted(p.name for p in out.iterdir()) == ["attention-encoder.html", "findings.json", "index.html"]
    attention = (out / "attention-encoder.html").read_text()
    assert "clip <b>" not in attention and str(tmp_path) not in attention


def test_text_findings_run_without_speech(folder, tmp_path, capsys, monkeypatch) -> None:
    smaller = {"bigrams.PROMPTS": 20, "bigrams.SHUFFLES": 2, "neighbors.N_WORDS": 500, "neighbors.DRAWS": 20}
    for name, value in smaller.items():
        monkeypatch.setattr(f"hooked_whisper.findings.english.{name}", value)
    assert run("reproduce", "--model", folder, "--out", str(tmp_path / "o"), "--only", "F9,F10") == 0
    data = json.loads((tmp_path / "o" / "findings.json").read_text())
    assert [f["status"] for f in data["findings"]] == ["not reproduced"] * 2  # random weights know no English
    assert all(f["status_reason"] for f in data["findings"])


def test_a_closed_pipe_is_no_error() -> None:
    if shutil.which("head") is None or os.name != "posix":
        pytest.skip("needs head")
    command = f"{sys.executable} -m hooked_whisper hooks --model large-v3 | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and done.stdout.count("\n") == 1


def test_finding_without_context_is_an_error() -> None:
    from hooked_whisper.findings import REGISTRY, run_experiment

    context = small_context(truth=False)
    assert isinstance(run_experiment(REGISTRY["F2"], context), Finding)


def test_reproduce_resumes_with_the_same_settings_alone(monkeypatch, folder, caplog, tmp_path) -> None:
    from hooked_whisper.findings import registry, running

    calls: list[str] = []

    def counting(id: str):
        def run_it(context):
            calls.append(id)
            return Finding(id, "title", "claim", "protocol", "model", {}, {}, reason_untestable="no truth")

        return run_it

    entries = {id: experiment_with(registry.REGISTRY[id], run=counting(id)) for id in ("F9", "F10")}
    monkeypatch.setattr(registry, "REGISTRY", entries)
    monkeypatch.setattr(running, "REGISTRY", entries)
    arguments = ("reproduce", "--model", folder, "--out", str(tmp_path))
    assert run(*arguments, "--only", "F10") == 0
    assert run(*arguments, "--resume") == 0
    assert calls == ["F10", "F9"]
    data = json.loads((tmp_path / "findings.json").read_text())
    assert [f["id"] for f in data["findings"]] == ["F9", "F10"] and data["settings"]["seed"] == 0
    assert run(*arguments, "--resume", "--seed", "1") == 0
    assert calls == ["F10", "F9", "F9", "F10"]
    assert "other settings" in caplog.text


def test_recordings_without_a_text_need_own_texts(half_minute, clip, tmp_path, capsys) -> None:
    arguments = ("reproduce", "--model", half_minute, "--audio", clip, "--out", str(tmp_path), "--only", "F1")
    assert run(*arguments, "--texts", "given") == 2
    assert "--texts own" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("transcribe", "CLIP", "--language", "xx"),
        ("transcribe", "CLIP", "--language", "yue"),  # large-v3 alone has it
        ("transcribe", "CLIP", "CLIP", "--language", "xx", "--json"),
        ("scan", "--hook", "encoder.blocks.0", "--audio", "FOLDER", "--language", "xx"),
        ("features", "--hook", "encoder.blocks.0", "--audio", "FOLDER", "--language", "xx"),
        ("reproduce", "--audio", "CLIP", "--only", "F1", "--language", "xx"),
        ("explore", "CLIP", "--language", "yue", "--no-browser"),
    ],
)
def test_unknown_language_is_refused(arguments, clip, half_minute, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    filled = [{"CLIP": clip, "FOLDER": str(tmp_path)}.get(argument, argument) for argument in arguments]
    assert run(*filled, "--model", half_minute) == 2
    said, told = capsys.readouterr()
    assert said == "" and len(told.strip().splitlines()) == 1
    assert "'xx'" in told or "'yue' is not among them" in told


@pytest.mark.parametrize("number", ["0", "-1", "99999999", "1025", "many", "1e3"])
@pytest.mark.parametrize("option", [("transcribe", "x.wav", "--threads"), ("align", ".", "--jobs")])
def test_impossible_thread_counts_are_refused(option, number, capsys) -> None:
    assert run(*option, number) == 2
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1 and repr(number) in told


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_text_is_printed_in_any_encoding(encoding, clip, half_minute, monkeypatch) -> None:
    from hooked_whisper.decoding import Transcription

    said = "日本語 é 😀 \udc80"  # the last as in a file name that is no UTF-8
    result = Transcription({"text": said, "segments": [], "language": "ja"})
    monkeypatch.setattr(decoding, "transcribe_each", lambda model, clips, **k: (result for _ in clips))
    for options in ((), ("--json",)):
        pipe = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run("transcribe", clip, "--model", half_minute, *options) == 0
        assert pipe.errors == "strict"
        written = pipe.buffer.getvalue().decode(encoding)
        if options:
            assert json.loads(written)[0]["text"] == said
        else:
            assert written.strip() == said.encode(encoding, "backslashreplace").decode(encoding)
