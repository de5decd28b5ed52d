"use strict";
// Tables: a click on a heading sorts, numbers by value, falling first; what is missing comes last.
const text = (cell) => cell.textContent.trim();
const number = (words) => parseFloat(words.replaceAll(",", "").replace("\u2212", "-"));
function sort(table, column, heading) {
  const rows = [...table.tBodies[0].rows], sign = heading.ariaSort === "descending" ? 1 : -1;
  const words = new Map(rows.map((row) => [row, text(row.cells[column]).replace(/^undefined$/, "")]));
  const numeric = [...words.values()].every((value) => !value || /^[+\u2212-]?[\d.]/.test(value));
  rows.sort((one, two) => {
    const [x, y] = [words.get(one), words.get(two)];
    if (!x || !y) return !x - !y;
    return sign * (numeric ? number(x) - number(y) : x.localeCompare(y));
  });
  for (const other of heading.parentNode.cells) other.ariaSort = null;
  heading.ariaSort = sign > 0 ? "ascending" : "descending";
  table.tBodies[0].append(...rows);
}
for (const table of document.querySelectorAll("table.data")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, column, heading));
  });
}
// Concepts: a sheet is drawn when it is opened.
const data = JSON.parse(document.getElementById("sheets").textContent);
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
function drawSheet(place) {
  if (place.childElementCount) return;
  for (const [kind, cells] of Object.entries(data.sheets[place.dataset.sheet])) {
    if (!Object.values(cells).some((pictures) => pictures.length)) continue;
    const tones = element("div", { class: "tones" });
    for (const [tone, pictures] of Object.entries(cells)) {
      const row = element("div", { class: kind === "failed" ? "row failed" : "row" });
      for (const [name, width, height, caption, values] of pictures) {
        const facts = Object.fromEntries(data.facts.map((fact, n) => [fact, values[n]]).filter(([, value]) => value != null));
        const alt = `${place.dataset.concept}, ${tone}, ${data.kinds[kind]}`, src = `pictures/${name}.webp`;
        const link = element("a", { href: src }, element("img", { loading: "lazy", decoding: "async", src, width, height, alt }));
        link.facts = facts;
        row.append(element("figure", {}, link, element("figcaption", {}, caption)));
      }
      tones.append(element("div", {}, element("h5", {}, tone), pictures.length ? row : element("span", { class: "none" }, "none")));
    }
    place.append(element("h4", {}, data.kinds[kind]), tones);
  }
}
for (const place of document.querySelectorAll("[data-sheet]")) {
  const details = place.closest("details");
  if (details.open) drawSheet(place);
  details.addEventListener("toggle", () => details.open && drawSheet(place));
}
// Pictures: a click or Enter opens one large, arrows go on to the next, Escape closes.
const dialog = document.querySelector("dialog");
let at = null;
function open(link) {
  if (!link) return;
  at = link;
  const image = link.querySelector("img"), caption = link.parentElement.querySelector("figcaption");
  Object.assign(dialog.querySelector("img"), { src: link.href, alt: image.alt, className: link.closest(".plot") ? "plain" : "" });
  const facts = { picture: image.alt, ...(caption && caption.textContent !== image.alt ? { caption: caption.textContent } : {}), ...(link.facts || JSON.parse(link.dataset.facts || "{}")) };
  dialog.querySelector("dl").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value), ...(data.meaning[name] ? [element("small", {}, data.meaning[name])] : []))]));
  if (!dialog.open) dialog.showModal();
}
document.addEventListener("click", (event) => {
  const link = event.target.closest("figure a");
  if (link) { event.preventDefault(); open(link); }
});
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const links = [...document.querySelectorAll("figure a")].filter((link) => link.checkVisibility ? link.checkVisibility() : link.offsetParent);
  open(links[links.indexOf(at) + step]);
});
dialog.addEventListener("close", () => at && at.focus());
document.addEventListener("error", (event) => { // alone, without its folder
  if (event.target.matches?.("figure img")) document.getElementById("alone").hidden = false;
}, true);
// A link to what is folded opens it.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
}
addEventListener("hashchange", unfold);
unfold();
