// Two rows side by side: the table of categories, the scatter, and pictures, for whichever rows are chosen.
const data = JSON.parse(document.getElementById("pairs-data").textContent);
const words = { r: "rare", c: "common", f: "frequent" };
const chosen = ["row-a", "row-b"].map((id) => document.getElementById(id));
const rowOf = (select) => data.rows[Number(select.value)];

function make(tag, attributes, ...children) {
  const drawn = ["svg", "g", "path", "circle", "line", "text", "title", "image"].includes(tag);
  const element = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const written = (value) => (value === null ? "–" : value.toFixed(1).replace("-", "−"));
// A name with places after its underscores where a line may end.
const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [part, make("wbr", {})]);
const signed = (value) => (value === null ? "–" : (value > 0 ? "+" : "") + written(value));

function categories() {
  const [a, b] = chosen.map((select) => rowOf(select).ap);
  return data.categories.map(([name, frequency, instances, images], place) => {
    const [mine, theirs] = [a[place] ?? null, b[place] ?? null];
    const change = mine === null || theirs === null ? null : theirs - mine;
    return [name, words[frequency] ?? frequency, mine, theirs, change, instances, images];
  });
}

let order = { place: 4, sign: -1 };

function fillTable() {
  const table = document.getElementById("categories");
  if (!table) return;
  const wanted = document.getElementById("category-search").value.trim().toLowerCase();
  const found = categories().filter(([name, frequency]) => `${name} ${frequency}`.toLowerCase().includes(wanted));
  found.sort((x, y) => {
    const [p, q] = [x[order.place], y[order.place]];
    if (p === null || q === null) return (p === null) - (q === null);
    return order.sign * (typeof p === "string" ? p.localeCompare(q) : p - q);
  });
  table.tBodies[0].replaceChildren(
    ...found.map(([name, frequency, mine, theirs, change, instances, images]) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, ...breakable(String(name))),
        ...[frequency, written(mine), written(theirs), signed(change), instances, images].map((text) => make("td", {}, String(text))),
      ),
    ),
  );
  document.getElementById("category-count").textContent = `${found.length} of ${data.categories.length}`;
  [...table.tHead.rows[0].cells].forEach((heading, place) => {
    if (place === order.place) heading.setAttribute("aria-sort", order.sign > 0 ? "ascending" : "descending");
    else heading.removeAttribute("aria-sort");
  });
}

function drawScatter() {
  const svg = document.querySelector("#scatter svg");
  if (!svg) return;
  const [left, top, side] = [46, 12, 360];
  const at = (value) => (value / 100) * side;
  const axes = [0, 25, 50, 75, 100].flatMap((tick) => [
    make("line", { x1: left + at(tick), x2: left + at(tick), y1: top, y2: top + side, class: "grid" }),
    make("line", { x1: left, x2: left + side, y1: top + side - at(tick), y2: top + side - at(tick), class: "grid" }),
    make("text", { x: left + at(tick), y: top + side + 18, "text-anchor": "middle" }, String(tick)),
    make("text", { x: left - 8, y: top + side - at(tick) + 4, "text-anchor": "end" }, String(tick)),
  ]);
  const [a, b] = chosen.map((select) => rowOf(select).label);
  const labels = [
    make("text", { x: left + side / 2, y: top + side + 44, "text-anchor": "middle" }, `A: ${a}`),
    make("text", { transform: `translate(12 ${top + side / 2}) rotate(-90)`, "text-anchor": "middle" }, `B: ${b}`),
  ];
  const shown = categories().filter((values) => values[4] !== null);
  shown.sort((x, y) => y[5] - x[5]); // small ones on top
  const most = Math.max(1, ...shown.map((values) => values[5]));
  const circles = shown.map(([name, frequency, mine, theirs, , instances]) =>
    make(
      "circle",
      { cx: left + at(mine), cy: top + side - at(theirs), r: 2 + 16 * Math.sqrt(instances / most), class: frequency },
      make("title", {}, `${name} (${frequency}, ${instances} instances): A ${written(mine)}, B ${written(theirs)}`),
    ),
  );
  const diagonal = make("line", { x1: left, y1: top + side, x2: left + side, y2: top, class: "diagonal" });
  svg.replaceChildren(...axes, diagonal, ...circles, ...labels);
}

function picture(image, label, outlines) {
  const shapes = outlines.map(({ category, score, outline }, place) => {
    const path = outline.map((points) => `M${points.map((p, i) => (i && i % 2 === 0 ? `L${p}` : p)).join(" ")}Z`).join("");
    const name = score === undefined ? category : `${category} ${score.toFixed(2)}`;
    return make("path", { d: path, class: `outline series-${place % 8}` }, make("title", {}, name));
  });
  const counts = {};
  for (const { category } of outlines) counts[category] = (counts[category] ?? 0) + 1;
  const seen = Object.entries(counts).map(([name, count]) => (count > 1 ? `${count} × ${name}` : name));
  const size = { viewBox: `0 0 ${image.width} ${image.height}`, role: "img", "aria-label": `${label}: ${seen.join(", ") || "nothing"}` };
  const pixels = make("image", { href: image.data, width: image.width, height: image.height });
  return make("figure", {}, make("svg", size, pixels, ...shapes), make("figcaption", {}, make("b", {}, label), ` ${seen.join(", ") || "nothing"}`));
}

function drawPictures() {
  const place = document.getElementById("pictures");
  if (!place) return;
  const rows = chosen.map(rowOf);
  place.replaceChildren(
    ...data.images.map((image) =>
      make(
        "div",
        { class: "triple" },
        picture(image, "truth", image.truth),
        ...rows.filter((row) => row.found[image.file]).map((row) => picture(image, row.label, row.found[image.file])),
      ),
    ),
  );
}

function update() {
  fillTable();
  drawScatter();
  drawPictures();
}

document.getElementById("category-search")?.addEventListener("input", fillTable);
chosen.forEach((select) => select.addEventListener("change", update));
document.querySelectorAll("#categories thead button").forEach((button, place) => {
  button.addEventListener("click", () => {
    order = { place, sign: order.place === place ? -order.sign : place < 2 ? 1 : -1 };
    fillTable();
    announced.textContent = `Sorted by ${button.innerText.trim()}, ${order.sign > 0 ? "ascending" : "descending"}.`;
  });
});
update();
