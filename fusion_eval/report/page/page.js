"use strict";

/* Sorting: a click on a head sorts by it, best first; another one turns the order round. */
function key(row, column) {
  const cell = row.cells[column];
  const text = cell.textContent.trim();
  return cell.classList.contains("n") ? parseFloat(text) : text;
}

function compare(a, b, sign) {
  if (typeof a === "string") return sign * a.localeCompare(b, "en", { numeric: true });
  if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // not measured: always last
  return sign * (a - b);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.classList.contains("fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turned = { ascending: "descending", descending: "ascending" }[head.ariaSort];
      const order = turned || (head.dataset.first === "down" ? "descending" : "ascending");
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
      rows.sort((a, b) => compare(a[0], b[0], sign));
      table.tBodies[0].append(...rows.map((pair) => pair[1]));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = order;
    });
  });
}

/* Filtering: a row stays if its text, numbers aside, has all words. */
for (const input of document.querySelectorAll("input[data-filters]")) {
  const table = document.getElementById(input.dataset.filters);
  const count = document.querySelector(`output[data-counts="${table.id}"]`);
  const only = input.closest(".tools").querySelector("input[data-only]");
  const rows = [...table.tBodies[0].rows];
  const texts = rows.map((row) =>
    [...row.cells].filter((cell) => !cell.classList.contains("n")).map((cell) => cell.textContent).join(" ").toLowerCase());
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      const wanted = !(only && only.checked) || row.classList.contains(only.dataset.only);
      row.hidden = !(wanted && words.every((word) => texts[index].includes(word)));
      shown += row.hidden ? 0 : 1;
    });
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  };
  input.addEventListener("input", filter);
  if (only) only.addEventListener("change", filter);
  filter();
}

/* One run: #run-3 opens the third. Everything enters the page as text, never as markup. */
function node(name, ...children) {
  const element = document.createElement(name);
  element.append(...children);
  return element;
}

function table(head, rows, style) {
  const made = node("table");
  made.className = style || "";
  if (head.length) made.append(node("thead", node("tr", ...head.map((text, i) => cell("th", text, i > 0)))));
  made.append(node("tbody", ...rows.map((row) => node("tr", ...row.map((text, i) => cell(i ? "td" : "th", text, i > 0 && head.length > 0))))));
  const wide = node("div", made);
  wide.className = "wide";
  return wide;
}

function cell(name, text, number) {
  const made = node(name, text);
  if (number) made.className = "n";
  return made;
}

function shown(pair) {
  if (!pair || pair[0] === null) return "-";
  return pair[0].toFixed(4) + (pair[1] === null ? "" : ` ± ${pair[1].toFixed(4)}`);
}

function section(title, content) {
  return [node("h3", title), content];
}

function details(data, run) {
  const tasks = Object.keys(data.tasks);
  const byLength = [...tasks].sort((a, b) => b.length - a.length); // a.b before a
  const split = (name) => byLength.find((task) => name.startsWith(`${task}.`));
  const names = Object.keys(run.numbers);
  const metrics = [...new Set(names.filter(split).map((name) => name.slice(split(name).length + 1)))];
  const parts = [];
  const about = [];
  if (run.p !== null) about.push(`p = ${run.p.toPrecision(2)} against the best run (Holm-adjusted). `);
  if (run.page) {
    const link = node("a", "Page of this run");
    link.href = run.page;
    about.push(link);
  }
  parts.push(node("p", ...about));
  if (run.warnings.length) {
    parts.push(...section("Warnings", node("ul", ...run.warnings.map((index) => node("li", data.warnings[index])))));
  }
  const own = entries(run.settings);
  if (own.length) parts.push(...section("Settings of its own", table([], own, "facts")));
  parts.push(...section("Tasks", table(["", ...metrics],
    tasks.map((task) => [task, ...metrics.map((metric) => shown(run.numbers[`${task}.${metric}`]))]))));
  parts.push(...section("Aggregates", table(["", "value"], names.filter((name) => !split(name)).map((name) => [name, shown(run.numbers[name])]), "pairs")));
  parts.push(...section("Provenance", table([], entries({ ...data.origin, ...run.origin }), "facts")));
  parts.push(node("details", node("summary", "Settings common to all runs"), table([], entries(data.settings), "facts")));
  return parts;
}

function entries(settings) {
  return Object.entries(settings).map(([name, value]) => [name, String(value)]);
}

const dialog = document.getElementById("run");
if (dialog) {
  const data = JSON.parse(document.getElementById("details").textContent);
  const open = () => {
    const found = /^#run-(\d+)$/.exec(location.hash);
    const run = found && data.runs[found[1] - 1];
    if (!run) return dialog.close();
    const title = node("h2", run.label);
    title.id = "run-title";
    document.getElementById("run-body").replaceChildren(title, ...details(data, run));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };
  dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  window.addEventListener("hashchange", open);
  open();
}
