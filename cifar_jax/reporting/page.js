"use strict";

// Charts: the values at the place that is pointed to.
const readout = document.getElementById("readout");
const SVG = "http://www.w3.org/2000/svg";
const MOST_ROWS = 12;

function draw(parent, tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return parent.appendChild(element);
}

// Returns the points that lie above each other, nearest to (x, y).
function nearest(lines, x, y) {
  const points = lines.flatMap((line) => line.points.map((point) => ({ line, point })));
  const far = ({ point }) => Math.abs(point[0] - x);
  const least = Math.min(...points.map(far));
  const column = points.find((each) => far(each) === least)?.point[0];
  return points
    .filter(({ point }) => Math.abs(point[0] - column) < 0.2)
    .sort((a, b) => Math.abs(a.point[1] - y) - Math.abs(b.point[1] - y))
    .slice(0, MOST_ROWS)
    .sort((a, b) => a.point[1] - b.point[1]);
}

function show(figure, found, event) {
  const svg = figure.querySelector("svg");
  const [, top, , height] = svg.getAttribute("viewBox").split(" ").map(Number);
  svg.querySelector(".marks")?.remove();
  const marks = draw(svg, "g", { class: "marks" });
  const x = found[0].point[0];
  draw(marks, "line", { class: "rule", x1: x, x2: x, y1: top, y2: top + height });
  const title = document.createElement("b");
  title.textContent = found[0].point[2];
  readout.replaceChildren(title);
  for (const { line, point } of found) {
    const style = `fill: var(--${line.colour})`;
    draw(marks, "circle", { class: "dot", cx: point[0], cy: point[1], r: 3.2, style });
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.setProperty("--colour", `var(--${line.colour})`);
    const row = document.createElement("div");
    row.append(swatch, `${line.name}: ${point[3]}`);
    readout.append(row);
  }
  readout.hidden = false;
  const width = document.documentElement.clientWidth;
  const left = event.clientX + 16 + readout.offsetWidth > width
    ? Math.max(4, event.clientX - 16 - readout.offsetWidth) : event.clientX + 16;
  readout.style.left = `${left + scrollX}px`;
  readout.style.top = `${event.clientY + 16 + scrollY}px`;
}

for (const figure of document.querySelectorAll("figure.chart")) {
  const lines = JSON.parse(figure.dataset.lines);
  const svg = figure.querySelector("svg");
  svg.addEventListener("pointermove", (event) => {
    const place = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(svg.getScreenCTM().inverse());
    const found = nearest(lines, place.x, place.y);
    if (found.length) show(figure, found, event);
  });
  svg.addEventListener("pointerleave", () => {
    readout.hidden = true;
    svg.querySelector(".marks")?.remove();
  });
}

// Tables: a click on a header sorts, a second one the other way.
function sort(table, column, header) {
  const down = header.getAttribute("aria-sort") === "ascending";
  const key = (row) => {
    const { number } = row.cells[column].dataset;
    return number === undefined ? row.cells[column].textContent : Number(number);
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
    return typeof a === "number" ? -1 : 1;
  };
  const rows = [...table.tBodies[0].rows]
    .sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, column, header));
    header.append(button);
  });
}

// Tables that are too wide can be moved with the keyboard.
for (const region of document.querySelectorAll(".scroll")) {
  if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
}

// What is folded is printed, too.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});

document.documentElement.dataset.ready = "yes";
