// --- spans of the clip are played to the sample, which an <audio> element cannot do ------------------------------------
const SHORTEST = 0.3; // seconds
const sound = { context: null, buffer: null, source: null, started: 0, span: null };

async function decodedClip() {
  sound.context ??= new AudioContext();
  sound.buffer ??= await sound.context.decodeAudioData(bytesOf(facts.audio.split(",")[1]).buffer);
  await sound.context.resume();
  return sound.buffer;
}

async function play(span) {
  if (!facts.audio || !span) return;
  const buffer = await decodedClip();
  const extra = Math.max(0, SHORTEST - (span[1] - span[0])) / 2;
  const start = Math.max(0, span[0] - extra), end = Math.min(buffer.duration, span[1] + extra);
  if (end <= start) return;
  sound.source?.stop();
  $("clip").pause();
  const source = new AudioBufferSourceNode(sound.context, { buffer });
  source.connect(sound.context.destination);
  source.onended = () => { if (sound.source === source) sound.source = null; };
  source.start(0, start, end - start);
  Object.assign(sound, { source, started: sound.context.currentTime, span: [start, end] });
  $("stage").dataset.played = `${start.toFixed(3)} ${end.toFixed(3)}`;
  requestAnimationFrame(movePlayhead);
}

function movePlayhead() {
  const clip = $("clip"), playing = sound.source !== null;
  let at = -1;
  if (playing) at = Math.min(sound.span[1], sound.span[0] + sound.context.currentTime - sound.started);
  else if (!clip.paused) at = clip.currentTime;
  for (const end of ["x1", "x2"]) document.querySelector(".playhead").setAttribute(end, at);
  if (playing || !clip.paused) requestAnimationFrame(movePlayhead);
}

if (facts.audio) {
  $("clip").onplay = () => { sound.source?.stop(); movePlayhead(); };
  $("clip").onpause = movePlayhead;
}
