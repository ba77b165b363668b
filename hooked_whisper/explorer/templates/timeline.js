// --- the time axis: words, phones, zoom ---------------------------------------------------------------------------
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

// the width of the strip in pixels per second; wider than the page, it scrolls
const MOST_ZOOM = 12;
function setZoom(zoom) {
  state.zoom = Math.min(MOST_ZOOM, Math.max(1, zoom));
  $("strip").style.width = `${100 * state.zoom}%`;
  $("zoom").value = state.zoom;
  drawTimes();
}

let fitted = true; // until the zoom is moved by hand
function fitZoom() { // as wide as the words need
  fitted = true;
  setZoom(1);
  const needs = [...$("words").children].map(button => button.scrollWidth / Math.max(button.clientWidth, 1));
  const needed = needs.length ? Math.max(...needs) : 1;
  setZoom(needed <= 1.01 ? 1 : 1.03 * needed);
}

function drawTimes() {
  if (!state.clip) return;
  const width = $("strip").clientWidth || 1, seconds = state.clip.seconds;
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10].find(step => step / seconds * width >= 55) || 10;
  const ticks = Array.from({ length: Math.floor(seconds / step - 1e-6) + 1 }, (_, i) => i * step);
  $("times").replaceChildren(...ticks.map(t => {
    const tick = document.createElement("span");
    tick.textContent = `${Number(t.toFixed(1))} s`;
    tick.style.left = `${100 * t / seconds}%`;
    return tick;
  }));
}

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
  view.onkeydown = event => { // the span moves; with Shift, its end does
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
    if (!step || !state.clip) return;
    event.preventDefault();
    const [a, b] = state.span || [0, Math.min(0.2, state.clip.seconds)];
    const by = Math.max(-a, Math.min(state.clip.seconds - b, step));
    select(event.shiftKey ? [a, Math.max(a + 0.02, b + step)] : [a + by, b + by]);
  };
  view.onkeyup = event => { if (event.key.startsWith("Arrow")) listUnits(); };
}
