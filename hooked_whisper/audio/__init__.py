"""Audio input and output: loading, the differentiable log-mel, the time axis, excerpts for listening."""

from hooked_whisper._support.audio_notices import AudioNotice, AudioWarning, collected_notices
from hooked_whisper.audio.griffin_lim import griffin_lim, mel_to_power
from hooked_whisper.audio.listen import ListeningClip, clip_around, save_audio, to_data_uri, to_mp3_bytes, to_wav_bytes
from hooked_whisper.audio.load import AudioSource, load_audio, prepare_mel, to_windows
from hooked_whisper.audio.mel import HOP, N_FFT, SAMPLE_RATE, log_mel_max, log_mel_spectrogram, mel_filters
from hooked_whisper.audio.timemap import Rounding, TimeMap

__all__ = [
    "HOP",
    "N_FFT",
    "SAMPLE_RATE",
    "AudioNotice",
    "AudioSource",
    "AudioWarning",
    "ListeningClip",
    "Rounding",
    "TimeMap",
    "clip_around",
    "collected_notices",
    "griffin_lim",
    "load_audio",
    "log_mel_max",
    "log_mel_spectrogram",
    "mel_filters",
    "mel_to_power",
    "prepare_mel",
    "save_audio",
    "to_data_uri",
    "to_mp3_bytes",
    "to_wav_bytes",
    "to_windows",
]
