// A unit's page: draws activations and captions over spectrograms, and plays. Data: #data, and a script per clip.
"use strict";

const HW = (() => {
  const clips = new Map();
  const waiting = new Map();

  // Scripts in clips/ call this; fetch() of a JSON file is forbidden on pages that were opened from a disk.
  const clip = (name, record) => clips.set(name, record);

  function load(name) {
    if (!waiting.has(name)) {
      waiting.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `../clips/${name}.js`;
        script.onload = () => clips.has(name) ? resolve(clips.get(name)) : reject(new Error(`${name} is empty`));
        script.onerror = () => reject(new Error(`${name} is missing`));
        document.head.append(script);
      }));
    }
    return waiting.get(name);
  }

  return { clip, load };
})();

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const FRAME = 0.01; // seconds of a mel frame, which is centered on its time
  const MOMENT = 1; // seconds of an amplified moment

  const percent = (seconds, duration) => `${100 * seconds / duration}%`;

  function shape(parent, name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
  }

  // --- drawing ---

  function drawTrace(svg, example, duration) {
    const [low, high] = data.scale;
    const x = seconds => 100 * seconds / duration;
    const y = value => 97 - 94 * (value - low) / (high - low);
    const [start, end] = example.loop;
    const d = "M" + example.values
      .map((v, i) => `${x(example.start + i * example.step).toFixed(2)} ${y(v).toFixed(1)}`).join("L");
    shape(svg, "rect", { class: "moment", x: x(start), y: 0, width: x(end - start), height: 100 });
    shape(svg, "path", { class: "under", d });
    shape(svg, "path", { class: "trace", d });
  }

  function drawTier(tier, intervals, duration, peak) {
    for (const [start, end, label] of intervals) {
      const span = document.createElement("span");
      span.textContent = label === "SIL" ? "" : label;
      span.title = `${label}, ${start.toFixed(2)} to ${end.toFixed(2)} s`;
      span.style.left = percent(start, duration);
      span.style.width = percent(end - start, duration);
      span.classList.toggle("here", start <= peak && peak < end);
      tier.append(span);
    }
    tier.hidden = intervals.length === 0;
    fit(tier);
  }

  // Labels that do not fit are only in the title, except for the one at the peak, which covers its neighbors.
  function fit(tier) {
    for (const span of tier.querySelectorAll("span:not(.here)")) {
      span.classList.remove("narrow");
      span.classList.toggle("narrow", span.scrollWidth > span.clientWidth + 1);
    }
  }

  function drawTime(tier, duration) {
    const step = [0.1, 0.2, 0.5, 1, 2, 5].find(s => duration / s <= 8) || 5;
    for (let i = 0; i * step <= duration + 1e-6; i++) {
      const span = document.createElement("span");
      span.textContent = `${+(i * step).toFixed(1)}${i ? "" : " s"}`;
      span.style.left = percent(i * step, duration);
      span.classList.toggle("first", i === 0);
      span.classList.toggle("last", i * step > 0.97 * duration);
      tier.append(span);
    }
  }

  function draw(card, example, clip) {
    const find = selector => card.querySelector(selector);
    const duration = clip.duration;
    drawTrace(find(".mel svg"), example, duration);
    drawTier(find(".phones"), clip.phones, duration, example.peak);
    drawTier(find(".words"), clip.words, duration, example.peak);
    drawTime(find(".time"), duration);
    find(".peak").style.left = percent(example.peak, duration);
    const image = find(".mel img");
    const place = () => {
      image.style.left = percent(-FRAME / 2, duration);
      image.style.width = percent(image.naturalWidth * FRAME, duration);
    };
    image.complete && image.naturalWidth ? place() : image.addEventListener("load", place, { once: true });
  }

  // --- sound ---

  function press(button, on) {
    button.setAttribute("aria-pressed", String(on));
  }

  function start(audio) {
    // a pause() before the sound has begun rejects play(); that is no error
    audio.play().catch(error => { if (error.name !== "AbortError") throw error; });
  }

  function wire(card, example) {
    const find = selector => card.querySelector(selector);
    const [audio, moment] = [find(".context"), find(".peak-sound")];
    const [play, loop, amplified] = [find(".play"), find(".loop"), find(".amplified")];
    const [seek, clock, view, playhead] = [find(".seek"), find(".clock"), find(".view"), find(".playhead")];
    const duration = Number(seek.max);
    const [first, last] = example.loop;
    let looping = false;
    let frame = 0;

    function show(seconds) {
      const shown = Math.min(Math.max(seconds, 0), duration);
      playhead.hidden = shown === 0;
      playhead.style.left = percent(shown, duration);
      seek.value = shown;
      clock.textContent = `${shown.toFixed(2)} / ${duration.toFixed(2)} s`;
    }

    function follow() {
      if (looping && (audio.currentTime >= last || audio.currentTime < first - 0.05)) audio.currentTime = first;
      if (!moment.paused) show(example.peak - MOMENT / 2 + moment.currentTime);
      else show(audio.currentTime);
    }

    function animate() {
      follow();
      frame = audio.paused && moment.paused ? 0 : requestAnimationFrame(animate);
    }

    function setLoop(on) {
      looping = on;
      press(loop, on);
    }

    function go(seconds) {
      if (looping && (seconds < first || seconds >= last)) setLoop(false);
      audio.currentTime = seconds;
      show(seconds);
    }

    for (const [sound, button] of [[audio, play], [moment, amplified]]) {
      const label = button.textContent;
      sound.addEventListener("play", () => {
        press(button, true);
        button.textContent = label.replace(/^\S+/, "❚❚");
        if (!frame) frame = requestAnimationFrame(animate);
      });
      sound.addEventListener("pause", () => {
        press(button, false);
        button.textContent = label;
      });
    }
    audio.addEventListener("timeupdate", follow); // where no frames are drawn, in a hidden tab
    audio.addEventListener("ended", () => { if (looping) { audio.currentTime = first; start(audio); } });

    play.addEventListener("click", () => audio.paused ? start(audio) : audio.pause());
    amplified.addEventListener("click", () => {
      if (!moment.paused) return moment.pause();
      moment.currentTime = 0;
      start(moment);
    });
    loop.addEventListener("click", () => {
      setLoop(!looping);
      if (!looping) return audio.pause();
      go(first);
      start(audio);
    });
    const secondsAt = event => {
      const box = view.getBoundingClientRect();
      return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * duration;
    };
    view.addEventListener("click", event => {
      go(secondsAt(event));
      start(audio);
    });
    view.addEventListener("pointermove", event => {
      if (!audio.paused || !moment.paused) return; // the clock is the player's
      const value = example.values[Math.round((secondsAt(event) - example.start) / example.step)];
      clock.textContent = `${secondsAt(event).toFixed(2)} s: ${value === undefined ? "–" : +value.toPrecision(3)}`;
    });
    view.addEventListener("pointerleave", () => show(Number(seek.value)));
    seek.addEventListener("input", () => go(Number(seek.value)));
  }

  // one sound at a time
  addEventListener("play", event => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
  }, true);

  // --- cards are drawn when they come near the window, or all of them before printing ---

  const pending = new Map();

  function fill(card) {
    const example = pending.get(card);
    if (!example) return;
    pending.delete(card);
    HW.load(example.clip).then(clip => draw(card, example, clip), error => {
      const note = document.createElement("p");
      note.className = "missing";
      note.textContent = `The clip cannot be shown: ${error.message}.`;
      card.append(note);
    });
  }

  const near = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); fill(entry.target); }
  }, { rootMargin: "800px" });

  for (const card of document.querySelectorAll(".card")) {
    const example = data.examples[Number(card.dataset.example)];
    pending.set(card, example);
    wire(card, example);
    near.observe(card);
  }
  let resized = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(resized);
    resized = requestAnimationFrame(() => document.querySelectorAll(".tier:not(.time)").forEach(fit));
  });
  addEventListener("beforeprint", () => {
    for (const image of document.querySelectorAll(".mel img")) image.loading = "eager";
    for (const card of [...pending.keys()]) fill(card);
  });

  const legend = document.querySelector(".legend-box");
  if (legend) legend.open = innerWidth > 700;

  // --- keys: to the units beside this one ---

  addEventListener("keydown", event => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, .scroll")) return; // they use arrow keys themselves
    const link = { ArrowLeft: "previous", ArrowRight: "next" }[event.key];
    if (link) document.getElementById(link)?.click();
    if (event.key === "/") { event.preventDefault(); location.href = "../index.html#search"; }
  });
})();
