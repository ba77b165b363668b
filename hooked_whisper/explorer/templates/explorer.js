"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const $ = id => document.getElementById(id);
const MARGIN = facts.margin; // seconds on each side of a cut
const nothing = () => ({ cuts: [], margin: MARGIN, swaps: [], window: null, heads: [], units: [] });
const state = { clip: null, other: null, span: null, edits: nothing(), past: [], head: null, unit: null, units: [], zoom: 1 };

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
const attempt = job => async (...inputs) => {
  try { return await job(...inputs); } catch (error) { say(error.message, true); document.body.classList.remove("busy"); }
};

// labels of swapped words are for people
const asSent = edits => ({ ...edits, swaps: edits.swaps.map(({ label, ...swap }) => swap) });

// one answer at a time, and only the newest question counts
let asked = 0, running = Promise.resolve();
const act = attempt(async () => {
  const mine = ++asked;
  document.body.classList.add("busy");
  const started = performance.now();
  $("status").textContent = "Computing …";
  await running;
  if (mine !== asked) return;
  const job = ask(clipPath("/act"), { method: "POST", body: JSON.stringify(asSent(state.edits)) });
  running = job.catch(() => {});
  try {
    const change = await job;
    if (mine === asked) {
      showChange(change);
      say("");
      $("status").textContent = `Computed in ${((performance.now() - started) / 1000).toFixed(1)} s`;
    }
  } catch (error) {
    if (mine === asked) { $("status").textContent = ""; throw error; }
  } finally {
    if (mine === asked) document.body.classList.remove("busy");
  }
});

// --- clips --------------------------------------------------------------------------------------------------------
const listClips = async selected => {
  const { clips, first } = await ask("/api/clips");
  for (const id of ["clips", "others"]) {
    const before = $(id).value;
    $(id).replaceChildren(...clips.map(c => new Option(c.name, c.id)));
    if (clips.some(c => c.id === before)) $(id).value = before;
  }
  if (selected) $("clips").value = selected;
  return { clips, first };
};

let opened = 0; // only the clip that was asked for last is shown
const openClip = attempt(async id => {
  const mine = ++opened;
  say(`Loading the clip: ${facts.model.name} encodes and transcribes it …`);
  document.body.classList.add("busy");
  const heard = await ask(`/api/clips/${encodeURIComponent(id)}`);
  if (mine !== opened) return;
  say("");
  state.clip = heard;
  Object.assign(state, { span: null, edits: nothing(), past: [], head: null, unit: null });
  const clip = state.clip;
  $("view").setAttribute("viewBox", `0 0 ${clip.seconds} 1`);
  for (const [name, value] of Object.entries({ width: clip.seconds, height: 1, href: withToken(clipPath("/mel.png")) })) $("mel").setAttribute(name, value);
  $("player").src = $("wav").href = withToken(clipPath("/audio.wav"));
  $("wav").download = clip.name.replace(/\.\w+$/, "") + ".wav";
  $("wav").hidden = !id.startsWith("upload");
  $("pattern").hidden = $("toggle-head").hidden = $("toggle-unit").hidden = true;
  $("trace").setAttribute("points", "");
  drawTier("words", clip.words);
  drawTier("phones", clip.phones);
  fitZoom();
  $("words-source").textContent = clip.words_source;
  drawEdits();
  select(null);
  await Promise.all([act(), listUnits()]);
});

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
    if ($("others").value !== state.other?.id) await openOther($("others").value); // the one on the page may have been removed
  }
});
