// The index: searches and sorts all units in memory, draws one page of rows.
"use strict";

(() => {
  const PER_PAGE = 100;
  const [INDEX, LABEL, SCORE, MAX, FIRES, MEAN, DEAD] = [0, 1, 2, 3, 4, 5, 6];
  const all = JSON.parse(document.getElementById("data").textContent);
  const find = id => document.getElementById(id);
  const state = { rows: all, column: null, descending: false, page: 0 };

  const digits = value => value === null ? "–" : String(+value.toPrecision(3));
  const share = value => `${digits(100 * value)} %`;

  function cell(row, text, kind) {
    const td = document.createElement("td");
    td.className = kind;
    td.textContent = text;
    row.append(td);
    return td;
  }

  function line(unit) {
    const row = document.createElement("tr");
    const link = document.createElement("a");
    link.href = `units/${unit[INDEX]}.html`;
    link.textContent = unit[INDEX];
    cell(row, "", "num").append(link);
    cell(row, unit[LABEL] || (unit[DEAD] ? "never fires" : "–"), unit[LABEL] ? "label" : "label quiet");
    for (const column of [SCORE, MAX, FIRES, MEAN]) {
      cell(row, column === FIRES ? share(unit[column]) : digits(unit[column]), "num");
    }
    return row;
  }

  // Units without a score or a label come last, whichever way the rest is sorted.
  function compare(a, b) {
    const [x, y] = [a[state.column], b[state.column]];
    const [noX, noY] = [x === null || x === "", y === null || y === ""];
    if (noX || noY) return noX - noY || a[INDEX] - b[INDEX];
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return (state.descending ? -order : order) || a[INDEX] - b[INDEX];
  }

  function matching(query) {
    const text = query.trim().toLowerCase();
    return text ? all.filter(u => String(u[INDEX]) === text || u[LABEL].toLowerCase().includes(text)) : [...all];
  }

  function draw() {
    const first = state.page * PER_PAGE;
    const shown = state.rows.slice(first, first + PER_PAGE);
    const pages = Math.max(1, Math.ceil(state.rows.length / PER_PAGE));
    find("rows").replaceChildren(...shown.map(line));
    find("found").textContent = `${state.rows.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} units`;
    find("page").textContent = `page ${state.page + 1} of ${pages}`;
    find("back").disabled = state.page === 0;
    find("on").disabled = state.page + 1 >= pages;
    document.querySelector(".pager").hidden = pages === 1;
  }

  function update() {
    state.rows = matching(find("search").value);
    if (state.column !== null) state.rows.sort(compare);
    state.page = 0;
    draw();
  }

  function turn(pages) {
    state.page += pages;
    draw();
    find("units").scrollIntoView({ block: "start" });
  }

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const column = Number(button.dataset.column);
      // numbers are wanted from the largest, names from A
      state.descending = state.column === column ? !state.descending : column > LABEL;
      state.column = column;
      for (const th of document.querySelectorAll("th[aria-sort]")) th.removeAttribute("aria-sort");
      button.parentElement.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      update();
    });
  }
  find("search").addEventListener("input", update);
  find("back").addEventListener("click", () => turn(-1));
  find("on").addEventListener("click", () => turn(1));
  addEventListener("keydown", event => {
    if (event.key === "/" && event.target !== find("search") && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      find("search").focus();
      find("search").select();
    }
  });
  if (location.hash === "#search") find("search").focus();
  update();
})();
