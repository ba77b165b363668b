// --- heads and neurons --------------------------------------------------------------------------------------------
const LETTERS = { encoder: "E", decoder: "D", cross: "X" };
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const isOff = (list, key) => list.some(other => same(other, key));

function redraw(id, nodes) { // the keyboard focus stays on the same button
  const focused = [...$(id).querySelectorAll("button")].indexOf(document.activeElement);
  $(id).replaceChildren(...nodes);
  if (focused >= 0) $(id).querySelectorAll("button")[focused]?.focus();
}

function drawHeads() {
  const tables = ["encoder", "decoder", "cross"].map(stack => {
    const [layers, heads] = facts.model.stacks[stack];
    const table = document.createElement("table");
    const captions = { encoder: "encoder (E)", decoder: "decoder self-attention (D)", cross: "cross-attention (X)" };
    table.append(Object.assign(document.createElement("caption"), { textContent: captions[stack] }));
    for (let block = 0; block < layers; block++) {
      const row = table.insertRow();
      row.append(Object.assign(document.createElement("th"), { textContent: `block ${block}`, scope: "row" }));
      const cell = row.insertCell();
      for (let head = 0; head < heads; head++) {
        const key = `${stack} ${block}.${head}`, button = document.createElement("button");
        button.textContent = `${LETTERS[stack]}${block}.${head}`;
        button.ariaLabel = `${key}${isOff(state.edits.heads, key) ? ", off" : ""}`;
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
  const [stack, block, head] = key.split(/[ .]/);
  $("pattern-image").src = withToken(clipPath("/pattern.png"), { stack, block, head });
  const axes = { encoder: "seconds attending (down) to seconds (across)", decoder: "tokens attending (down) to tokens (across)", cross: "tokens (down) attending to seconds (across)" };
  $("pattern-caption").textContent = `Head ${key} before any change: ${axes[stack]}; brighter is more`;
  $("viewer").href = withToken(`/clips/${encodeURIComponent(state.clip.id)}/attention`, { stack, block, head });
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
  const clip = state.clip, units = await ask(clipPath(`/units?${query}`));
  if (mine !== unitsAsked || clip !== state.clip) return;
  state.units = units;
  drawUnits();
});

function drawUnits() {
  redraw("units", state.units.map(unit => {
    const key = [unit.block, unit.unit], item = document.createElement("li"), button = document.createElement("button");
    button.textContent = `${unit.block}.${unit.unit} (${signed(unit.z)})`;
    button.title = `neuron ${unit.unit} of encoder block ${unit.block}: ${unit.z} standard deviations above the rest of the clip`;
    button.ariaPressed = same(state.unit, key);
    button.onclick = () => { state.unit = key; trace(unit.trace); drawUnits(); drawToggles(); };
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
    if (key) $(id).textContent = `Switch ${what} ${Array.isArray(key) ? key.join(".") : key} ${isOff(list, key) ? "on again" : "off"}`;
  };
  draw("toggle-head", "head", state.head, state.edits.heads);
  draw("toggle-unit", "neuron", state.unit, state.edits.units);
}

const toggle = (kind, key) => change(e => { e[kind] = isOff(e[kind], key) ? e[kind].filter(other => !same(other, key)) : [...e[kind], key]; });
