"use strict";
// Texts of models and data reach the page through textContent alone. Nothing is fetched.
(() => {
  const PAGE = 20;
  const byId = (id) => document.getElementById(id);

  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined && text !== null) node.textContent = text;
    return node;
  }

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

  // The section in view

  const links = new Map([...document.querySelectorAll(".bar nav a[href^='#']")].map((link) => [link.hash.slice(1), link]));
  if ("IntersectionObserver" in window) {
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        links.forEach((link) => link.removeAttribute("aria-current"));
        const link = links.get(entry.target.id);
        if (link && !link.classList.contains("brand")) link.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-20% 0px -70% 0px" });
    document.querySelectorAll("section[id]").forEach((section) => watcher.observe(section));
  }

  // Copying

  async function copy(area, button) {
    area.select();
    let done = false;
    try { await navigator.clipboard.writeText(area.value); done = true; } catch { done = document.execCommand("copy"); }
    const before = button.textContent;
    button.textContent = done ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = before; }, 1500);
  }
  document.querySelectorAll("[data-copy]").forEach((button) => {
    button.addEventListener("click", () => copy(byId(button.dataset.copy), button));
  });

  // Transcripts

  async function load() {
    const held = JSON.parse(byId("data").textContent);
    if (!held.gzip) return held;
    const bytes = Uint8Array.from(atob(held.gzip), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  let data, column, groups, shown = [], page = 0, current = -1;

  function prepare(held) {
    data = held;
    column = Object.fromEntries(data.keys.map((key, number) => [key, number]));
    groups = data.groups;
    for (const group of groups) {
      group.values = group.answers.map((answer) => answer[column.value]).filter((value) => value !== null);
      group.longest = Math.max(0, ...group.answers.map((answer) => answer[column.answer].length));
    }
  }

  function option(select, value, text) {
    const node = make("option", "", text);
    node.value = value;
    select.append(node);
  }

  function words(text) { return text.replaceAll("_", " "); }

  function fill() {
    option(byId("evaluation"), "", "all");
    const parts = new Map();
    for (const group of groups) parts.set(group.evaluation + "/" + group.component, [group.evaluation, group.component]);
    for (const [key, [evaluation, component]] of parts) {
      const first = data.evaluations[evaluation], second = data.components[component];
      option(byId("evaluation"), key, words(first === second ? first : first + " / " + second));
    }
    option(byId("category"), "", "all");
    data.categories.forEach((name, number) => option(byId("category"), number, words(name)));
    for (const [value, text] of [["", "all"], ["differ", "systems differ"], ["unscored", "could not score"], ["cut", "cut off at the limit"]]) {
      option(byId("outcome"), value, text);
    }
    data.labels.forEach((name, number) => option(byId("outcome"), "label:" + number, words(name)));
    if (!data.labels.length) for (const [value, text] of [["best", "all scored 1"], ["worst", "any scored 0"]]) option(byId("outcome"), value, text);
    data.systems.forEach((name, number) => {
      const label = make("label"), box = make("input");
      box.type = "checkbox";
      box.checked = true;
      box.value = number;
      label.append(box, make("bdi", "", name));
      byId("systems").append(label);
    });
  }

  function chosenSystems() {
    return new Set([...byId("systems").querySelectorAll("input:checked")].map((box) => Number(box.value)));
  }

  function needles() {
    return byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  }

  function matches(group, answers, choice, wanted) {
    if (choice.evaluation && group.evaluation + "/" + group.component !== choice.evaluation) return false;
    if (choice.category !== "" && String(group.category) !== choice.category) return false;
    const outcome = choice.outcome;
    if (outcome.startsWith("label:")) {
      const label = Number(outcome.slice(6));
      if (!answers.some((answer) => answer[column.label] === label)) return false;
    } else if (outcome === "differ") {
      if (new Set(answers.map((answer) => answer[column.value])).size < 2) return false;
    } else if (outcome === "unscored") {
      if (!answers.some((answer) => answer[column.value] === null)) return false;
    } else if (outcome === "cut") {
      if (!answers.some((answer) => ["max_tokens", "model_length"].includes(data.stops[answer[column.stop_reason]]))) return false;
    } else if (outcome === "best") {
      if (!answers.every((answer) => answer[column.value] === 1)) return false;
    } else if (outcome === "worst") {
      if (!answers.some((answer) => answer[column.value] === 0)) return false;
    }
    if (!wanted.length) return true;
    const texts = [group.prompt, group.id, ...answers.map((answer) => answer[column.answer])].map((text) => text.toLowerCase());
    return wanted.every((word) => texts.some((text) => text.includes(word)));
  }

  function spread(group) {
    return group.values.length ? Math.max(...group.values) - Math.min(...group.values) : -1;
  }

  function apply() {
    const chosen = chosenSystems(), wanted = needles();
    const choice = { evaluation: byId("evaluation").value, category: byId("category").value, outcome: byId("outcome").value };
    shown = groups.filter((group) => matches(group, group.answers.filter((answer) => chosen.has(answer[column.system])), choice, wanted));
    if (byId("order").value === "spread") shown.sort((a, b) => spread(b) - spread(a));
    if (byId("order").value === "longest") shown.sort((a, b) => b.longest - a.longest);
    page = 0;
    current = -1;
    draw();
  }

  // Marks the words searched for; the text itself stays text.
  function fillText(node, text, wanted) {
    node.textContent = text;
    if (!wanted.length) return;
    const low = text.toLowerCase();
    if (low.length !== text.length) return; // lower case changed the length: positions would be off
    const hits = [];
    for (const word of wanted) {
      for (let at = low.indexOf(word); at >= 0 && hits.length < 500; at = low.indexOf(word, at + word.length)) hits.push([at, at + word.length]);
    }
    hits.sort((a, b) => a[0] - b[0]);
    node.textContent = "";
    let end = 0;
    for (const [from, to] of hits) {
      if (from < end) continue;
      node.append(text.slice(end, from), make("mark", "", text.slice(from, to)));
      end = to;
    }
    node.append(text.slice(end));
  }

  function drawAnswer(answer, wanted, epochs) {
    const node = make("article", "answer");
    const head = make("header");
    const name = make("span", "system");
    name.append(symbol(answer[column.system]), make("bdi", "", data.systems[answer[column.system]]));
    head.append(name);
    if (epochs > 1) head.append(make("small", "", "answer " + answer[column.epoch]));
    const label = answer[column.label];
    if (label !== null) head.append(make("span", "tag", words(data.labels[label])));
    const value = answer[column.value];
    head.append(value === null ? make("span", "score none", "could not score") : make("span", "score", String(Math.round(value * 1000) / 1000)));
    node.append(head);
    if (answer[column.reasoning]) {
      const more = make("details"), text = make("div", "text");
      text.textContent = answer[column.reasoning];
      more.append(make("summary", "", "reasoning, not judged"), text);
      node.append(more);
    }
    const text = make("div", "text");
    text.dir = "auto";
    if (answer[column.answer].trim()) fillText(text, answer[column.answer], wanted);
    else { text.textContent = "(empty answer)"; text.classList.add("empty"); }
    node.append(text);
    const facts = [];
    if (answer[column.reason]) facts.push(answer[column.reason]);
    if (answer[column.tokens] !== null) facts.push(answer[column.tokens] + " tokens");
    if (answer[column.stop_reason] !== null) facts.push("ended: " + words(data.stops[answer[column.stop_reason]]));
    if (answer[column.judge] !== null) facts.push("scored by " + data.judges[answer[column.judge]]);
    node.append(make("footer", "", facts.join(" · ")));
    if (answer[column.trace] !== null) node.append(drawTrace(answer[column.trace]));
    return node;
  }

  // Why an answer was chosen: the tree of the method's notes, made when it is opened.

  const [TITLE, TEXT, FACTS, CHOSEN, BELOW] = [0, 1, 2, 3, 4];

  function drawTrace(trees) {
    const node = make("details", "trace");
    const names = trees.map((tree) => tree[TITLE]).join(", ");
    node.append(make("summary", "", "why this answer" + (names ? ": " + names : "")));
    node.addEventListener("toggle", () => {
      if (!trees.length) node.append(make("p", "more", "Left out of this page, which would grow too large; the study's transcripts hold it."));
      for (const tree of trees) {
        if (tree[FACTS].length) { const facts = make("p", "facts-line"); drawFacts(facts, tree[FACTS]); node.append(facts); }
        if (!tree[BELOW].length) continue;
        const branch = drawBranch(tree[BELOW]);
        node.append(branch);
        if (branch.scrollHeight > branch.clientHeight + 1) branch.tabIndex = 0;
      }
    }, { once: true });
    return node;
  }

  function drawFacts(line, facts) {
    for (const [name, value] of facts) {
      const fact = make("span", "fact");
      fact.append(make("span", "name", name), value === "" ? "" : " ", make("bdi", "", value));
      line.append(fact, " ");
    }
  }

  function drawLine(line, tree) {
    if (tree[CHOSEN]) line.append(make("span", "tick", "✓"), make("span", "vh", "chosen: "));
    if (tree[TITLE] !== null) line.append(make("span", tree[BELOW].length || tree[TEXT] !== null || tree[FACTS].length ? "title" : "more", tree[TITLE]), " ");
    if (tree[TEXT] !== null) line.append(tree[TEXT] === "" ? make("span", "said none", "nothing") : make("bdi", "said", tree[TEXT]), " ");
    drawFacts(line, tree[FACTS]);
  }

  function drawBranch(trees) {
    const list = make("ul", "branch");
    for (const tree of trees) {
      const item = make("li", tree[CHOSEN] ? "chosen" : "");
      if (tree[BELOW].length) {
        const more = make("details"), head = make("summary");
        drawLine(head, tree);
        more.append(head);
        more.addEventListener("toggle", () => more.append(drawBranch(tree[BELOW])), { once: true });
        item.append(more);
      } else drawLine(item, tree);
      list.append(item);
    }
    return list;
  }

  // The systems' marks are copied from the table of legs, whose rows stand in the same order.
  const marks = [...document.querySelectorAll("#legs .legs tbody th .symbol")];
  function symbol(number) {
    return marks[number] ? marks[number].cloneNode(true) : make("span");
  }

  function drawGroup(group, chosen, wanted) {
    const item = make("li", "prompt");
    item.tabIndex = -1;
    const head = make("header");
    const evaluation = data.evaluations[group.evaluation], component = data.components[group.component];
    head.append(make("span", "", words(evaluation === component ? evaluation : evaluation + " / " + component)));
    if (group.category !== null) head.append(make("span", "tag", words(data.categories[group.category])));
    head.append(make("code", "", group.id));
    const text = make("div", "text");
    text.dir = "auto";
    fillText(text, group.prompt, wanted);
    const answers = make("div", "answers");
    const visible = group.answers.filter((answer) => chosen.has(answer[column.system]));
    const epochs = new Set(visible.map((answer) => answer[column.epoch])).size;
    for (const answer of visible) answers.append(drawAnswer(answer, wanted, epochs));
    item.append(head, text, answers);
    return item;
  }

  function draw() {
    const chosen = chosenSystems(), wanted = needles(), pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    byId("list").replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map((group) => drawGroup(group, chosen, wanted)));
    for (const text of byId("list").querySelectorAll(".text")) if (text.scrollHeight > text.clientHeight + 1) text.tabIndex = 0;
    byId("count").textContent = shown.length.toLocaleString("en") + " of " + groups.length.toLocaleString("en") + " prompts";
    byId("page").textContent = "page " + (page + 1) + " of " + pages;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page >= pages - 1;
  }

  function turn(step) {
    const before = page;
    page += step;
    draw();
    if (page === before) return false;
    current = -1;
    byId("transcripts").scrollIntoView();
    return true;
  }

  function step(by) {
    const items = byId("list").children;
    if (!items.length) return;
    if (current + by >= items.length) { if (turn(1)) step(1); return; }
    current = Math.min(Math.max(current + by, 0), items.length - 1);
    items[current].focus({ preventScroll: true });
    items[current].scrollIntoView({ block: "start" });
  }

  function listen() {
    let waiting;
    byId("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(apply, 120); });
    byId("filters").addEventListener("change", (event) => { if (event.target !== byId("search")) apply(); });
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("previous").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
      if (event.key === "Escape" && event.target === byId("search")) { byId("search").value = ""; byId("search").blur(); apply(); return; }
      if (typing) return;
      if (event.key === "/") { event.preventDefault(); byId("search").focus(); byId("transcripts").scrollIntoView(); }
      else if (event.key === "j") step(1);
      else if (event.key === "k") step(-1);
      else if (event.key === "n") turn(1);
      else if (event.key === "p") turn(-1);
    });
    document.querySelectorAll("[data-evaluation]").forEach((link) => link.addEventListener("click", () => {
      const wanted = link.dataset.evaluation + "/" + link.dataset.component;
      const found = [...byId("evaluation").options].find((entry) => {
        const [evaluation, component] = entry.value.split("/").map(Number);
        return entry.value && data.evaluations[evaluation] + "/" + data.components[component] === wanted;
      });
      if (found) { byId("evaluation").value = found.value; apply(); }
    }));
  }

  load().then((held) => { prepare(held); fill(); listen(); apply(); }).catch((error) => {
    byId("count").textContent = "The transcripts could not be unpacked; a browser of 2023 or later can. (" + error + ")";
  });
})();
