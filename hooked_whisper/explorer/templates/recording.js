// --- recording: what the browser encodes is decoded by it again, so that the server gets a plain WAV file ----------
let recorder = null, asking = false;
const record = attempt(async () => {
  if (recorder) { recorder.stop(); return; }
  if (asking) return;
  asking = true;
  let stream;
  try { stream = await navigator.mediaDevices.getUserMedia({ audio: true }); } finally { asking = false; }
  const parts = [], mine = new MediaRecorder(stream);
  const timer = setTimeout(() => mine.state !== "inactive" && mine.stop(), 1000 * facts.most_seconds - 500);
  const release = () => {
    clearTimeout(timer);
    recorder = null;
    stream.getTracks().forEach(track => track.stop());
    $("record").textContent = "Record";
    $("record").ariaPressed = false;
  };
  mine.ondataavailable = event => parts.push(event.data);
  mine.onstop = attempt(async () => {
    release();
    const sound = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(await new Blob(parts).arrayBuffer());
    await add([new File([wav(sound)], "recording.wav")]);
  });
  recorder = mine;
  try { mine.start(); } catch (error) { release(); throw error; }
  $("record").textContent = "Stop recording";
  $("record").ariaPressed = true;
  say("Recording …");
});

function wav(sound) {
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  const view = new DataView(new ArrayBuffer(44 + 2 * sound.length));
  const text = (at, s) => [...s].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * sound.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, sound.sampleRate, true); view.setUint32(28, 2 * sound.sampleRate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, 2 * sound.length, true);
  for (let i = 0; i < sound.length; i++) {
    const value = channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length;
    view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true);
  }
  return view.buffer;
}
