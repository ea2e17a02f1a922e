// What stands below the graph: this step in numbers, the piles, the paths, the check, the program.

const zero = (array) => (array.every((v) => v === 0) ? "zero" : undefined);

const key = (path) => {
  const svg = element("svg", { class: "key", "aria-hidden": "true", viewBox: "0 0 24 12" });
  svg.append(element("rect", { width: 24, height: 12, style: `fill: url(#hatch-${path})` }));
  return svg;
};

function pathName(view, path) {
  const rms = view.recording.norm === "rms" && path === "variance";
  return rms ? "through the mean square" : PATHS[path].name;
}

function drawNow(view, step, hidden) {
  const now = view.steps[step], node = view.nodes[now.node];
  const phases = { start: "start", forward: "forward pass", seed: "turning round", backward: "backward pass", end: "done" };
  $("#phase").textContent = phases[now.kind];
  $("#title").textContent = now.title;
  $("#say").textContent = hidden ? "" : now.say;
  const numbers = $("#numbers");
  numbers.replaceChildren();
  $("#await").textContent = "";
  const where = [];
  if (hidden) {
    const what = now.kind === "forward"
      ? `What is ${node.symbol}?`
      : `What does ${node.symbol} add to the gradient of ${view.nodes[view.events[now.event].to].symbol}? First the sign, then the size.`;
    const button = element("button", { type: "button", id: "reveal" }, "show the answer");
    button.onclick = () => player.next();
    numbers.append(element("p", { class: "ask" }, `Predict: ${what} `, button));
  }
  if (now.kind === "start") numbers.append(table(view, [["x", view.nodes[view.recording.x].value]]));
  if (now.kind === "forward") {
    const inputs = [...new Set(node.inputs)].filter((i) => i >= 0).map((i) => [view.nodes[i].symbol, view.nodes[i].value]);
    const value = view.shownNode(now.node).value;
    numbers.append(table(view, [...inputs, [node.symbol, hidden ? value.map(() => "?") : value, "adds"]]));
    where.push([node.code, node.where]);
  }
  if (now.kind === "seed") numbers.append(table(view, [[`gradient of ${node.symbol}`, view.recording.seed, "adds"]]));
  if (now.kind === "backward") {
    const event = view.events[now.event], to = view.nodes[event.to];
    drawEvent(view, event, hidden, numbers);
    if (event.awaited && !hidden) $("#await").textContent = `Before ${to.symbol} can go on, it waits for: ${view.awaitedFrom(now.event).join(", ")}.`;
    if (event.rule) where.push([event.rule, event.rule_where]);
  }
  $("#where").replaceChildren(...where.flatMap(([code, place]) => [element("code", {}, code), place]));
}

function drawEvent(view, event, hidden, numbers) {
  const to = view.nodes[event.to];
  const mask = (array) => (hidden ? array.map(() => "?") : array);
  const columns = [["upstream", event.upstream]];
  if (event.is_matrix) {
    const size = event.value.length, rows = event.upstream.length;
    const cells = Array.from({ length: rows }, (_, i) => element("tr", {}, ...event.local.slice(i * size, (i + 1) * size).map((v) => element("td", {}, shown(v, 4)))));
    const sum = table(view, [["adds", mask(event.value), "adds"]], false);
    numbers.append(element("div", { class: "matrix-row" }, table(view, columns), "×", element("table", { class: "matrix" }, ...cells), "=", sum),
      element("p", {}, `The matrix is ∂y/∂${to.symbol}: a row for each y, a column for each ${to.symbol}.`));
    return;
  }
  columns.push(["× local", event.local]);
  if (event.terms) columns.push(["= products", mask(event.terms)]);
  columns.push([event.terms ? "Σ adds" : "= adds", mask(event.value), "adds"]);
  const parts = Object.entries(event.parts);
  const split = parts.length > 1 && !hidden;
  const few = view.recording.labels.length <= 4;
  if (split && !event.terms && !few) {
    parts.forEach(([path, value], i) => columns.push([`${i ? "+" : "="} ${pathName(view, path)}`, value, zero(value), path]));
  }
  numbers.append(table(view, columns));
  if (!split || !(event.terms || few)) return;
  const upstream = Object.values(event.upstream_parts);
  const items = parts.map(([path, value], i) => {
    const sum = upstream[i].map((v) => shown(v)).join(" + ").replaceAll("+ −", "− ");
    const text = event.terms ? `${shown(event.local[0])} × (${sum}) = ${list(value)}` : list(value);
    return element("li", {}, key(path), `${pathName(view, path)}: `,
      element("span", { class: `numbers ${zero(value) ?? ""}` }, text), zero(value) ? " exactly 0" : "");
  });
  numbers.append(element("ul", { "aria-label": "by path" }, ...items));
}

// Columns of numbers: one row per value; a single number stands in the middle of its column.
function table(view, columns, labelled = true) {
  const rows = Math.max(...columns.map(([, array]) => array.length));
  const labels = labelled && rows === view.recording.labels.length ? view.recording.labels : [];
  const head = element("tr", {}, ...(labels.length ? [element("th", {})] : []), ...columns.map(([title, , , path]) => element("th", { scope: "col" }, ...(path ? [key(path), element("br")] : []), title)));
  const body = Array.from({ length: rows }, (_, i) => {
    const cells = columns.flatMap(([, array, cls]) => {
      if (array.length === rows) return [element("td", { class: cls }, shown(array[i]))];
      return i ? [] : [element("td", { class: cls, rowspan: rows }, shown(array[0]))];
    });
    return element("tr", {}, ...(labels.length ? [element("th", { scope: "row" }, labels[i])] : []), ...cells);
  });
  return element("table", {}, head, ...body);
}

// Signed bars, one row per value: what has arrived at a gradient, and its sum.
function pile(view, index, step, hidden, ghost) {
  const arrived = view.events.filter((e, k) => e.to === index && view.happened(k, step, hidden));
  const all = view.events.filter((e) => e.to === index);
  const parts = (e) => (Object.keys(e.parts).length ? Object.entries(e.parts) : [["neutral", e.value]]);
  const n = view.nodes[index].value.length, line = n > 4 ? 17 : 26, left = n === 1 ? 8 : 92;
  const width = Math.min(520, $("#piles").clientWidth || 420);
  const stack = (events, i) => {
    let up = 0, down = 0;
    return events.flatMap((e) => parts(e).map(([path, value]) => {
      const v = Number(value[i]) || 0, start = v < 0 ? (down += v) : (up += v) - v;
      return { path, start, size: Math.abs(v), event: e, low: down, high: up };
    }));
  };
  const ends = Array.from({ length: n }, (_, i) => stack(all, i)).flat().flatMap((s) => [s.low, s.high]);
  if (ghost) ends.push(...ghost);
  const low = Math.min(0, ...ends), high = Math.max(0, ...ends), span = high - low || 1;
  const x = (v) => left + 6 + ((v - low) / span) * (width - left - 92);
  const svg = element("svg", { viewBox: `0 0 ${width} ${n * line + 6}`, width, height: n * line + 6, role: "img" });
  const total = view.gradientAt(index, step, hidden).array;
  const asked = hidden && view.events[view.steps[step].event]?.to === index;
  for (let i = 0; i < n; i++) {
    const y = 3 + i * line, middle = y + line / 2;
    if (n > 1) svg.append(element("text", { x: left - 4, y: middle + 4, "text-anchor": "end", class: "small" }, view.recording.labels[i] ?? ""));
    for (const s of stack(arrived, i)) {
      if (s.size === 0) continue;
      const isNow = view.steps[step].event >= 0 && view.events[view.steps[step].event] === s.event;
      svg.append(element("rect", { class: `segment${isNow ? " current" : ""}`, x: x(s.start), y: y + 3, width: Math.max(x(s.start + s.size) - x(s.start), 0.5), height: line - 6, style: `fill: url(#hatch-${s.path})`, "data-path": s.path }));
    }
    svg.append(element("line", { class: "axis", x1: x(0), x2: x(0), y1: y, y2: y + line }));
    if (ghost) svg.append(element("rect", { class: "ghost", x: x(ghost[i]) - 3, y: y + 1, width: 6, height: line - 2 }));
    if (total) svg.append(element("line", { class: "tick", x1: x(total[i]), x2: x(total[i]), y1: y + 1, y2: y + line - 1 }));
    svg.append(element("text", { x: width - 2, y: middle + 4, "text-anchor": "end", class: "total" }, total ? shown(total[i]) : asked ? "?" : ""));
  }
  const { symbol } = view.nodes[index];
  svg.setAttribute("aria-label", `gradient of ${symbol}: ${total ? list(total) : "blank"}`);
  return [element("h3", {}, `gradient of ${symbol}${total ? "" : ": blank"}`), svg];
}

function drawPiles(view, step, hidden, ghost) {
  const now = view.steps[step], x = view.recording.x;
  const to = now.event >= 0 ? view.events[now.event].to : -1;
  $("#pile-now").replaceChildren(...(to >= 0 && to !== x ? pile(view, to, step, hidden) : []));
  $("#pile-x").replaceChildren(...pile(view, x, step, hidden, hidden ? undefined : ghost));
}

function drawPaths(view, step, hidden) {
  const { recording } = view, x = recording.x;
  const sofar = view.lastEvent(x, step, hidden);
  const total = view.gradientAt(x, step, hidden);
  const known = view.steps[step].kind === "end";
  const cells = (array) => recording.labels.map((_, i) => element("td", {}, array ? shown(array[i]) : ""));
  const row = (head, array, cls) => element("tr", { class: cls }, element("th", { scope: "row" }, ...head), ...cells(array));
  const rows = Object.keys(recording.paths).map((path) => {
    const array = sofar?.by_path[path];
    const tr = row([key(path), pathName(view, path)], array, path === "both" && array ? zero(array) : undefined);
    tr.dataset.path = path;
    return tr;
  });
  rows.push(row(["gradient of x"], total.array, "sum"), row([recording.check.reference], known ? recording.check.other : null),
    row(["finite difference"], known ? recording.check.differences : null));
  const head = element("tr", {}, element("th", {}), ...recording.labels.map((l) => element("th", { scope: "col" }, l)));
  $("#paths table").replaceChildren(head, ...rows);
  $("main").classList.toggle("many", recording.labels.length > 4);
  const { check } = recording;
  const shape = `(${check.shape.join(", ")}${check.shape.length === 1 ? "," : ""})`;
  $("#check").textContent = !known
    ? "check: after the last step."
    : `check: ${check.same_shape ? "✔" : "✘"} shape ${shape} · ${check.reference}: max diff ${shown(check.off[0])} · ` +
      `finite difference: max diff ${shown(check.differences_off[0])} · Σ dx = ${list(check.sum)} · x̂·dx = ${list(check.along)}`;
}

function drawProgram(view, step) {
  const ol = $("#program ol");
  if (ol.view !== view) {
    ol.view = view;
    ol.replaceChildren(...view.recording.program.map((text, i) => {
      const at = view.steps.findIndex((s, k) => k && s.lines.includes(i));
      const li = element("li", at < 0 ? {} : { "data-step": at }, text.replace(/^ {4}/, "  "));
      if (at >= 0) li.onclick = () => player.go(at);
      return li;
    }));
  }
  const current = view.steps[step].lines;
  [...ol.children].forEach((li, i) => {
    li.classList.toggle("current", current.includes(i));
    li.classList.toggle("done", Number(li.dataset.step) <= step || i === 0);
    if (current.includes(i)) li.setAttribute("aria-current", "step");
    else li.removeAttribute("aria-current");
  });
  const first = ol.children[Math.min(...current)];
  if (first) ol.scrollTop = first.offsetTop - ol.offsetTop - ol.clientHeight / 3;
}

function drawEverything(view, step, hidden) {
  const head = element("tr", {}, ...["", "formula", "value", "gradient"].map((t) => element("th", { scope: "col" }, t)));
  const rows = view.boxes.map((b) => {
    const node = view.nodes[b], gradient = view.gradientAt(view.shownIndex(b), step, hidden);
    const known = view.hasValue(b, step, hidden);
    return element("tr", {}, element("th", { scope: "row" }, node.symbol), element("td", {}, node.formula),
      element("td", {}, known ? list(view.shownNode(b).value) : "not computed yet"),
      element("td", {}, node.op === "constant" ? "a constant" : gradient.array ? list(gradient.array) : "not known yet"));
  });
  $("#everything table").replaceChildren(head, ...rows);
}
