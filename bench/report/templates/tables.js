const all = (selector, from) => Array.from((from || document).querySelectorAll(selector));

const ordered = (sign) => (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === "");  // rows without a value stay at the end
  if (isFinite(a) && isFinite(b)) return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
};
DataTable.ext.type.order["valued-asc"] = ordered(1);
DataTable.ext.type.order["valued-desc"] = ordered(-1);

const opened = new Map();
const open = (table) => {
  const heads = all("thead th", table);
  const first = heads.findIndex((each) => each.hasAttribute("aria-sort"));
  const down = first >= 0 && heads[first].getAttribute("aria-sort") === "descending";
  const sought = heads.findIndex((each) => each.hasAttribute("data-sought"));
  const falling = heads.flatMap((each, i) => each.dataset.best === "highest" ? [i] : []);
  const layout = { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null };
  const own = new DataTable(table, {
    autoWidth: false, paging: false, orderClasses: false, layout,
    order: first < 0 ? [] : [[first, down ? "desc" : "asc"]],
    columnDefs: [
      { targets: sought < 0 ? [] : [sought], searchable: true },
      { targets: falling, orderSequence: ["desc", "asc"] },  // the first click shows the best
      { targets: "_all", type: "valued", searchable: false, orderSequence: ["asc", "desc"] },
    ],
    language: { zeroRecords: "", emptyTable: "" },
  });
  opened.set(table, own);
};
all("table.sortable").forEach(open);

const filters = document.getElementById("filters");
if (filters) {
  filters.hidden = false;
  const blocks = all(".block[data-dataset]").map((block) => [
    block, opened.get(block.querySelector("table")),
  ]);
  const narrow = () => {
    const asked = all("select", filters);
    let count = 0;
    for (const [block, table] of blocks) {
      const fits = asked.every((each) => !each.value || block.dataset[each.name] === each.value);
      if (fits) table.search(filters.elements.text.value).draw();
      const own = fits ? table.page.info().recordsDisplay : 0;
      block.hidden = own === 0;
      count += own;
    }
    document.getElementById("none").hidden = count > 0;
    const undrawn = document.getElementById("undrawn");
    if (undrawn) undrawn.hidden = count === 0;
    document.getElementById("count").textContent = `${count} of ${filters.getAttribute("data-runs")} runs`;
  };
  filters.addEventListener("input", DataTable.util.debounce(narrow, 150));
  filters.addEventListener("submit", (event) => event.preventDefault());
  narrow();
}
