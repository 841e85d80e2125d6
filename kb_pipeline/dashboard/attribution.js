"use strict";
// Adds what needs a script: headings that sort and a field that filters. The page is whole without it.
for (const table of document.querySelectorAll("table.data")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const numeric = (row, at) => {
    const value = parseFloat(row.cells[at].textContent.replaceAll("\u2212", "-").replaceAll(",", ""));
    return Number.isNaN(value) ? null : value;
  };
  const compare = (at, isNumber, sign) => (one, other) => {
    if (!isNumber) return sign * one.cells[at].textContent.localeCompare(other.cells[at].textContent);
    const [a, b] = [numeric(one, at), numeric(other, at)];
    if (a === null || b === null) return (a === null) - (b === null); // unknown stays last
    return sign * (a - b);
  };
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, at) => {
    if (rows.length < 2 || heading.classList.contains("chart")) return;
    const isNumber = heading.classList.contains("number");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.dataset.name = button.textContent; // for print: a browser does not repeat buttons on the next page
    button.addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const next = (before || (isNumber ? "ascending" : "descending")) === "ascending" ? "descending" : "ascending";
      headings.forEach((it) => it.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", next);
      body.append(...rows.sort(compare(at, isNumber, next === "ascending" ? 1 : -1)));
    });
  });
  if (rows.length < 6) continue;
  const label = document.createElement("label");
  const field = Object.assign(document.createElement("input"), { type: "search", autocomplete: "off" });
  const count = document.createElement("output");
  const line = document.createElement("p");
  line.className = "filter";
  label.append("Filter ", field);
  field.setAttribute("aria-label", `Filter: ${table.caption.textContent}`);
  line.append(label, count);
  table.parentElement.before(line);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}
