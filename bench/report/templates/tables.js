const all = (selector, from) => Array.from((from || document).querySelectorAll(selector));

const compareValues = (sign) => (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === "");  // empty cells last
  if (isFinite(a) && isFinite(b)) return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
};
DataTable.ext.type.order["valued-asc"] = compareValues(1);
DataTable.ext.type.order["valued-desc"] = compareValues(-1);

const dataTables = new Map();
const createDataTable = (table) => {
  const headers = all("thead th", table);
  const sorted = headers.findIndex((header) => header.hasAttribute("aria-sort"));
  const descending = sorted >= 0 && headers[sorted].getAttribute("aria-sort") === "descending";
  // Not "data-searchable": DataTables reads that attribute, and takes "" for false.
  const searchable = headers.findIndex((header) => header.hasAttribute("data-filtered"));
  const highestFirst = headers.flatMap((header, i) => header.dataset.best === "highest" ? [i] : []);
  const layout = { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null };
  const dataTable = new DataTable(table, {
    autoWidth: false, paging: false, orderClasses: false, layout,
    order: sorted < 0 ? [] : [[sorted, descending ? "desc" : "asc"]],
    columnDefs: [
      { targets: searchable < 0 ? [] : [searchable], searchable: true },
      { targets: highestFirst, orderSequence: ["desc", "asc"] },  // the first click puts the best row first
      { targets: "_all", type: "valued", searchable: false, orderSequence: ["asc", "desc"] },
    ],
    language: { zeroRecords: "", emptyTable: "" },
  });
  dataTables.set(table, dataTable);
};
all("table.sortable").forEach(createDataTable);

const filters = document.getElementById("filters");
if (filters) {
  filters.hidden = false;
  const groups = all(".group[data-dataset]").map((group) => [
    group, dataTables.get(group.querySelector("table")),
  ]);
  const applyFilters = () => {
    const selects = all("select", filters);
    let count = 0;
    for (const [group, table] of groups) {
      const matches = selects.every(({ name, value }) => !value || group.dataset[name] === value);
      if (matches) table.search(filters.elements.text.value).draw();
      const rows = matches ? table.page.info().recordsDisplay : 0;
      group.hidden = rows === 0;
      count += rows;
    }
    document.getElementById("none").hidden = count > 0;
    const undrawn = document.getElementById("undrawn");
    if (undrawn) undrawn.hidden = count === 0;
    document.getElementById("count").textContent = `${count} of ${filters.getAttribute("data-rows")} rows`;
  };
  filters.addEventListener("input", DataTable.util.debounce(applyFilters, 150));
  filters.addEventListener("submit", (event) => event.preventDefault());
  applyFilters();
}
