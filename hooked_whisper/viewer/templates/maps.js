"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const $ = id => document.getElementById(id);
const N_ROWS = facts.rows.spans.length, N_COLUMNS = facts.columns.spans.length;
const LEVELS = 65535, DECADES = 3; // the log scale ends at 1/1000 of the largest cell

// --- data ---------------------------------------------------------------------------------------------------------
const bytesOf = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

async function unpacked(text) { // all low bytes, then all high bytes
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => bytes[i] | bytes[bytes.length / 2 + i] << 8);
}

async function loadHeads() {
  await Promise.all(facts.heads.flatMap(head => Object.values(head.versions).map(async version => {
    version.values = await unpacked(version.cells);
    version.beyond = version.outside ? await unpacked(version.outside) : null;
  })));
  show("after");
}

function show(name) { // the maps before or after the intervention
  for (const head of facts.heads) [head.values, head.beyond] = [head.versions[name].values, head.versions[name].beyond];
}

const cellOf = (head, row, column, values = head.values) => values[row * N_COLUMNS + column] / LEVELS * head.largest;

// --- colors -------------------------------------------------------------------------------------------------------
const dark = matchMedia("(prefers-color-scheme: dark)");
const palettes = { light: bytesOf(facts.palettes.light), dark: bytesOf(facts.palettes.dark) };

// the color (0 to 255) of every 16-bit value
const tables = {
  linear: () => Uint8Array.from({ length: LEVELS + 1 }, (_, v) => v / 257),
  log: () => Uint8Array.from({ length: LEVELS + 1 }, (_, v) => 255 * Math.max(0, 1 + Math.log10(v / LEVELS) / DECADES)),
  percentile: values => { // the share of nonzero cells that are smaller
    const counts = new Uint32Array(LEVELS + 1);
    for (const value of values) counts[value]++;
    const n = values.length - counts[0], table = new Uint8Array(LEVELS + 1);
    for (let v = 1, below = 0; v <= LEVELS; below += counts[v++]) table[v] = 255 * (below + counts[v]) / (n || 1);
    return table;
  },
};
const shared = { linear: tables.linear(), log: tables.log() };
const tableOf = (scale, values) => shared[scale] || tables.percentile(values);

function paint(canvas, values, rows, columns, most_rows, most_columns, table) { // small cells: the largest of each pixel
  const height = Math.max(1, Math.min(rows, Math.round(most_rows))), width = Math.max(1, Math.min(columns, Math.round(most_columns)));
  const largest = new Uint16Array(width * height);
  for (let row = 0, i = 0; row < rows; row++) {
    const start = Math.floor(row * height / rows) * width;
    for (let column = 0; column < columns; column++, i++) {
      const pixel = start + Math.floor(column * width / columns);
      if (values[i] > largest[pixel]) largest[pixel] = values[i];
    }
  }
  const image = new ImageData(width, height), palette = dark.matches ? palettes.dark : palettes.light;
  for (let pixel = 0; pixel < largest.length; pixel++) {
    image.data.set(palette.subarray(3 * table[largest[pixel]], 3 * table[largest[pixel]] + 3), 4 * pixel);
    image.data[4 * pixel + 3] = 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}
