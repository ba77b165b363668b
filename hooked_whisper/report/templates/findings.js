// One player at a time.
addEventListener("play", e => document.querySelectorAll("audio").forEach(a => a !== e.target && a.pause()), true);

// The filter: rows, sections and entries of the contents carry the id and the verdict of their finding.
const form = document.getElementById("filter"), shown = document.getElementById("shown");
const buttons = [...form.querySelectorAll("button")], field = form.elements.words;
const marked = [...document.querySelectorAll("[data-finding]")];
const texts = new Map([...document.querySelectorAll("section[data-finding]")].map(section => [section.dataset.finding,
  [...section.querySelectorAll("h2, .claim, .protocol")].map(part => part.textContent).join(" ").toLowerCase()]));

function filter() {
  const statuses = buttons.filter(b => b.dataset.show && b.getAttribute("aria-pressed") === "true").map(b => b.dataset.show);
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = ({finding, status}) => (!statuses.length || statuses.includes(status))
    && words.every(word => texts.get(finding).includes(word));
  marked.forEach(element => { element.hidden = !fits(element.dataset); });
  const count = document.querySelectorAll(".row:not([hidden])").length;
  buttons[0].setAttribute("aria-pressed", String(!statuses.length));
  shown.textContent = statuses.length || words.length ? `${count} of ${texts.size} findings shown` : "";
}
form.addEventListener("click", ({target}) => {
  const button = target.closest("button");
  if (!button) return;
  if (button.dataset.show) button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  else buttons.forEach(b => b.setAttribute("aria-pressed", "false"));
  filter();
});
form.addEventListener("submit", e => e.preventDefault());
field.addEventListener("input", filter);
form.hidden = false;

// A link to a finding that the filter hides shows everything again.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target || !target.closest("[hidden]")) return;
  buttons.forEach(b => b.setAttribute("aria-pressed", "false"));
  field.value = "";
  filter();
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);

// The contents mark the section in view, and close after a choice where they lie over the page.
const links = [...document.querySelectorAll(".toc a")];
const watch = new IntersectionObserver(entries => entries.filter(e => e.isIntersecting).forEach(({target}) =>
  links.forEach(a => a.getAttribute("href") === "#" + target.id ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current"))),
  {rootMargin: "-10% 0px -80% 0px"});
document.querySelectorAll("main > section[id]").forEach(section => watch.observe(section));
const narrow = document.querySelector(".toc.narrow");
narrow.addEventListener("click", e => { if (e.target.closest("a")) narrow.open = false; });
