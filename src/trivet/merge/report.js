"use strict";
// Sorts and filters the table of tensors and switches colours. Nothing is fetched, nothing is parsed as HTML.
(() => {
  const byId = (id) => document.getElementById(id);

  // Colours

  const themes = [["auto", "◐", "as the system"], ["light", "☀", "light"], ["dark", "☾", "dark"]];
  let theme = 0;
  function showTheme() {
    const [name, sign, words] = themes[theme];
    if (name === "auto") document.documentElement.removeAttribute("data-theme");
    else document.documentElement.dataset.theme = name;
    byId("theme").textContent = sign;
    byId("theme").setAttribute("aria-label", "Colours: " + words);
    byId("theme").title = "Colours: " + words;
  }
  function remembered() {
    try { return localStorage.getItem("trivet-theme"); } catch { return null; }
  }
  theme = Math.max(0, themes.findIndex(([name]) => name === remembered()));
  showTheme();
  byId("theme").addEventListener("click", () => {
    theme = (theme + 1) % themes.length;
    try { localStorage.setItem("trivet-theme", themes[theme][0]); } catch { /* not kept, then */ }
    showTheme();
  });

  // The table. A browser lays out some hundreds of rows at once, so that many thousands stay usable.

  const SHOWN = 500;
  let limit = SHOWN;
  const body = byId("table").tBodies[0];
  const heads = [...byId("table").tHead.rows[0].cells];
  const rows = [...body.rows].map((node, place) => ({
    node, place, text: node.textContent.toLowerCase(), warned: node.classList.contains("warned"),
  }));

  function filter() {
    const wanted = byId("search").value.trim().toLowerCase().split(/\s+/);
    let found = 0;
    for (const row of rows) {
      const fits = wanted.every((word) => row.text.includes(word)) && (row.warned || !byId("warned").checked);
      if (fits) found += 1;
      row.node.hidden = !fits || found > limit;
    }
    byId("count").textContent = `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")} tensors`;
    byId("more").hidden = found <= limit;
    byId("more").textContent = `The first ${limit} are shown: show all`;
  }

  const compare = new Intl.Collator("en", { numeric: true }).compare;
  function keyOf(row, column) {
    const cell = row.node.cells[column];
    if (column < 2) return cell.textContent;
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  }

  // A column goes from ascending to descending and back to the order of the model; what has no number is last.
  function sort(column) {
    const before = heads[column].getAttribute("aria-sort");
    const order = { none: "ascending", ascending: "descending", descending: "none" }[before];
    heads.forEach((head) => { if (head.hasAttribute("aria-sort")) head.setAttribute("aria-sort", "none"); });
    heads[column].setAttribute("aria-sort", order);
    if (order === "none") rows.sort((a, b) => a.place - b.place);
    else {
      const keys = new Map(rows.map((row) => [row, keyOf(row, column)]));
      const sign = order === "ascending" ? 1 : -1;
      rows.sort((a, b) => {
        const [one, two] = [keys.get(a), keys.get(b)];
        if (one === null || two === null) return (one === null) - (two === null) || a.place - b.place;
        const difference = typeof one === "string" ? compare(one, two) : one - two;
        return sign * difference || a.place - b.place;
      });
    }
    body.append(...rows.map((row) => row.node));
    filter();
  }

  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", () => sort(column));
  });
  byId("more").addEventListener("click", () => { limit = Infinity; filter(); });
  byId("search").addEventListener("input", filter);
  byId("warned").addEventListener("change", filter);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && document.activeElement !== byId("search")) {
      event.preventDefault();
      byId("search").focus();
    } else if (event.key === "Escape" && document.activeElement === byId("search")) {
      byId("search").value = "";
      filter();
    }
  });
  filter();  // a browser may have kept what was typed before
  rows.forEach((row) => row.node.classList.remove("late"));
})();
