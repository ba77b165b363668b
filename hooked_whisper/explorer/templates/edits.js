// --- edits --------------------------------------------------------------------------------------------------------
const listed = edits => [
  ...edits.swaps.map(s => `${s.start.toFixed(2)}–${s.end.toFixed(2)} s: “${s.label}” from another clip`),
  ...edits.cuts.map(c => `${c[0].toFixed(2)}–${c[1].toFixed(2)} s cut, margin ${edits.margin.toFixed(2)} s`),
  ...(edits.window === null ? [] : [`window of ${edits.window} positions`]),
  ...edits.heads.map(h => `head ${h} off`),
  ...edits.units.map(u => `neuron ${u[0]}.${u[1]} off`),
];

function change(edit, remember = true) {
  if (remember) state.past.push(structuredClone(state.edits));
  edit(state.edits);
  drawEdits();
  act();
}

const widened = ([start, end]) => [
  Math.max(0, start - state.edits.margin), Math.min(state.clip.seconds, end + state.edits.margin), "cut"];

function drawEdits() {
  const rects = [...state.edits.swaps.map(s => [s.start, s.end, "swap"]), ...state.edits.cuts.map(widened)];
  $("edits").replaceChildren(...rects.map(([start, end, kind]) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of Object.entries({ x: start, y: 0, width: end - start, height: 1, class: kind })) rect.setAttribute(name, value);
    return rect;
  }));
  $("undo").disabled = !state.past.length;
  $("clear").disabled = !listed(state.edits).length;
  $("window").value = state.edits.window === null ? $("window").max : widths.indexOf(state.edits.window);
  $("margin").value = state.edits.margin;
  showMargin();
  showWidth();
  drawHeads();
  drawToggles();
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
        e.cuts = e.cuts.filter(c => c[0] < from || c[1] > to); // cuts are applied last and would remove it
        e.swaps.push({ start: from, end: to, clip: state.other.id, begin: start, label });
      });
    };
    return button;
  }));
});

// --- window -------------------------------------------------------------------------------------------------------
const n = facts.model.n_ctx;
const widths = [...new Set(Array.from({ length: 41 }, (_, i) => Math.round(2 * n ** (i / 41)) - 2))].filter(k => k < n).concat([null]);
const showMargin = () => { $("margin-value").textContent = `${Number($("margin").value).toFixed(2)} s on each side`; };
const showWidth = () => {
  const k = widths[$("window").value];
  $("width").textContent = k === null ? " off: no limit" : ` ${k} positions (${(0.02 * k).toFixed(2)} s)`;
};
