// --- state: the head shown, and the cell under the cursor -------------------------------------------------------------
const state = { head: facts.selected, row: null, column: null, scale: facts.scale, zoom: 1 };
const timed = facts.columns.kind === "time", tokenRows = facts.rows.kind === "token";
const SVG = "http://www.w3.org/2000/svg";

function svg(parent, name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return parent.appendChild(node);
}
const add = (parent, name, fields) => parent.appendChild(Object.assign(document.createElement(name), fields));
const overlaps = (a, b) => a && b && a[0] < b[1] - 1e-6 && b[0] < a[1] - 1e-6;
const shown = value => value === 0 ? "0" : value < 0.001 ? value.toExponential(1) : value.toPrecision(3);
const between = span => `${span[0].toFixed(2)}–${span[1].toFixed(2)} s`;
const visible = label => label.trim() ? label.replace(/^ /, "") : JSON.stringify(label);

// one tab stop for many items: the arrow keys move between them
function rove(container, items, step) {
  const move = target => {
    if (!target) return;
    for (const item of items()) item.tabIndex = item === target ? 0 : -1;
    target.focus();
  };
  container.addEventListener("keydown", event => {
    const list = items(), at = list.indexOf(document.activeElement), to = at < 0 ? -1 : step(at, event.key, list);
    if (to === -1 || to === undefined) return;
    event.preventDefault();
    move(list[Math.max(0, Math.min(list.length - 1, to))]);
  });
}

// --- thumbnails ---------------------------------------------------------------------------------------------------
function drawThumbnails() {
  const blocks = [...new Set(facts.heads.map(head => head.block))];
  for (const block of blocks) {
    const line = add($("heads"), "div", { className: "block", role: "presentation" });
    add(line, "span", { textContent: block, title: `block ${block}`, ariaHidden: true });
    facts.heads.forEach((head, index) => {
      if (head.block !== block) return;
      const option = add(line, "div", { role: "option", title: head.name, ariaLabel: head.name, tabIndex: -1 });
      option.dataset.index = index;
      head.thumbnail = add(option, "canvas", {});
      option.onclick = () => { option.focus(); select(index); };
      option.onfocus = () => select(index);
    });
  }
  const options = () => [...$("heads").querySelectorAll("[role=option]")];
  rove($("heads"), options, (at, key) => {
    const { block, head } = facts.heads[at];
    const near = to => { // the same head of another block, or the last of it
      const line = facts.heads.map((other, i) => [other, i]).filter(([other]) => other.block === to);
      return line.length ? (line.find(([other]) => other.head >= head) || line.at(-1))[1] : at;
    };
    const to = (by) => blocks[blocks.indexOf(block) + by];
    return { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: facts.heads.length - 1, ArrowUp: near(to(-1)), ArrowDown: near(to(1)) }[key];
  });
}

function paintThumbnails() {
  for (const head of facts.heads) paint(head.thumbnail, head.values, N_ROWS, N_COLUMNS, 56, 56, tableOf(state.scale, head.values));
}

// --- the large map ------------------------------------------------------------------------------------------------
function select(index) {
  state.head = index;
  for (const option of $("heads").querySelectorAll("[role=option]")) {
    option.ariaSelected = Number(option.dataset.index) === index;
    option.tabIndex = Number(option.dataset.index) === index ? 0 : -1;
  }
  $("head-name").textContent = facts.heads[index].name;
  drawMap();
}

function drawMap() {
  const head = facts.heads[state.head], ratio = devicePixelRatio || 1, table = tableOf(state.scale, head.values);
  paint($("cells"), head.values, N_ROWS, N_COLUMNS, $("map").clientHeight * ratio, $("map").clientWidth * ratio, table);
  if (head.beyond) paint($("outside"), head.beyond, N_ROWS, 1, $("map").clientHeight * ratio, 1, shared.linear);
  $("outside").style.visibility = head.beyond ? "" : "hidden";
  const ends = { linear: ["0", shown(head.largest)], log: [`≤ ${shown(head.largest / 10 ** DECADES)}`, shown(head.largest)], percentile: ["0 %", "100 % of nonzero cells"] };
  [$("low").textContent, $("high").textContent] = ends[state.scale];
  paint($("colors"), Uint16Array.from({ length: 256 }, (_, i) => 257 * i), 1, 256, 1, 256, shared.linear);
  drawCurves(head);
  moveCursor(state.row, state.column);
}

function drawCurves(head) { // of every token, or of the row under the cursor
  if (!timed) return;
  for (const line of document.querySelectorAll("#sound polyline:not(.current)")) line.remove();
  const current = document.querySelector("#sound .current");
  if (tokenRows) for (let row = 0; row < N_ROWS; row++) $("sound").insertBefore(svg($("sound"), "polyline", { points: curve(head, row) }), current);
}

function curve(head, row) { // at most 400 points, each the largest cell of its time
  const n = Math.min(N_COLUMNS, 400), largest = new Float64Array(n), first = row * N_COLUMNS;
  for (let column = 0; column < N_COLUMNS; column++) {
    const point = Math.floor(column * n / N_COLUMNS);
    largest[point] = Math.max(largest[point], head.values[first + column]);
  }
  const top = Math.max(1, ...largest), step = facts.seconds / n;
  return Array.from(largest, (value, i) => `${((i + 0.5) * step).toFixed(3)},${(0.98 - 0.94 * value / top).toFixed(4)}`).join(" ");
}

function moveCursor(row, column) {
  Object.assign(state, { row, column });
  if (row === null) return;
  const head = facts.heads[state.head], rowSpan = facts.rows.spans[row], columnSpan = column === null ? null : facts.columns.spans[column];
  place($("row-cursor"), "top", "height", row, N_ROWS);
  place($("column-cursor"), "left", "width", column, N_COLUMNS);
  mark("row", rowSpan);
  mark("column", columnSpan);
  if (timed) document.querySelector("#sound .current").setAttribute("points", curve(head, row));
  for (const label of $("row-labels").querySelectorAll("[data-row]")) label.classList.toggle("in-row", Number(label.dataset.row) === row);
  for (const label of $("column-labels")?.children || []) label.classList.toggle("in-column", Number(label.dataset.column) === column);
  for (const word of $("words").children) {
    const span = [Number(word.dataset.start), Number(word.dataset.end)];
    word.classList.toggle("in-row", Boolean(overlaps(span, rowSpan)));
    word.classList.toggle("in-column", Boolean(overlaps(span, columnSpan)));
  }
  $("stage").dataset.row = row;
  if (facts.audio) [$("play-row").disabled, $("play-column").disabled] = [!rowSpan, !columnSpan];
  $("readout").textContent = describe(head, row, column);
}

function place(node, edge, size, index, n) {
  node.style.display = index === null ? "none" : "block";
  node.style[edge] = `${100 * index / n}%`;
  node.style[size] = `${100 / n}%`;
}

function mark(kind, span) {
  for (const rect of document.querySelectorAll(`rect.${kind}`)) {
    const down = rect.ownerSVGElement.id === "row-sound";
    rect.setAttribute(down ? "y" : "x", span ? span[0] : 0);
    rect.setAttribute(down ? "height" : "width", span ? span[1] - span[0] : 0);
    rect.style.display = span ? "" : "none";
  }
}

function name(axis, index) {
  const span = axis.spans[index];
  if (axis.kind === "token") return `“${visible(axis.labels[index])}” (${axis.notes[index]}${span ? `, ${between(span)}` : ""})`;
  const words = facts.words.filter(word => overlaps(word, span)).map(word => word[2]);
  return between(span) + (words.length ? ` “${words.join(" ")}”` : "");
}

function other(head, row, column) { // the same cell of the other version
  if (!head.versions.before) return "";
  const isAfter = head.values === head.versions.after.values, name = isAfter ? "before" : "after";
  return ` (${name}: ${shown(cellOf(head, row, column, head.versions[name].values))})`;
}

function describe(head, row, column) {
  const beyond = head.beyond ? head.beyond[row] / LEVELS * head.most_outside : 0;
  const parts = [column === null ? name(facts.rows, row) : `${shown(cellOf(head, row, column))}${other(head, row, column)} from ${name(facts.rows, row)} to ${name(facts.columns, column)}`];
  if (beyond >= 0.0005) parts.push(`${(100 * beyond).toFixed(1)} % of the row’s attention goes to the padding`);
  return parts.join("; ");
}

// --- axes ---------------------------------------------------------------------------------------------------------
function drawAxes() {
  const seconds = facts.seconds;
  $("sound").setAttribute("viewBox", `0 0 ${seconds} 1`);
  $("row-sound").setAttribute("viewBox", `0 0 1 ${seconds}`);
  if (facts.spectrogram) {
    const image = { href: facts.spectrogram, x: 0, y: 0, width: seconds, height: 1, preserveAspectRatio: "none" };
    svg($("sound"), "image", image);
    if (!tokenRows) svg($("row-sound"), "image", { ...image, transform: "matrix(0 1 1 0 0 0)" }); // time runs down
  }
  for (const kind of ["row", "column"]) {
    svg($("sound"), "rect", { class: kind, y: 0, height: 1, width: 0 });
    svg($("row-sound"), "rect", { class: kind, x: 0, width: 1, height: 0 });
  }
  svg($("sound"), "polyline", { class: "current", points: "" });
  svg($("sound"), "line", { class: "playhead", y1: 0, y2: 1, x1: -1, x2: -1 });
  for (const [start, end, label] of facts.words) {
    const button = add($("words"), "button", { type: "button", ariaLabel: label, title: `${label}, ${between([start, end])}`, tabIndex: $("words").children.length ? -1 : 0 });
    Object.assign(button.dataset, { start, end });
    Object.assign(button.style, { left: `${100 * start / seconds}%`, width: `${100 * (end - start) / seconds}%` });
    button.onclick = () => play([start, end]);
    button.onmouseenter = button.onfocus = () => moveCursor(rowOf([start, end]) ?? state.row, timed ? columnAt((start + end) / 2) : state.column);
  }
  rove($("words"), () => [...$("words").children], (at, key, list) => ({ ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: list.length - 1 })[key]);
  if (tokenRows) drawTokenRows();
  $("sound").style.setProperty("--thin", Math.min(0.28, Math.max(0.03, 4 / N_ROWS)));
}

const columnAt = time => Math.max(0, facts.columns.spans.findIndex(([start, end]) => time < end));
const rowOf = span => { // the row in the middle of a span, or the first token of a word
  if (tokenRows) { const row = facts.rows.spans.findIndex(other => overlaps(other, span)); return row < 0 ? null : row; }
  return facts.rows.spans.findIndex(([, end]) => (span[0] + span[1]) / 2 < end);
};

function tickStep(pixels) {
  return [0.2, 0.5, 1, 2, 5, 10].find(step => pixels * step / facts.seconds >= 34) || 10;
}

function layOut() { // everything that depends on the size of the map
  $("stage").style.removeProperty("--map-width");
  const width = $("map").clientWidth * state.zoom;
  if (state.zoom > 1) $("stage").style.setProperty("--map-width", `${width}px`);
  const height = tokenRows ? Math.max(200, 17 * N_ROWS) : Math.max(200, Math.min(520 * state.zoom, width));
  $("stage").style.setProperty("--map-height", `${height}px`);
  drawTicks(width);
  for (const button of $("words").children) { // a label without room is only announced
    const room = width * (button.dataset.end - button.dataset.start) / facts.seconds;
    button.textContent = room > 6.3 * button.ariaLabel.length + 3 ? button.ariaLabel : "";
  }
  if (!tokenRows) drawTimeRows(height);
  if (!timed) drawColumnLabels(width);
  drawMap();
}

function drawTicks(width) {
  const step = tickStep(width);
  $("seconds").replaceChildren();
  for (let k = 0; (facts.seconds - k * step) / facts.seconds * width > 60; k++)
    add($("seconds"), "span", { textContent: Number((k * step).toFixed(1)) }).style.left = `${100 * k * step / facts.seconds}%`;
  add($("seconds"), "span", { textContent: `${facts.seconds.toFixed(2)} s` }).style.left = "100%";
}

function drawColumnLabels(width) {
  const every = Math.ceil(13 * N_COLUMNS / width);
  $("column-labels").replaceChildren();
  facts.columns.labels.forEach((label, column) => {
    if (column % every) return;
    const node = add($("column-labels"), "span", { textContent: visible(label), title: label });
    node.dataset.column = column;
    node.style.left = `${100 * (column + 0.6) / N_COLUMNS}%`;
  });
}

function drawTimeRows(height) {
  $("row-labels").replaceChildren();
  const step = tickStep(height);
  for (let k = 0; k * step < facts.seconds; k++)
    add($("row-labels"), "span", { className: "second", textContent: Number((k * step).toFixed(1)) }).style.top = `${100 * k * step / facts.seconds}%`;
  let free = 0;
  for (const [start, end, label] of facts.words) {
    const middle = (start + end) / 2 / facts.seconds;
    if (middle * height < free) continue;
    free = middle * height + 13;
    add($("row-labels"), "span", { className: "word", textContent: label, title: label }).style.top = `${Math.max(8, middle * height)}px`;
  }
}

function drawTokenRows() {
  facts.rows.labels.forEach((label, row) => {
    const node = add($("row-labels"), "span", { textContent: visible(label), title: `${label}: ${facts.rows.notes[row]}` });
    node.dataset.row = row;
    Object.assign(node.style, { top: `${100 * row / N_ROWS}%`, height: `${100 / N_ROWS}%` });
    node.onmouseenter = () => moveCursor(row, null);
    node.onclick = () => { moveCursor(row, null); play(facts.rows.spans[row]); };
  });
}

// --- pointer and keyboard -----------------------------------------------------------------------------------------
const inMap = event => {
  const box = $("map").getBoundingClientRect(), part = (value, n) => Math.max(0, Math.min(n - 1, Math.floor(value * n)));
  return [part((event.clientY - box.top) / box.height, N_ROWS), part((event.clientX - box.left) / box.width, N_COLUMNS)];
};
const spanOf = column => column ? facts.columns.spans[state.column] : facts.rows.spans[state.row];
$("map").onpointermove = event => moveCursor(...inMap(event));
$("map").onclick = event => { moveCursor(...inMap(event)); play(spanOf(event.shiftKey)); };
$("map").onkeydown = event => {
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); play(spanOf(event.shiftKey)); return; }
  const [rows, columns] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] || [0, 0];
  if (!rows && !columns) return;
  event.preventDefault();
  const moved = (value, by, n) => Math.max(0, Math.min(n - 1, (value ?? 0) + by));
  moveCursor(moved(state.row, rows, N_ROWS), moved(state.column, columns, N_COLUMNS));
  reveal();
};
$("map").onfocus = () => moveCursor(state.row ?? 0, state.column ?? 0);
function reveal() { // scrolls the map to the cursor; head and labels stay in place
  if (state.row === null) return;
  const stage = $("stage"), map = $("map");
  const scroll = (edge, position, shown) => { stage[edge] = Math.max(Math.min(stage[edge], position - 20), position + 20 - shown); };
  scroll("scrollTop", (state.row + 0.5) / N_ROWS * map.clientHeight, stage.clientHeight - $("top").offsetHeight);
  if (state.column !== null) scroll("scrollLeft", (state.column + 0.5) / N_COLUMNS * map.clientWidth, stage.clientWidth - $("corner").offsetWidth - $("outside").offsetWidth);
}
if (facts.audio) {
  $("play-row").onclick = () => play(spanOf(false));
  $("play-column").onclick = () => play(spanOf(true));
  [$("play-row").disabled, $("play-column").disabled] = [true, true];
}
$("scale").onchange = event => { state.scale = event.target.value; paintThumbnails(); drawMap(); };
if ($("version")) $("version").onchange = event => { show(event.target.value); paintThumbnails(); drawMap(); };
$("zoom").onchange = event => { state.zoom = Number(event.target.value); layOut(); reveal(); };
dark.onchange = () => { paintThumbnails(); drawMap(); };

// --- start --------------------------------------------------------------------------------------------------------
function fitFrame() { // a notebook shows the page in a frame
  try { if (frameElement) frameElement.style.height = `${Math.ceil(document.body.getBoundingClientRect().height) + 2}px`; } catch { /* another origin */ }
}
let width = document.body.clientWidth;
const resized = new ResizeObserver(() => {
  fitFrame();
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  layOut();
  reveal();
});
loadHeads().then(() => {
  drawAxes();
  drawThumbnails();
  paintThumbnails();
  select(state.head);
  layOut();
  resized.observe(document.body);
  document.body.dataset.ready = true;
}).catch(error => {
  $("problem").hidden = false;
  $("problem").textContent = typeof DecompressionStream === "undefined" ? "This browser is too old to draw the maps: it lacks DecompressionStream." : `The maps cannot be drawn: ${error.message}`;
});
