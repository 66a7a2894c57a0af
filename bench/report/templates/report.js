"use strict";
const root = document.documentElement;
const all = (selector, from) => Array.from((from || document).querySelectorAll(selector));
const kept = (value) => {
  try {
    if (value) localStorage.setItem("bench-theme", value);
    return localStorage.getItem("bench-theme");
  } catch (refused) { return null; }  // some browsers keep nothing for files
};

const toggle = document.getElementById("theme");
const isDark = () => root.dataset.theme
  ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;
const paint = (theme) => {
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  toggle.textContent = isDark() ? "Light page" : "Dark page";
};
paint(kept());
toggle.hidden = false;
toggle.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  kept(theme);
  paint(theme);
});

const valueOf = (row, column) => {
  const cell = row.cells[column];
  const own = cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v;
  return own !== "" && isFinite(own) ? Number(own) : own;
};
const order = (a, b) => {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
};
const sortBy = (header) => {
  const down = header.getAttribute("aria-sort") === "ascending";
  const body = header.closest("table").tBodies[0];
  const column = header.cellIndex;
  const rows = Array.from(body.rows).map((row) => [valueOf(row, column), row]);
  const empty = (pair) => pair[0] === "";  // rows without a value stay at the end
  rows.sort((a, b) => empty(a) - empty(b) || (down ? -1 : 1) * order(a[0], b[0]));
  all("th[aria-sort]", header.parentNode).forEach((each) => each.setAttribute("aria-sort", "none"));
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  body.append(...rows.map((pair) => pair[1]));
};
for (const header of all("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  header.append(button);
  if (!header.hasAttribute("aria-sort")) header.setAttribute("aria-sort", "none");
  button.addEventListener("click", () => sortBy(header));
}

const filters = document.getElementById("filters");
if (filters) {
  filters.hidden = false;
  const blocks = all(".block[data-dataset]").map((block) => ({
    block, rows: all("tbody tr", block).map((row) => [row, row.dataset.text]),
  }));
  const narrow = () => {
    const asked = all("select", filters);
    const words = filters.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { block, rows } of blocks) {
      const fits = asked.every((each) => !each.value || block.dataset[each.name] === each.value);
      let own = 0;
      for (const [row, text] of rows) {
        row.hidden = !fits || !words.every((word) => text.includes(word));
        own += row.hidden ? 0 : 1;
      }
      block.hidden = own === 0;
      count += own;
    }
    document.getElementById("count").textContent = `${count} of ${filters.getAttribute("data-runs")} runs`;
  };
  filters.addEventListener("input", narrow);
  filters.addEventListener("submit", (event) => event.preventDefault());
  narrow();
}
