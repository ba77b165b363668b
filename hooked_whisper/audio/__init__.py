"""Audio in and out: loading, the differentiable log-mel, the time axis, clips to listen to."""

from hooked_whisper.audio.mel import HOP, N_FFT, SAMPLE_RATE, log_mel_max, log_mel_spectrogram, mel_filters

__all__ = ["HOP", "N_FFT", "SAMPLE_RATE", "log_mel_max", "log_mel_spectrogram", "mel_filters"]
