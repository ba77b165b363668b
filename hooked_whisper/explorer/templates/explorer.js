"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const $ = id => document.getElementById(id);
const nothing = () => ({ cuts: [], swaps: [], window: null, heads: [], units: [] });
const state = { clip: null, other: null, span: null, edits: nothing(), past: [], head: null, unit: null, found: [] };

// --- the server ---------------------------------------------------------------------------------------------------
async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { "X-Token": facts.token } });
  const type = response.headers.get("content-type") || "";
  const answer = type.includes("json") ? await response.json() : await response.text();
  if (!response.ok) throw new Error(answer.error || answer);
  return answer;
}
const withToken = (path, query = {}) => path + "?" + new URLSearchParams({ ...query, token: facts.token });
const clipPath = rest => `/api/clips/${encodeURIComponent(state.clip.id)}${rest}`;

function say(text, bad = false) {
  $("message").textContent = text;
  $("message").className = bad ? "bad" : "";
}
const attempt = job => async (...given) => {
  try { return await job(...given); } catch (error) { say(error.message, true); }
};

// labels of swapped words are for people
const asSent = edits => ({ ...edits, swaps: edits.swaps.map(({ label, ...swap }) => swap) });

// one answer at a time, and only the newest question counts
let asked = 0, running = Promise.resolve();
const act = attempt(async () => {
  const mine = ++asked;
  document.body.classList.add("busy");
  await running;
  if (mine !== asked) return;
  const job = ask(clipPath("/act"), { method: "POST", body: JSON.stringify(asSent(state.edits)) });
  running = job.catch(() => {});
  try {
    const found = await job;
    if (mine === asked) { showOutcome(found); say(""); }
  } catch (error) {
    if (mine === asked) throw error;
  } finally {
    if (mine === asked) document.body.classList.remove("busy");
  }
});

// --- clips --------------------------------------------------------------------------------------------------------
const listClips = async chosen => {
  const { clips, first } = await ask("/api/clips");
  for (const id of ["clips", "others"]) {
    const before = $(id).value;
    $(id).replaceChildren(...clips.map(c => new Option(c.name, c.id)));
    if (clips.some(c => c.id === before)) $(id).value = before;
  }
  if (chosen) $("clips").value = chosen;
  return { clips, first };
};

let opened = 0; // only the clip that was asked for last is shown
const openClip = attempt(async id => {
  const mine = ++opened;
  say("The model listens …");
  const heard = await ask(`/api/clips/${encodeURIComponent(id)}`);
  if (mine !== opened) return;
  state.clip = heard;
  Object.assign(state, { span: null, edits: nothing(), past: [], head: null, unit: null });
  const clip = state.clip;
  $("view").setAttribute("viewBox", `0 0 ${clip.seconds} 1`);
  for (const [name, value] of Object.entries({ width: clip.seconds, height: 1, href: withToken(clipPath("/mel.png")) })) $("mel").setAttribute(name, value);
  $("duration").textContent = `${clip.seconds.toFixed(2)} s`;
  $("player").src = $("wav").href = withToken(clipPath("/audio.wav"));
  $("wav").download = clip.name.replace(/\.\w+$/, "") + ".wav";
  $("wav").hidden = !id.startsWith("upload");
  $("pattern").hidden = $("toggle-head").hidden = $("toggle-unit").hidden = true;
  $("trace").setAttribute("points", "");
  drawTier("words", clip.words);
  drawTier("phones", clip.phones);
  $("words-source").textContent = clip.words_source;
  drawEdits();
  select(null);
  await Promise.all([act(), listUnits()]);
});

function drawTier(id, intervals) {
  $(id).replaceChildren(...intervals.map(([start, end, label]) => {
    const button = document.createElement("button");
    button.textContent = label;
    button.title = `${label}, ${start.toFixed(2)} to ${end.toFixed(2)} s`;
    button.dataset.start = start;
    button.dataset.end = end;
    const share = 100 / state.clip.seconds;
    button.style.left = `${start * share}%`;
    button.style.width = `${(end - start) * share}%`;
    button.onclick = event => {
      const old = event.shiftKey && state.span;
      select(old ? [Math.min(old[0], start), Math.max(old[1], end)] : [start, end]);
    };
    return button;
  }));
}

const isAlignment = file => /\.(textgrid|ctm|phn|wrd|json)$/i.test(file.name);
const add = attempt(async files => {
  for (const file of [...files].sort((a, b) => isAlignment(a) - isAlignment(b))) { // the sound comes first
    const alignment = isAlignment(file);
    if (alignment && !state.clip) throw new Error(`${file.name}: add its audio first`);
    if (file.size > facts.most_bytes) throw new Error(`${file.name} is larger than ${facts.most_bytes / 1e6} MB`);
    say(`${file.name} …`);
    const address = alignment ? clipPath("/alignment") : "/api/clips";
    const answer = await ask(`${address}?${new URLSearchParams({ name: file.name })}`, { method: "POST", body: file });
    await listClips(answer.id);
    await openClip(answer.id);
    if ($("others").value !== state.other?.id) await openOther($("others").value); // the one on show may be forgotten
  }
});

// --- selection ----------------------------------------------------------------------------------------------------
function select(span) {
  if (span) span = [Math.max(0, span[0]), Math.min(state.clip.seconds, span[1])].map(t => Math.round(t * 1000) / 1000);
  if (span && span[1] - span[0] < 0.01) span = null;
  state.span = span;
  $("selection").setAttribute("x", span ? span[0] : 0);
  $("selection").setAttribute("width", span ? span[1] - span[0] : 0);
  $("selection").setAttribute("height", 1);
  const labels = state.clip.words.filter(w => span && w[0] < span[1] && w[1] > span[0]).map(w => w[2]);
  $("selected").textContent = span ? `${span[0].toFixed(2)} to ${span[1].toFixed(2)} s${labels.length ? `: “${labels.join(" ")}”` : ""}` : "Nothing selected";
  $("cut").disabled = $("hear").disabled = !span;
  for (const button of document.querySelectorAll("#donors button")) button.disabled = !span;
  for (const button of document.querySelectorAll(".tier button"))
    button.classList.toggle("in", Boolean(span) && span[0] < button.dataset.end - 1e-6 && span[1] > Number(button.dataset.start) + 1e-6);
}

function drag() {
  const view = $("view");
  const at = event => (event.clientX - view.getBoundingClientRect().left) / view.getBoundingClientRect().width * state.clip.seconds;
  let from = null;
  view.onpointerdown = event => { from = at(event); view.setPointerCapture(event.pointerId); };
  view.onpointermove = event => { if (from !== null) select([Math.min(from, at(event)), Math.max(from, at(event))]); };
  view.onpointerup = event => {
    if (from !== null && Math.abs(at(event) - from) < 0.01) select(null);
    from = null;
    listUnits();
  };
  view.onpointercancel = () => { from = null; };
  view.onkeydown = event => { // the stretch moves; with Shift, its end does
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
    if (!step || !state.clip) return;
    event.preventDefault();
    const [a, b] = state.span || [0, Math.min(0.2, state.clip.seconds)];
    const by = Math.max(-a, Math.min(state.clip.seconds - b, step));
    select(event.shiftKey ? [a, Math.max(a + 0.02, b + step)] : [a + by, b + by]);
  };
  view.onkeyup = event => { if (event.key.startsWith("Arrow")) listUnits(); };
}

// --- edits --------------------------------------------------------------------------------------------------------
const listed = edits => [
  ...edits.swaps.map(s => `${s.start.toFixed(2)}–${s.end.toFixed(2)} s: “${s.label}” from another clip`),
  ...edits.cuts.map(c => `${c[0].toFixed(2)}–${c[1].toFixed(2)} s cut`),
  ...(edits.window === null ? [] : [`window of ${edits.window} positions`]),
  ...edits.heads.map(h => `${h[0]} head ${h[1]}.${h[2]} off`),
  ...edits.units.map(u => `neuron ${u[0]}.${u[1]} off`),
];

function change(edit, remember = true) {
  if (remember) state.past.push(structuredClone(state.edits));
  edit(state.edits);
  drawEdits();
  act();
}

function drawEdits() {
  const rects = [...state.edits.swaps.map(s => [s.start, s.end, "swap"]), ...state.edits.cuts.map(c => [...c, "cut"])];
  $("edits").replaceChildren(...rects.map(([start, end, kind]) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: start, y: 0, width: end - start, height: 1, class: kind })) rect.setAttribute(name, value);
    return rect;
  }));
  $("undo").disabled = !state.past.length;
  $("clear").disabled = !listed(state.edits).length;
  $("window").value = state.edits.window === null ? $("window").max : widths.indexOf(state.edits.window);
  showWidth();
  drawHeads();
  drawToggles();
}

function showOutcome(found) {
  $("before").textContent = found.before || "(nothing)";
  const parts = [];
  for (const word of found.words) {
    const tag = (name, text) => { const node = document.createElement(name); node.textContent = text; parts.push(node, " "); return node; };
    if (word.fate === "kept") {
      const node = tag("span", word.before);
      if (word.logprob_change !== null && Math.abs(word.logprob_change) >= 0.1)
        node.title = `log-probability of “${word.before}”: ${word.logprob_change > 0 ? "+" : ""}${word.logprob_change.toFixed(2)} nats`;
    } else {
      if (word.before) tag("del", word.before);
      if (word.after) tag("ins", word.after);
    }
  }
  $("after").replaceChildren(...parts);
  if (!found.after) $("after").append("(nothing)");
  $("score").textContent = found.wer === null ? "" : found.wer === 0 ? "(no word changed)" : `(${Math.round(100 * found.wer)} % of words changed)`;
  $("python").textContent = found.python;
  const made = listed(state.edits).map(text => {
    const item = document.createElement("li"), label = document.createElement("span");
    label.textContent = text;
    item.append(label);
    return item;
  });
  $("done").replaceChildren(...made);
}

// --- swapping -----------------------------------------------------------------------------------------------------
let othersAsked = 0;
const openOther = attempt(async id => {
  const mine = ++othersAsked, heard = await ask(`/api/clips/${encodeURIComponent(id)}`);
  if (mine !== othersAsked) return;
  state.other = heard;
  $("donors").replaceChildren(...state.other.words.map(([start, end, label]) => {
    const button = document.createElement("button");
    button.textContent = label;
    button.title = `${start.toFixed(2)} to ${end.toFixed(2)} s of that clip`;
    button.disabled = !state.span;
    button.onclick = () => {
      const [from, to] = state.span;
      change(e => {
        e.cuts = e.cuts.filter(c => c[0] < from || c[1] > to); // cuts come last: they would silence it again
        e.swaps.push({ start: from, end: to, clip: state.other.id, begin: start, label });
      });
    };
    return button;
  }));
});

// --- window -------------------------------------------------------------------------------------------------------
const n = facts.model.n_ctx;
const widths = [...new Set(Array.from({ length: 41 }, (_, i) => Math.round(2 * n ** (i / 41)) - 2))].filter(k => k < n).concat([null]);
const showWidth = () => {
  const k = widths[$("window").value];
  $("width").textContent = k === null ? " off: everything is seen" : ` ${k} positions (${(0.02 * k).toFixed(2)} s)`;
};

// --- heads and neurons --------------------------------------------------------------------------------------------
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const isOff = (list, one) => list.some(other => same(other, one));

function redraw(id, nodes) { // whoever uses the keyboard stays where they are
  const at = [...$(id).querySelectorAll("button")].indexOf(document.activeElement);
  $(id).replaceChildren(...nodes);
  if (at >= 0) $(id).querySelectorAll("button")[at]?.focus();
}

function drawHeads() {
  const tables = ["encoder", "decoder", "cross"].map(stack => {
    const [layers, heads] = facts.model.stacks[stack];
    const table = document.createElement("table");
    table.append(Object.assign(document.createElement("caption"), { textContent: stack === "cross" ? "cross-attention" : stack }));
    for (let block = 0; block < layers; block++) {
      const row = table.insertRow();
      row.append(Object.assign(document.createElement("th"), { textContent: `block ${block}`, scope: "row" }));
      const cell = row.insertCell();
      for (let head = 0; head < heads; head++) {
        const key = [stack, block, head], button = document.createElement("button");
        button.textContent = head;
        button.ariaLabel = `${stack} block ${block} head ${head}${isOff(state.edits.heads, key) ? ", off" : ""}`;
        button.ariaPressed = same(state.head, key);
        button.className = isOff(state.edits.heads, key) ? "off" : "";
        button.onclick = () => showHead(key);
        cell.append(button, " ");
      }
    }
    return table;
  });
  redraw("heads", tables);
}

function showHead(key) {
  state.head = key;
  const [stack, block, head] = key;
  $("pattern-image").src = withToken(clipPath("/pattern.png"), { stack, block, head });
  const axes = { encoder: "seconds attending (down) to seconds (across)", decoder: "tokens attending (down) to tokens (across)", cross: "tokens (down) attending to seconds (across)" };
  $("pattern-caption").textContent = `${stack} head ${block}.${head} before any change: ${axes[stack]}; brighter is more`;
  $("pattern-image").alt = `Attention pattern of ${$("pattern-caption").textContent}`;
  $("pattern").hidden = false;
  drawHeads();
  drawToggles();
}

let unitsAsked = 0;
const listUnits = attempt(async () => {
  const mine = ++unitsAsked;
  const [start, end] = state.span || [0, state.clip.seconds];
  const query = new URLSearchParams({ block: $("block").value, start, end });
  state.edits.units.filter(u => u[0] === Number($("block").value)).forEach(u => query.append("also", u[1]));
  const clip = state.clip, found = await ask(clipPath(`/units?${query}`));
  if (mine !== unitsAsked || clip !== state.clip) return;
  state.found = found;
  drawUnits();
});

function drawUnits() {
  redraw("units", state.found.map(one => {
    const key = [one.block, one.unit], item = document.createElement("li"), button = document.createElement("button");
    button.textContent = `${one.block}.${one.unit} (${one.z.toFixed(1)})`;
    button.title = `neuron ${one.unit} of block ${one.block}: ${one.z} standard deviations`;
    button.ariaPressed = same(state.unit, key);
    button.onclick = () => { state.unit = key; trace(one.trace); drawUnits(); drawToggles(); };
    item.append(button);
    return item;
  }));
}

function trace(values) {
  const low = Math.min(...values), high = Math.max(...values), step = 0.02;
  $("trace").setAttribute("points", values.map((v, i) => `${(i + 0.5) * step},${(0.97 - 0.94 * (v - low) / (high - low || 1)).toFixed(4)}`).join(" "));
}

function drawToggles() {
  const draw = (id, what, key, list) => {
    $(id).hidden = !key;
    if (key) $(id).textContent = `Switch ${what} ${key.slice(-2).join(".")} ${isOff(list, key) ? "on again" : "off"}`;
  };
  draw("toggle-head", state.head ? `${state.head[0]} head` : "", state.head, state.edits.heads);
  draw("toggle-unit", "neuron", state.unit, state.edits.units);
}

const toggle = (kind, key) => change(e => { e[kind] = isOff(e[kind], key) ? e[kind].filter(other => !same(other, key)) : [...e[kind], key]; });

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

// --- who listens to what ------------------------------------------------------------------------------------------
$("clips").onchange = event => openClip(event.target.value);
$("others").onchange = event => openOther(event.target.value);
$("file").onchange = event => { add([...event.target.files]); event.target.value = ""; };
$("record").onclick = record;
$("cut").onclick = () => change(e => e.cuts.push(state.span));
$("undo").onclick = () => { if (!state.past.length) return; state.edits = state.past.pop(); change(() => {}, false); };
$("clear").onclick = () => change(e => Object.assign(e, nothing()));
$("toggle-head").onclick = () => toggle("heads", state.head);
$("toggle-unit").onclick = () => toggle("units", state.unit);
$("window").max = widths.length - 1;
$("window").value = widths.length - 1;
$("window").oninput = showWidth;
$("window").onchange = () => change(e => { e.window = widths[$("window").value]; });
$("block").replaceChildren(...Array.from({ length: facts.model.stacks.encoder[0] }, (_, i) => new Option(i, i)));
$("block").value = Math.floor(facts.model.stacks.encoder[0] / 2);
$("block").onchange = listUnits;
$("words").addEventListener("click", listUnits);
$("phones").addEventListener("click", listUnits);
$("copy").onclick = attempt(async () => { await navigator.clipboard.writeText($("python").textContent); say("Copied."); });
$("stop").onclick = attempt(async () => { await ask("/api/stop", { method: "POST" }); say("The server has stopped. This page can be closed."); });
let hearing = 0;
$("hear").onclick = attempt(async () => {
  const player = $("player"), [start, end] = state.span, mine = ++hearing;
  player.currentTime = start;
  await player.play();
  const watch = () => {
    if (mine !== hearing || player.paused) return;
    if (player.currentTime >= end) player.pause();
    else requestAnimationFrame(watch);
  };
  watch();
});
const head = () => {
  const player = $("player");
  for (const x of ["x1", "x2"]) $("playhead").setAttribute(x, player.paused ? -1 : player.currentTime);
  $("playhead").setAttribute("y2", 1);
  if (!player.paused) requestAnimationFrame(head);
};
$("player").onplay = $("player").onpause = head;
addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("dropping"); });
addEventListener("dragleave", () => $("drop").classList.remove("dropping"));
addEventListener("drop", event => { event.preventDefault(); $("drop").classList.remove("dropping"); add([...event.dataTransfer.files]); });
drag();
attempt(async () => {
  const { clips, first } = await listClips();
  if (!clips.length) { say("Drop an audio file here, or record one."); return; }
  $("clips").value = first;
  await openClip(first);
  await openOther($("others").value = (clips.find(c => c.id !== first) || clips[0]).id);
})();
