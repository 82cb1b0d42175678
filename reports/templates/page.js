const announced = document.getElementById("announced");

// Sorting: a heading's button turns its column down, up, and back to the report's own order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    heading.querySelector("button").addEventListener("click", () => {
      const order = { none: "descending", descending: "ascending", ascending: "none" };
      const next = order[heading.getAttribute("aria-sort") ?? "none"];
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") heading.setAttribute("aria-sort", next);
      body.append(...(next === "none" ? original : sorted(original, place, next)));
      const name = heading.innerText.trim() || "the first column";
      announced.textContent = next === "none" ? "Rows in the report's own order." : `Sorted by ${name}, ${next}.`;
    });
  });
}

function sorted(rows, place, order) {
  const sign = order === "descending" ? -1 : 1;
  const value = (row) => row.cells[place].dataset.value ?? "";
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const numeric = Number(x) - Number(y);
    return sign * (Number.isNaN(numeric) ? x.localeCompare(y) : numeric);
  });
}

// A link to a row's runs opens them.
function open() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", open);
open();

// A run's command goes to the clipboard.
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const code = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(code.textContent);
      announced.textContent = "Copied.";
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code); // a page opened from disk may not write it: one key more
    }
  });
}

// On paper nothing is folded.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
