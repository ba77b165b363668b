"""Every sample that a decoder can give is read, what is missing at the end is an error that says how much, and nothing
happens in between: for headers that lie, joined files, tags, streams, and files that are cut."""

from __future__ import annotations

import io
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper._support.storage import as_path
from hooked_whisper.audio import load_audio
from hooked_whisper.corpora.parts import load_part
from hooked_whisper.errors import AudioError
from tests.audio import surgery
from tests.audio.signals import babble, encoded

SECONDS = 2
WAVE = babble(16_000 * SECONDS).numpy()
FRAMES = 2 * 1152 / 16_000  # what encoder and decoder of MP3 may add, in seconds, at 16 kHz


def mp3(rate: int = 16_000) -> bytes:
    return encoded(babble(rate * SECONDS).numpy(), rate, "MP3")


def seconds(content: bytes) -> float:
    return len(load_audio(content)) / 16_000


def missing(content: bytes) -> tuple[float, float]:
    """Seconds there, and missing, by the error."""
    with pytest.raises(AudioError, match="truncated") as caught:
        load_audio(content)
    there, lost = re.findall(r"after ([\d.]+) s, (?:at least )?([\d.]+) s are missing", str(caught.value))[0]
    return float(there), float(lost)


# MP3 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_mp3_without_a_tag_is_read_whole(rate: int) -> None:
    content = mp3(rate)
    assert abs(seconds(content) - SECONDS) < 1e-3
    bare = surgery.without_tag(content)
    spf = 1152 if rate > 24_000 else 576
    n_frames = len(surgery.mp3_frames(content)) - 1
    assert n_frames * spf / rate - 0.1 < seconds(bare) <= n_frames * spf / rate + 1e-3
    assert seconds(bare) > SECONDS


def test_mp3_of_variable_frame_sizes_is_read_whole() -> None:
    """Large frames first: file size over frame size is far too small a number of frames."""
    loud = encoded(0.9 * np.random.default_rng(0).uniform(-1, 1, 32_000), 16_000, "MP3")
    quiet = encoded(1e-4 * babble(64_000).numpy(), 16_000, "MP3")
    content = surgery.without_tag(quiet) + surgery.without_tag(loud) + surgery.without_tag(quiet)
    assert abs(seconds(content) - 10.2) < 0.3


@pytest.mark.parametrize("bare", [False, True])
def test_joined_mp3s_are_read_whole(bare: bool) -> None:
    single = mp3()
    first, second = (surgery.without_tag(single), surgery.without_tag(single)) if bare else (single, single)
    assert abs(seconds(first + second) - 2 * seconds(first)) < FRAMES
    tagged = surgery.id3v2() + first + surgery.id3v1() + surgery.id3v2(99) + second + surgery.ape() + surgery.id3v1()
    assert abs(seconds(tagged) - 2 * seconds(first)) < FRAMES
    assert abs(seconds(mp3(44_100) + single) - 2 * SECONDS) < FRAMES  # of different rates


def test_tagged_mp3_joined_to_an_untagged_one() -> None:
    single = mp3()
    both = load_audio(single + surgery.without_tag(single))
    assert abs(len(both) / 16_000 - 2 * SECONDS) < FRAMES + 0.05
    assert torch.equal(both[: 16_000 * SECONDS - 2000], load_audio(single)[:-2000])


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda c: surgery.id3v2() + c,
        lambda c: surgery.id3v2(10) + surgery.id3v2(70_000) + c,
        lambda c: surgery.ape() + c,
        lambda c: c + surgery.ape(),
        lambda c: c + surgery.ape(header=False) + surgery.id3v1(),
        lambda c: c + surgery.lyrics3() + surgery.id3v1(),
        lambda c: bytes(3000) + c,
        lambda c: c + bytes(5000),
        lambda c: c + b"some text that is no tag" * 9,
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_tags_around_an_mp3_are_no_sound(wrapped, bare: bool) -> None:
    content = surgery.without_tag(mp3()) if bare else mp3()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(load_audio(wrapped(content)), load_audio(content))


@pytest.mark.parametrize("extra", [0, 1, 3, -2])
def test_an_mp3_tag_may_count_some_frames_wrong(extra: int) -> None:
    content = mp3()
    n = len(surgery.mp3_frames(content)) - 1
    assert abs(seconds(surgery.with_frame_count(content, n + extra)) - SECONDS) < FRAMES
    assert abs(seconds(surgery.with_frame_count(content, 5)) - SECONDS) < FRAMES  # promises less
    there, lost = missing(surgery.with_frame_count(content, 2 * n))
    assert abs(there - SECONDS) < FRAMES and abs(lost - SECONDS) < FRAMES


@pytest.mark.parametrize("bare", [False, True])
def test_truncated_mp3_is_an_error(bare: bool) -> None:
    frames = surgery.mp3_frames(mp3())[1 if bare else 0 :]
    for n in (1, 20, len(frames) - 1):
        content = b"".join(frames[:n]) + frames[n][: len(frames[n]) // 2]
        there, lost = missing(content)
        assert abs(there - (n - (not bare)) * 576 / 16_000) < 0.02
        assert lost >= 0.03 if bare else abs(there + lost - SECONDS) < FRAMES
    without_last_slot = b"".join(frames)[:-2]
    assert seconds(without_last_slot) >= SECONDS - FRAMES


def test_junk_between_frames_is_skipped_with_a_warning() -> None:
    frames = surgery.mp3_frames(surgery.without_tag(mp3()))
    junk = b"".join(frames[:30]) + b"<html>no sound</html>" * 100 + b"".join(frames[30:])
    with pytest.warns(UserWarning, match="not MPEG frames"):
        assert abs(seconds(junk) - seconds(b"".join(frames))) < 0.05


def test_mp3_of_free_format() -> None:
    buffer = io.BytesIO()
    soundfile.write(
        buffer, babble(88_200).numpy(), 44_100, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5
    )
    constant = surgery.without_tag(buffer.getvalue())
    assert len({frame[2] >> 4 for frame in surgery.mp3_frames(constant)}) == 1
    assert torch.equal(load_audio(surgery.free_format(constant)), load_audio(constant))


def test_mp3_in_a_wav() -> None:
    content = mp3()
    fmt = struct.pack("<HHIIHHH", 0x55, 1, 16_000, 4_000, 1, 0, 0)
    body = b"WAVE" + surgery.chunk(b"fmt ", fmt) + surgery.chunk(b"data", content)
    wav = surgery.chunk(b"RIFF", body)
    assert torch.equal(load_audio(wav), load_audio(content))
    assert torch.equal(load_audio(wav + wav), load_audio(content).repeat(2))


# Ogg and FLAC -------------------------------------------------------------------------------------------------------

STREAMS = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]


@pytest.mark.parametrize(("format", "subtype"), STREAMS)
def test_joined_streams_are_read_whole(format: str, subtype: str) -> None:
    single = encoded(WAVE, 16_000, format, subtype)
    other = encoded(babble(48_000, 1).numpy(), 48_000, format, subtype)
    first, second = load_audio(single), load_audio(other)
    assert torch.equal(load_audio(single + single + single), first.repeat(3))
    assert torch.allclose(load_audio(single + other), torch.cat([first, second]), atol=1e-6)
    stereo = encoded(np.stack([WAVE, WAVE], 1), 16_000, format, subtype)
    assert abs(seconds(single + stereo) - 2 * SECONDS) < 0.01


@pytest.mark.parametrize(("format", "subtype"), STREAMS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.97])
def test_truncated_stream_is_an_error(format: str, subtype: str, part: float) -> None:
    single = encoded(WAVE, 16_000, format, subtype)
    cut = single[: int(part * len(single))]
    for content in (cut, single + cut):
        with pytest.raises(AudioError, match="truncated") as caught:
            load_audio(content)
        there = float(re.findall(r"after ([\d.]+) s", str(caught.value))[0])
        before = 0 if content is cut else SECONDS
        assert before <= there < before + SECONDS


def ogg_pages(subtype: str) -> list[bytes]:
    """The pages of eight seconds."""
    return surgery.ogg_pages(encoded(np.tile(WAVE, 4), 16_000, "OGG", subtype))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_lost_or_damaged_ogg_pages_are_errors(subtype: str) -> None:
    pages = ogg_pages(subtype)
    assert len(pages) > 4
    damaged = pages[3][:-40] + bytes(30) + pages[3][-10:]
    headless = b"Ugh" + pages[3][3:]
    for middle, word in (([], "missing"), ([damaged], "damaged"), ([headless], "missing")):
        for content in (
            b"".join([*pages[:3], *middle, *pages[4:]]),
            b"".join([*pages, *pages[:3], *middle, *pages[4:]]),
        ):
            with pytest.raises(AudioError, match=rf"Ogg page at [\d.]+ s is {word}"):
                load_audio(content)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_stream_without_its_last_page(subtype: str) -> None:
    pages = ogg_pages(subtype)
    whole = b"".join(pages)
    with pytest.warns(UserWarning, match=r"ends at [\d.]+ s"):
        assert 0 < seconds(b"".join(pages[:-1])) < 4 * SECONDS
    if subtype == "VORBIS":  # libsndfile refuses an Opus stream whose last page cuts a packet but is not marked
        with pytest.warns(UserWarning, match=r"ends at 8\.00 s"):
            assert torch.equal(load_audio(b"".join([*pages[:-1], surgery.ogg_unmarked(pages[-1])])), load_audio(whole))
    for junk in (b"Ogg", pages[-1][3:]):
        with pytest.raises(AudioError, match="truncated"):
            load_audio(b"".join(pages[:-1]) + junk)
        with pytest.raises(AudioError, match="truncated"):
            load_audio(b"".join(pages[:-1]) + junk + whole)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("format", ["WAV", "CAF", "AIFF", "AU", "W64", "MAT5"])
def test_float_files_of_another_scale_warn_as_arrays_do(format: str, subtype: str, tmp_path: Path) -> None:
    loud = encoded(WAVE * 2**15, 16_000, format, subtype)
    (tmp_path / "a.wav").write_bytes(loud)
    for source in (loud, tmp_path / "a.wav", {"bytes": loud, "path": None}):
        with pytest.warns(UserWarning, match="full scale"):
            assert load_audio(source).abs().max() > 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_audio(encoded(WAVE / np.abs(WAVE).max() * 1.4, 16_000, format, subtype))  # a normal overshoot


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("total", [0, 100, 20_000])
def test_flac_whose_header_counts_nothing_or_too_little(subtype: str, total: int) -> None:
    whole = encoded(WAVE, 16_000, "FLAC", subtype)
    expected = load_audio(whole)
    for content in (whole, surgery.id3v2() + whole, whole + surgery.id3v1(), whole + surgery.ape(), whole + bytes(99)):
        offset = content.find(b"fLaC")
        assert torch.equal(load_audio(content[:offset] + surgery.flac_total(content[offset:], total)), expected)
    lied = surgery.flac_total(whole, total)
    assert torch.equal(load_audio(lied + lied), expected.repeat(2))
    with pytest.raises(AudioError, match="truncated"):
        load_audio(lied[: len(lied) // 2])


def test_flac_with_too_many_announced_samples() -> None:
    there, lost = missing(surgery.flac_total(encoded(WAVE, 16_000, "FLAC"), 5 * 16_000))
    assert (there, lost) == (2.0, 3.0)


# Headers and chunks -------------------------------------------------------------------------------------------------

PCM = ["WAV", "WAVEX", "RF64", "W64", "AU", "NIST", "AIFF", "CAF"]


@pytest.mark.parametrize("format", PCM)
@pytest.mark.parametrize("subtype", ["PCM_16", "ULAW"])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_half_a_file_says_how_much_is_missing(format: str, subtype: str, share: float) -> None:
    whole = encoded(np.tile(WAVE, 4), 16_000, format, subtype)
    there, lost = missing(whole[: int(share * len(whole))])
    assert abs(there + lost - 4 * SECONDS) < 0.02 and abs(there - share * 4 * SECONDS) < 0.2


@pytest.mark.parametrize("format", ["SVX", "VOC", "AVR", "MAT4", "MAT5", "MPC2K", "WVE"])
def test_half_a_file_of_rarer_formats(format: str) -> None:
    wave, rate = (babble(8_000).numpy(), 8_000) if format == "WVE" else (WAVE, 16_000)
    whole = encoded(wave, rate, format)
    load_audio(whole)
    with pytest.raises(AudioError, match="truncated"):
        load_audio(whole[: len(whole) // 2])


@pytest.mark.parametrize("format", ["WAV", "WAVEX"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36])
@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, None])
def test_wav_streams_are_read_whole(format: str, size: int, riff: int | None) -> None:
    content = encoded(WAVE, 16_000, format)
    assert torch.equal(load_audio(surgery.wav_size(content, size, riff)), load_audio(content))


def test_streams_of_other_containers_are_read_whole() -> None:
    rf64 = encoded(WAVE, 16_000, "RF64")
    expected = load_audio(rf64)
    offset = rf64.find(b"ds64") + 8
    for open_size in (bytes(8), b"\xff" * 8):
        assert torch.equal(load_audio(rf64[: offset + 8] + open_size + rf64[offset + 16 :]), expected)
    au = encoded(WAVE, 16_000, "AU")
    assert torch.equal(load_audio(au[:8] + b"\xff" * 4 + au[12:]), expected)
    sphere = encoded(WAVE, 16_000, "NIST")
    counted = re.sub(rb"sample_count -i \d+\n", b"", sphere[:1024]).ljust(1024, b" ") + sphere[1024:]
    assert torch.equal(load_audio(counted), expected)
    caf = encoded(WAVE, 16_000, "CAF")
    offset = caf.find(b"data") + 4
    assert torch.equal(load_audio(caf[:offset] + b"\xff" * 8 + caf[offset + 8 :]), expected)
    aiff = encoded(WAVE, 16_000, "AIFF")
    offset = aiff.find(b"SSND") + 4
    assert torch.equal(load_audio(aiff[:offset] + bytes(4) + aiff[offset + 4 :]), expected)


@pytest.mark.parametrize("format", PCM)
def test_understated_header_is_ignored(format: str) -> None:
    whole = encoded(WAVE, 16_000, format)
    n_bytes = 2 * len(WAVE)
    order = ">" if format in ("AU", "AIFF", "CAF") else "<"
    code = "Q" if format in ("RF64", "W64", "CAF") else "I"
    wide = {"W64": 24, "AIFF": 8, "CAF": 4}.get(format, 0)  # what else the size counts
    old, new = (struct.pack(order + code, size + wide) for size in (n_bytes, n_bytes // 4))
    offset = whole.rfind(old, 0, 5000)
    if format == "NIST":
        whole, old, new, offset = whole, b"sample_count -i 32000", b"sample_count -i  8000", 0
        whole = whole.replace(old, new)
    else:
        assert offset > 0
        whole = whole[:offset] + new + whole[offset + len(new) :]
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        assert seconds(whole) == SECONDS


@pytest.mark.parametrize("order", ["<I", ">I"])
def test_chunks_after_the_data_are_not_samples(order: str) -> None:
    content = encoded(WAVE, 16_000)
    if order == ">I":
        content = bytes(encoded(WAVE, 16_000, "AIFF"))
    chunks = surgery.chunk(b"LIST", b"INFOISFT" + b"x" * 101, order) + surgery.chunk(b"id3 ", b"y" * 40, order)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tail in (chunks, surgery.id3v1(), bytes(512), chunks[:-1] if len(chunks) % 2 else chunks):
            assert torch.equal(load_audio(content + tail), load_audio(content))


def test_samples_beyond_an_understated_chunk_are_read_with_a_warning() -> None:
    content = encoded(WAVE, 16_000)
    with pytest.warns(UserWarning, match=r"0\.50 s of 2\.00 s"):
        assert torch.equal(load_audio(surgery.wav_size(content, 16_000, 36 + 16_000)), load_audio(content))


@pytest.mark.parametrize("format", ["WAV", "RF64", "W64", "AIFF"])
def test_joined_wavs_are_read_whole(format: str) -> None:
    single = encoded(WAVE, 16_000, format)
    assert torch.equal(load_audio(single + single), load_audio(single).repeat(2))


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM", "GSM610", "FLOAT", "DOUBLE", "PCM_24", "PCM_U8"])
def test_repaired_wavs_of_other_codings(subtype: str) -> None:
    content = encoded(WAVE, 16_000, "WAV", subtype)
    repaired = load_audio(surgery.wav_size(content, 0xFFFFFFFF, 0xFFFFFFFF))
    assert torch.equal(repaired[: len(load_audio(content))], load_audio(content))
    there, lost = missing(content[: len(content) // 2])
    assert abs(there + lost - SECONDS) < 0.1


# One clip, whichever way it is read ---------------------------------------------------------------------------------


def variants() -> dict[str, bytes]:
    wav, flac, ogg = encoded(WAVE, 16_000), encoded(WAVE, 16_000, "FLAC"), encoded(WAVE, 16_000, "OGG", "VORBIS")
    return {
        "vbr.mp3": surgery.id3v2() + surgery.without_tag(mp3()),
        "joined.mp3": mp3() + mp3(),
        "piped.flac": surgery.flac_total(flac, 0),
        "joined.flac": flac + flac,
        "joined.ogg": ogg + ogg,
        "streamed.wav": surgery.wav_size(wav, 0, 0),
        "less.wav": surgery.wav_size(wav, 8000),
        "tagged.wav": wav + surgery.chunk(b"LIST", b"INFO"),
        "half.flac": flac[: len(flac) // 2],
        "half.wav": wav[: len(wav) // 2],
        "half.sph": encoded(WAVE, 16_000, "NIST")[:30_000],
        "half.ogg": ogg[: len(ogg) // 2],
        "half.mp3": surgery.without_tag(mp3())[:-60],
    }


@pytest.mark.filterwarnings("ignore:.*its header counts")
@pytest.mark.parametrize("name", sorted(variants()))
def test_parts_urls_and_bytes_agree(name: str, tmp_path: Path) -> None:
    content = variants()[name]
    (tmp_path / name).write_bytes(content)
    remote = as_path(f"memory://test_whole_files/{name}")
    remote.parent.mkdir(parents=True, exist_ok=True)
    remote.write_bytes(content)
    sources = [content, io.BytesIO(content), str(tmp_path / name), str(remote)]
    if name.startswith("half"):
        for source in sources:
            with pytest.raises(AudioError, match="truncated"):
                load_audio(source)
        for path in (tmp_path / name, remote):
            with pytest.raises(AudioError, match=r"truncated|is not inside"):
                load_part(path, 0.1, float("inf"))
        return
    whole = load_audio(content)
    for source in sources[1:]:
        assert torch.equal(load_audio(source), whole)
    for path in (tmp_path / name, remote):
        for start, end in ((0, float("inf")), (0.5, 1.5), (1.0, float("inf")), (0.25, len(whole) / 16_000)):
            part = load_part(path, start, end)
            expected = whole[round(start * 16_000) : None if end == float("inf") else round(end * 16_000)]
            assert len(part) == len(expected)
            torch.testing.assert_close(part, expected, atol=2e-4, rtol=0)


# Anything at all ----------------------------------------------------------------------------------------------------

SEEDS = [
    encoded(WAVE[:3000], 16_000, format, subtype)
    for format, subtype in [
        ("WAV", "PCM_16"), ("WAV", "IMA_ADPCM"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AU", "PCM_16"),
        ("NIST", "PCM_16"), ("AIFF", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("SVX", None), ("VOC", None), ("AVR", None),
    ]
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(SEEDS) - 1),
    st.lists(st.tuples(st.integers(0, 199), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
    st.binary(max_size=40),
    st.booleans(),
)
def test_mutated_files_are_audio_or_an_audio_error(
    seed: int, edits: list[tuple[int, int]], cut: int, inserted: bytes, joined: bool
) -> None:
    content = bytearray(SEEDS[seed])
    for offset, value in edits:
        content[offset % len(content)] = value
    content[cut:cut] = inserted
    if joined:
        content += SEEDS[seed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            samples = load_audio(bytes(content))
        except AudioError as error:
            assert "byte string" in str(error)
        else:
            assert torch.isfinite(samples).all() and len(samples) < 1 << 24
