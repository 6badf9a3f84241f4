"use strict";
// Sort and filter the rows of a table; a filter also applies to the pictures of the rows.
const table = document.querySelector("table.rows");
const controls = document.querySelector(".controls");
const [search, group] = controls.querySelectorAll("input");
const status = controls.querySelector("[role=status]");
const groups = [...table.tBodies].map((body) => ({ body, rows: [...body.querySelectorAll("[data-row]")] }));
const all = groups.flatMap(({ rows }) => rows);
const families = Object.fromEntries(all.map(({ dataset }) => [dataset.row, dataset.family]));
let order = { column: null, sign: 1 };

function value(row) {
  const cell = row.cells[order.column];
  if (order.column === 0) return row.dataset.row;
  return "value" in cell.dataset ? Number(cell.dataset.value) : parseFloat(cell.textContent.replaceAll(",", ""));
}

function compare(a, b) {
  if (order.column === null) return all.indexOf(a) - all.indexOf(b);
  const [x, y] = [value(a), value(b)];
  if (typeof x === "string") return order.sign * x.localeCompare(y);
  if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // rows without a figure stand last
  return order.sign * (x - y);
}

function show() {
  const text = search.value.trim().toLowerCase();
  const matches = (name) => `${name} ${families[name]}`.toLowerCase().includes(text);
  for (const element of document.querySelectorAll("[data-row]"))
    if (element.dataset.row in families) element.hidden = !matches(element.dataset.row);
  groups.forEach(({ body, rows }, number) => {
    const here = group.checked ? rows : number === 0 ? all : [];
    body.append(...[...here].sort(compare));
    for (const heading of body.querySelectorAll(".family"))
      heading.hidden = !group.checked || rows.every((row) => row.hidden);
  });
  const shown = all.filter((row) => !row.hidden).length;
  status.textContent = shown < all.length ? `${shown} of ${all.length} rows` : `${all.length} rows`;
  [...table.tHead.rows[0].cells].forEach((cell, number) => {
    const direction = order.sign > 0 ? "ascending" : "descending";
    if (number === order.column) cell.setAttribute("aria-sort", direction);
    else cell.removeAttribute("aria-sort");
  });
}

[...table.tHead.rows[0].cells].forEach((cell, number) => {
  const button = document.createElement("button");
  button.append(cell.textContent || "row");
  cell.replaceChildren(button);
  button.addEventListener("click", () => {
    const first = number === 0 ? 1 : -1; // names from A, figures from the highest
    order = { column: number, sign: order.column === number ? -order.sign : first };
    show();
  });
});
search.addEventListener("input", show);
group.addEventListener("change", show);
controls.hidden = false;
show();
