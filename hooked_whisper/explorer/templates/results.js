// --- the transcript after an edit ---------------------------------------------------------------------------------
const signed = x => (Math.abs(x) < 0.005 ? "0.00" : `${x > 0 ? "+" : "−"}${Math.abs(x).toFixed(2)}`);

function showChange(change) {
  $("before").textContent = change.before || "(nothing)";
  const parts = change.words.flatMap(word => {
    const tag = (name, text) => Object.assign(document.createElement(name), { textContent: text });
    const nodes = word.fate === "kept" ? [tag("span", word.before)]
      : [word.before && tag("del", word.before), word.after && tag("ins", word.after)].filter(Boolean);
    return nodes.flatMap(node => [node, " "]);
  });
  $("after").replaceChildren(...parts);
  if (!change.after) $("after").append("(nothing)");
  if (change.is_cut) $("after").append("… (stopped here: much longer than the text before)");
  $("score").textContent = change.wer === null ? "" : change.wer === 0 ? "(no word changed)" : `(${Math.round(100 * change.wer)} % of words changed)`;
  const most = change.most_affected;
  $("logprob").textContent = !most ? "" : Math.abs(change.logprob_change) < 0.005 && Math.abs(most[1]) < 0.005
    ? "The log-probability of the text before is unchanged."
    : `Log-probability of the text before: ${signed(change.logprob_change)} nats, most at “${most[0]}” (${signed(most[1])}).`;
  drawBars(change.words.filter(word => word.logprob_change !== null));
  $("python").textContent = change.python;
  $("done").replaceChildren(...listed(state.edits).map(text => {
    const item = document.createElement("li"), label = document.createElement("span");
    label.textContent = text;
    item.append(label);
    return item;
  }));
}

function drawBars(words) { // one column for each word of the text before
  const largest = Math.max(1, ...words.map(word => Math.abs(word.logprob_change)));
  $("bars").replaceChildren(...words.map(word => {
    const item = document.createElement("li"), label = document.createElement("span");
    const bar = document.createElement("i"), number = document.createElement("b");
    label.textContent = word.before;
    label.className = word.fate;
    number.textContent = signed(word.logprob_change);
    bar.className = word.logprob_change < 0 ? "less" : "more";
    bar.style.height = `${(3.5 * Math.abs(word.logprob_change) / largest).toFixed(3)}rem`;
    item.title = `“${word.before}”${word.start === null ? "" : ` at ${word.start.toFixed(2)} s`}: ${signed(word.logprob_change)} nats`;
    item.append(label, number, bar);
    return item;
  }));
}
