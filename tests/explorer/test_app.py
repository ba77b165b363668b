"""The server: who may ask, what it takes, what it answers."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile
from PIL import Image

from hooked_whisper.corpora import to_textgrid
from hooked_whisper.errors import AudioError, HookedWhisperError
from hooked_whisper.explorer import Shelf, clips
from hooked_whisper.explorer.serve import serve
from hooked_whisper.synthetic import SyntheticCorpus
from tests.explorer.conftest import Served


def wav(samples: np.ndarray, rate: int = 16000, kind: str = "WAV") -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind)
    return stream.getvalue()


def ask(served: Served, path: str, data: bytes | None = None, token: str | None = None, **headers: str):
    """Status, content type, body."""
    headers["X-Token"] = served.explorer.token if token is None else token
    request = urllib.request.Request(served.base + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def get(served: Served, path: str, data: bytes | None = None):
    status, _, body = ask(served, path, data)
    assert status == 200, body
    return json.loads(body)


ROUTES = ["/", "/api/clips", "/api/clips/demo-0", "/api/clips/demo-0/audio.wav", "/api/clips/demo-0/units?block=0"]


@pytest.mark.parametrize("path", ROUTES)
def test_request_without_token_is_refused(served: Served, path: str) -> None:
    for token in ("", "x", served.explorer.token[:-1], served.explorer.token + "x"):
        status, _, body = ask(served, path, token=token)
        assert status == 403 and b"demo" not in body and served.explorer.token.encode() not in body


def test_another_host_name_is_refused(served: Served) -> None:
    host = served.base.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request("GET", f"/?token={served.explorer.token}", headers={"Host": "evil.example"})
    answer = connection.getresponse()
    assert answer.status == 400 and served.explorer.token.encode() not in answer.read()
    connection.close()


def test_only_this_machine_is_listened_to(served: Served) -> None:
    port = int(served.base.rsplit(":", 1)[1])
    with pytest.raises(OSError):  # another address of this machine
        socket.create_connection(("127.0.0.2", port), timeout=2)


def test_content_policy_blocks_external_resources(served: Served) -> None:
    status, headers, body = ask(served, "/")
    policy, html = headers["Content-Security-Policy"], body.decode()
    assert status == 200 and "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", html)
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"


def test_a_clip_has_words_phones_sound_and_a_picture(served: Served) -> None:
    clip = get(served, "/api/clips/demo-1")
    truth = SyntheticCorpus.default().clips()[1]
    assert [w[2] for w in clip["words"]] == truth.text.split() and clip["aligned"] and clip["phones"]
    samples, rate = soundfile.read(io.BytesIO(ask(served, "/api/clips/demo-1/audio.wav")[2]), dtype="float32")
    assert rate == 16000 and np.abs(samples - truth.samples).max() < 1e-3
    image = Image.open(io.BytesIO(ask(served, "/api/clips/demo-1/mel.png")[2]))
    assert image.size == (round(100 * clip["seconds"]), 80)


def test_the_first_clip_is_one_that_the_model_gets_right(served: Served) -> None:
    response = get(served, "/api/clips")
    clip = get(served, f"/api/clips/{response['first']}")
    assert clip["text"].split() == [w[2] for w in clip["words"]]
    assert len(response["clips"]) >= 24


def test_uploads_are_transcribed_and_aligned(served: Served) -> None:
    truth = SyntheticCorpus.default().clips()[3]
    key = get(served, "/api/clips?name=..%2F..%2Fetc%2Fmy%20%3Cb%3E.flac", wav(truth.samples, kind="FLAC"))["id"]
    clip = get(served, f"/api/clips/{key}")
    assert clip["name"] == "my <b>.flac" and not clip["aligned"] and not clip["phones"]
    assert [w[2] for w in clip["words"]] == clip["text"].split()
    grid = to_textgrid(truth.alignment).encode()
    clip = get(served, f"/api/clips/{key}/alignment?name=my.TextGrid", grid)
    assert clip["aligned"] and [p[2] for p in clip["phones"]] == [p.label for p in truth.alignment.phones]
    response = get(served, f"/api/clips/{key}/act", json.dumps({"cuts": [clip["words"][0][:2]]}).encode())
    assert "'my <b>.flac'" in response["python"]
    for broken in (b"", b"not a grid", b"\xff\xfe\x00"):
        status, _, body = ask(served, f"/api/clips/{key}/alignment?name=x.TextGrid", broken)
        assert status == 400 and json.loads(body)["error"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"RIFF nonsense", "upload"),
        (b"<html>", "upload"),
        (wav(np.zeros(16000 * 31, np.float32)), "lasts 31.0 s"),
        (wav(np.zeros(16000 * 300, np.float32), kind="FLAC"), "lasts 300.0 s"),  # small, and would grow
    ],
)
def test_long_clip_is_refused(served: Served, content: bytes, says: str) -> None:
    status, _, body = ask(served, "/api/clips", content)
    assert status == 400 and says in json.loads(body)["error"]
    assert get(served, "/api/clips/demo-0")["words"]  # and it goes on


def test_oversized_request_body_is_not_read(served: Served, monkeypatch) -> None:
    monkeypatch.setattr("hooked_whisper.explorer.app.MOST_BYTES", 10_000)
    status, _, body = ask(served, "/api/clips", bytes(20_000))
    assert status == 400 and "more than 0.01 MB" in json.loads(body)["error"]


def test_uploads_make_room_for_later_ones(demo, monkeypatch) -> None:
    monkeypatch.setattr(clips, "MOST_UPLOADS", 2)
    shelf = Shelf(demo, packaged=False)
    assert shelf.first() is None
    sound = wav(SyntheticCorpus.default().clips()[1].samples)
    keys = [shelf.add(sound, f"{i}.wav") for i in range(3)]
    assert list(shelf.names()) == keys[1:] and shelf.first() == keys[2]
    with pytest.raises(HookedWhisperError, match=f"clip {keys[0]!r}"):
        shelf[keys[0]]
    monkeypatch.setattr(clips, "MOST_BYTES", 100)
    with pytest.raises(AudioError, match="more than"):
        shelf.add(sound, "a.wav")


def test_sound_supports_range_requests(served: Served) -> None:
    whole = ask(served, "/api/clips/demo-1/audio.wav")[2]
    status, headers, part = ask(served, "/api/clips/demo-1/audio.wav", Range="bytes=100-199")
    assert (status, part, headers["Content-Range"]) == (206, whole[100:200], f"bytes 100-199/{len(whole)}")
    assert ask(served, "/api/clips/demo-1/audio.wav", Range="bytes=44-")[2] == whole[44:]
    assert ask(served, "/api/clips/demo-1/audio.wav", Range="bytes=9-3")[0] == 200


def test_equal_names_are_told_apart_and_paths_kept(demo) -> None:
    shelf, sound = Shelf(demo, packaged=False), wav(SyntheticCorpus.default().clips()[1].samples)
    keys = [shelf.add(sound, "recording.wav") for _ in range(2)] + [shelf.add(sound, "a/x.wav", source="a/x.wav")]
    assert list(shelf.names().values()) == ["recording.wav", "recording-2.wav", "x.wav"]
    assert [shelf[key].source for key in keys] == ["'recording.wav'", "'recording-2.wav'", "'a/x.wav'"]


def test_patterns_and_neurons(served: Served) -> None:
    clip = get(served, "/api/clips/demo-1")
    positions = round(clip["seconds"] * 50)
    for stack in ("encoder", "decoder", "cross"):
        status, headers, body = ask(served, f"/api/clips/demo-1/pattern.png?stack={stack}&block=1&head=2")
        width, height = Image.open(io.BytesIO(body)).size
        assert status == 200 and headers["Content-Type"] == "image/png"
        assert abs(width - positions) <= 1 if stack != "decoder" else width == height
    start, end, _ = clip["words"][1]
    response = get(served, f"/api/clips/demo-1/units?block=2&start={start}&end={end}&also=7")
    assert (
        response[0]["unit"] == 7
        and len(response) >= 12
        and all(abs(len(u["trace"]) - positions) <= 1 for u in response)
    )
    z = [u["z"] for u in response[1:]]
    assert z == sorted(z, reverse=True)
    trace = np.array(response[1]["trace"])
    inside = slice(int(start * 50), int(end * 50))
    assert trace[inside].mean() > np.delete(trace, np.r_[inside]).mean()
    assert len(get(served, "/api/clips/demo-1/units?block=0")) >= 12


@pytest.mark.parametrize("stack", ["encoder", "decoder", "cross"])
def test_the_attention_viewer_is_a_page_that_loads_nothing(served: Served, stack: str) -> None:
    status, headers, body = ask(served, f"/clips/demo-1/attention?stack={stack}&block=1&head=2")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in headers["Content-Security-Policy"] and "connect-src" not in headers
    words = [word[2] for word in get(served, "/api/clips/demo-1")["words"]]
    page = body.decode()
    assert f'"{stack} 1.2"' in page and all(word in page for word in words) and served.explorer.token not in page


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/api/clips/nobody", None),
        ("/clips/demo-1/attention?stack=middle&block=0&head=0", None),
        ("/clips/demo-1/attention?stack=cross&block=9&head=0", None),
        ("/api/clips/demo-1/pattern.png?stack=middle&block=0&head=0", None),
        ("/api/clips/demo-1/pattern.png?stack=encoder&block=0&head=77", None),
        ("/api/clips/demo-1/pattern.png?stack=encoder&block=x&head=0", None),
        ("/api/clips/demo-1/units?block=99", None),
        ("/api/clips/demo-1/units?block=0&start=20&end=21", None),
        ("/api/clips/demo-1/units?block=0&start=nan", None),
        ("/api/clips/demo-1/units?block=0&also=100000", None),
        ("/api/clips/demo-1/act", b"{"),
        ("/api/clips/demo-1/act", b"[" * 90_000),
        ("/api/clips/demo-1/act", b"[]"),
        ("/api/clips/demo-1/act", b'{"heads": [["encoder", 99, 0]]}'),
    ],
)
def test_invalid_requests_get_a_message(served: Served, path: str, data: bytes | None) -> None:
    status, _, body = ask(served, path, data)
    assert status == 400 and len(json.loads(body)["error"]) > 15


def test_port_in_use_is_an_error(served: Served) -> None:
    with pytest.raises(HookedWhisperError, match="cannot be used"):
        serve(served.explorer, int(served.base.rsplit(":", 1)[1]))


def start() -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "-m", "hooked_whisper", "explore", "--no-browser", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
    assert address is not None
    return process, address[0]


def stopped(process: subprocess.Popen, address: str) -> None:
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out.splitlines()[-1], err) == (0, "stopped", "")
    host, port = address.split("/")[2].split(":")
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), timeout=2)


def test_the_command_stops_cleanly() -> None:
    process, address = start()
    assert urllib.request.urlopen(address, timeout=30).status == 200
    process.send_signal(signal.SIGINT)
    stopped(process, address)


def test_the_page_can_stop_the_command() -> None:
    process, address = start()
    token = address.split("token=")[1]
    base = address.split("/?")[0]
    request = urllib.request.Request(base + "/api/stop", b"", {"X-Token": token})
    assert json.loads(urllib.request.urlopen(request, timeout=30).read()) == {"stopped": True}
    stopped(process, address)
