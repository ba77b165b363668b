// The index: searches and sorts all units in memory, draws one page of rows.
"use strict";

(() => {
  const PER_PAGE = 100;
  const [INDEX, LABEL, SCORE, MAX, ACTIVE, MEAN, DEAD, PICTURE, WORDS, MOMENT] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const find = id => document.getElementById(id);
  const { noun, rows: all } = JSON.parse(find("data").textContent);
  const state = { rows: all, column: SCORE, descending: true, page: 0 };
  const sound = find("sound");
  let playing = null; // the button of the sound

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
    cell(row, "", "media").append(...picture(unit));
    const labeled = unit[LABEL] && unit[LABEL] !== "—";
    cell(row, labeled ? unit[LABEL] : unit[DEAD] ? "never active" : "–", labeled ? "label" : "label quiet");
    cell(row, unit[WORDS], "words");
    for (const column of [SCORE, ACTIVE, MAX, MEAN]) {
      cell(row, column === ACTIVE ? share(unit[column]) : digits(unit[column]), "num");
    }
    return row;
  }

  // A picture that links to the page, and a button that plays the strongest moment.
  function picture(unit) {
    const parts = [];
    if (unit[PICTURE]) {
      const link = document.createElement("a");
      link.href = `units/${unit[INDEX]}.html`;
      link.tabIndex = -1; // the number links to the same page
      const image = document.createElement("img");
      Object.assign(image, { src: `units/${unit[INDEX]}.png`, alt: "", loading: "lazy", width: 64, height: 40 });
      link.append(image);
      parts.push(link);
    }
    if (unit[MOMENT]) {
      const button = document.createElement("button");
      button.textContent = "▶";
      button.setAttribute("aria-label", `Play the strongest moment of ${noun} ${unit[INDEX]}`);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => play(button, `clips/${unit[MOMENT]}.mp3`));
      parts.push(button);
    }
    return parts;
  }

  function show(button, on) {
    button.textContent = on ? "❚❚" : "▶";
    button.setAttribute("aria-pressed", String(on));
  }

  function stop() {
    sound.pause();
    if (playing) show(playing, false);
    playing = null;
  }

  function play(button, address) {
    const same = playing === button;
    stop();
    if (same) return;
    playing = button;
    show(button, true);
    sound.src = address;
    sound.play().catch(error => {
      if (error.name === "AbortError") return; // another sound was started
      stop();
      button.title = "This sound cannot be played";
    });
  }
  sound.addEventListener("ended", stop);

  // Units without a score or a label come last, whichever way the rest is sorted.
  function compare(a, b) {
    const [x, y] = [a[state.column], b[state.column]];
    const [noX, noY] = [x, y].map(value => value === null || value === "" || value === "—");
    if (noX || noY) return noX - noY || a[INDEX] - b[INDEX];
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return (state.descending ? -order : order) || a[INDEX] - b[INDEX];
  }

  function matching(query) {
    const text = query.toLowerCase();
    return text ? all.filter(u => String(u[INDEX]) === text || u[LABEL].toLowerCase().includes(text)
      || u[WORDS].toLowerCase().includes(text)) : [...all];
  }

  function draw() {
    stop();
    const first = state.page * PER_PAGE;
    const shown = state.rows.slice(first, first + PER_PAGE);
    const pages = Math.max(1, Math.ceil(state.rows.length / PER_PAGE));
    find("rows").replaceChildren(...shown.map(line));
    find("found").textContent = `${state.rows.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} ${noun}s`;
    find("page").textContent = `page ${state.page + 1} of ${pages}`;
    find("back").disabled = state.page === 0;
    find("on").disabled = state.page + 1 >= pages;
    document.querySelector(".pager").hidden = pages === 1;
  }

  function update() {
    const query = find("search").value.trim();
    const rank = unit => Number(String(unit[INDEX]) !== query); // a number finds that unit first
    state.rows = matching(query).sort((a, b) => rank(a) - rank(b) || compare(a, b));
    state.page = 0;
    mark();
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
      // numbers from the largest, names from A
      state.descending = state.column === column ? !state.descending : column > LABEL;
      state.column = column;
      update();
    });
  }

  function mark() {
    for (const button of document.querySelectorAll("th button")) {
      if (Number(button.dataset.column) !== state.column) button.parentElement.removeAttribute("aria-sort");
      else button.parentElement.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    }
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
  document.querySelector(".legend-box").open = innerWidth > 700;
  if (location.hash === "#search") find("search").focus();
  update();
})();
