// --- events ------------------------------------------------------------------------------------------
$("clips").onchange = event => openClip(event.target.value);
$("others").onchange = event => openOther(event.target.value);
$("file").onchange = event => { add([...event.target.files]); event.target.value = ""; };
$("record").onclick = record;
$("cut").onclick = () => change(e => e.cuts.push(state.span));
$("undo").onclick = () => { if (!state.past.length) return; state.edits = state.past.pop(); change(() => {}, false); };
$("clear").onclick = () => change(e => Object.assign(e, nothing()));
$("toggle-head").onclick = () => toggle("heads", state.head);
$("toggle-unit").onclick = () => toggle("units", state.unit);
$("margin").oninput = showMargin;
$("margin").onchange = () => {
  const margin = Number($("margin").value);
  if (state.edits.cuts.length) change(e => { e.margin = margin; });
  else { state.edits.margin = margin; showMargin(); }
};
$("zoom").max = MOST_ZOOM;
$("zoom").oninput = () => { fitted = false; setZoom(Number($("zoom").value)); };
$("fit").onclick = fitZoom;
addEventListener("resize", () => { if (state.clip) fitted ? fitZoom() : drawTimes(); });
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
$("stop").onclick = attempt(async () => { await ask("/api/stop", { method: "POST" }); say("The server has stopped: close this page."); });
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
  if (!clips.length) { document.body.classList.remove("busy"); say("Drop an audio file here, or record one."); return; }
  $("clips").value = first;
  await openClip(first);
  await openOther($("others").value = (clips.find(c => c.id !== first) || clips[0]).id);
})();
