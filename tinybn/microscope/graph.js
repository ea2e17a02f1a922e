// The graph: boxes with values and gradients, edges, and strands for what has flowed back.

const PATHS = {
  direct: { name: "direct", dash: "", hatch: "" },
  mean: { name: "through the mean", dash: "9 4", hatch: "M-2,2 l4,-4 M0,8 l8,-8 M6,10 l4,-4" },
  variance: { name: "through the variance", dash: "3 3", hatch: "M-2,6 l4,4 M0,0 l8,8 M6,-2 l4,4" },
  both: { name: "mean, then variance", dash: "10 3 2 3", hatch: "M0,0 l8,8 M0,8 l8,-8" },
  neutral: { name: "before the paths part", dash: "", hatch: "M0,4 h8" },
};

function hatches() {
  const patterns = Object.entries(PATHS).map(([path, { hatch }]) =>
    element("pattern", { id: `hatch-${path}`, width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      element("rect", { width: 8, height: 8, style: `fill: var(--${path})` }),
      element("path", { d: hatch || "M0,0", style: "stroke: var(--paper); stroke-width: 1.6" })));
  return element("defs", {}, ...patterns);
}

// A box per node, in coordinates (u, v): u along the flow, v across it. On a wide screen u is x.
function placed(view, width) {
  const { boxes, nodes } = view;
  const columns = Math.max(...boxes.map((b) => nodes[b].column)) + 1;
  const wide = innerWidth >= 1250 || width / columns >= 112;
  const n = nodes[view.recording.x].value.length;
  const line = n > 8 ? 11 : n > 4 ? 13 : 16;
  const pitch = wide ? Math.min(150, width / columns) : 0;
  const boxWidth = wide ? pitch - (pitch < 110 ? 12 : 20) : Math.min(140, (width - 28) / 2);
  const places = {};
  for (const b of boxes) {
    const rows = Math.max(view.shownNode(b).value.length, 1);
    places[b] = { w: boxWidth, h: 52 + rows * line, rows, line };
  }
  const inRow = (row) => boxes.filter((b) => nodes[b].row === row);
  let height;
  if (wide) {
    const heights = [0, 1].map((row) => Math.max(0, ...inRow(row).map((b) => places[b].h)));
    const middle = [heights[0] / 2 + 4, heights[0] + heights[1] / 2 + 44];
    for (const b of boxes) {
      const p = places[b];
      p.x = nodes[b].column * pitch + (pitch - boxWidth) / 2;
      p.y = middle[nodes[b].row] - p.h / 2;
    }
    height = heights[1] ? heights[0] + heights[1] + 52 : heights[0] + 8;
  } else {
    let y = 4;
    for (let c = 0; c < columns; c++) {
      const here = boxes.filter((b) => nodes[b].column === c);
      const tallest = Math.max(0, ...here.map((b) => places[b].h));
      for (const b of here) {
        places[b].x = nodes[b].row ? Math.min(width, 440) - boxWidth - 4 : 4;
        places[b].y = y + (tallest - places[b].h) / 2;
      }
      y += tallest + 18;
    }
    height = y;
  }
  return { places, wide, height };
}

// The way from box a to box b, shifted by `off`: a path, and where and how its two ends point.
function route(a, b, wide, off) {
  const uv = ({ x, y, w, h }) =>
    wide ? { u: x, v: y, du: w, dv: h } : { u: y, v: x, du: h, dv: w };
  const xy = (u, v) => (wide ? `${u},${v}` : `${v},${u}`);
  const [p, q] = [uv(a), uv(b)];
  const pm = p.v + p.dv / 2 + off, qm = q.v + q.dv / 2 + off;
  const across = Math.abs(pm - qm) > Math.min(p.dv, q.dv) / 2;
  if (across && Math.abs(p.u - q.u) < Math.min(p.du, q.du)) { // a parameter beside its op
    const u = p.u + p.du / 2 + off;
    const [start, end] = p.v > q.v ? [p.v, q.v + q.dv] : [p.v + p.dv, q.v];
    return { d: `M${xy(u, start)} L${xy(u, end)}`, from: [u, start, 0, start - end], to: [u, end, 0, end - start] };
  }
  if (!across) {
    const v = off + (p.dv <= q.dv ? p.v + p.dv / 2 : q.v + q.dv / 2);
    return { d: `M${xy(p.u + p.du, v)} L${xy(q.u, v)}`, from: [p.u + p.du, v, -1, 0], to: [q.u, v, 1, 0] };
  }
  if (pm < qm) { // out to a detour
    const u = p.u + p.du / 2 + off, v = p.v + p.dv;
    return { d: `M${xy(u, v)} C${xy(u, qm)} ${xy(u, qm)} ${xy(q.u, qm)}`, from: [u, v, 0, -1], to: [q.u, qm, 1, 0] };
  }
  if (p.u > q.u) { // a second parameter of one op
    const u = p.u + p.du / 2 + off;
    return { d: `M${xy(u, p.v)} C${xy(u, qm)} ${xy(u, qm)} ${xy(q.u + q.du, qm)}`, from: [u, p.v, 0, 1], to: [q.u + q.du, qm, -1, 0] };
  }
  const u = q.u + q.du / 2 + off, v = q.v + q.dv; // and back
  return { d: `M${xy(p.u + p.du, pm)} C${xy(u, pm)} ${xy(u, pm)} ${xy(u, v)}`, from: [p.u + p.du, pm, -1, 0], to: [u, v, 0, -1] };
}

function arrow([u, v, du, dv], wide, attributes) {
  const size = 5, n = Math.hypot(du, dv) || 1;
  const [a, b] = [(du / n) * size, (dv / n) * size];
  const points = [[u, v], [u - 1.7 * a - b, v - 1.7 * b + a], [u - 1.7 * a + b, v - 1.7 * b - a]];
  return element("path", { d: `M${points.map(([s, t]) => (wide ? [s, t] : [t, s])).join(" L")} Z`, ...attributes });
}

function drawGraph(view, step, hidden) {
  const svg = $("#graph svg"), width = $("#graph").clientWidth;
  if (!width) return; // not laid out yet
  const { places, wide, height } = placed(view, width);
  const now = view.steps[step];
  const event = now.event >= 0 ? view.events[now.event] : null;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  const back = [], edges = [], strands = [], zeros = [];
  view.edges.forEach(({ node, input, from, off }) => {
    const [a, b] = [places[view.box(from)], places[view.box(node)]];
    const current = now.kind === "forward" && view.box(node) === now.node;
    const cls = current ? " current" : "";
    const line = route(a, b, wide, off);
    edges.push(element("path", { d: line.d, class: `edge${cls}` }), arrow(line.to, wide, { class: `head${cls}` }));
    const k = view.events.findIndex((e) => e.node === node && e.input === input);
    if (k < 0 || !view.happened(k, step, hidden)) return;
    const paths = Object.keys(view.events[k].parts);
    const isNow = event === view.events[k] ? " current" : "";
    (paths.length ? paths : ["neutral"]).forEach((path, i, all) => {
      const strand = route(a, b, wide, off + 7 * (i - (all.length - 1) / 2));
      const style = `stroke: var(--${path}); stroke-dasharray: ${PATHS[path].dash || "none"}`;
      const nothing = view.events[k].parts[path]?.every((v) => v === 0);
      const drawn = element("path", { d: strand.d, class: `strand${isNow}${nothing ? " nothing" : ""}`, style, "data-path": path });
      strands.push(drawn);
      if (nothing) zeros.push(drawn);
      if (isNow) strands.push(arrow(strand.from, wide, { style: `fill: var(--${path})` }));
    });
  });
  for (const b of view.boxes) back.push(box(view, b, places[b], step, hidden));
  svg.replaceChildren(hatches(), ...edges, ...strands, ...back);
  for (const strand of zeros) { // a path on which nothing flows says so
    const { x, y } = strand.getPointAtLength(strand.getTotalLength() / 2);
    svg.append(element("text", { class: "zero", x: x + 6, y: y + 5, style: "fill: var(--both)" }, "0"));
  }
}

function box(view, b, { x, y, w, h, rows, line }, step, hidden) {
  const node = view.nodes[b], inner = view.shownNode(b), now = view.steps[step];
  const known = view.hasValue(b, step, hidden);
  const gradient = view.gradientAt(view.shownIndex(b), step, hidden);
  const isNow = now.node >= 0 && view.box(now.node) === b && now.kind !== "end";
  const isTarget = now.event >= 0 && view.box(view.events[now.event].to) === b;
  const cls = [isTarget ? "target" : isNow ? "current" : "", node.op === "constant" ? "constant" : "",
    known ? "" : "future"].join(" ");
  const g = element("g", { class: cls, "data-node": b, role: "img", transform: `translate(${x},${y})` });
  g.append(element("rect", { class: "box", width: w, height: h, rx: 5 }));
  const text = (tx, ty, content, attributes = {}) => g.append(element("text", { x: tx, y: ty, ...attributes }, content));
  text(7, 18, node.symbol, { class: "symbol" });
  const room = (w - 14 - node.symbol.length * 8) / 5;
  if (node.formula !== node.symbol && node.formula.length < room) {
    text(w - 6, 17, node.formula, { class: "formula", "text-anchor": "end" });
  }
  const half = (w - 12) / 2, columns = [6, 6 + half + 2];
  const values = [known ? inner.value : null, node.op === "constant" ? undefined : gradient.array];
  text(columns[0] + half - 3, 31, "value", { class: "small", "text-anchor": "end" });
  if (values[1] !== undefined) text(columns[1] + half - 4, 31, "gradient", { class: "small", "text-anchor": "end" });
  values.forEach((array, c) => {
    if (array === undefined) return;
    const largest = array ? Math.max(...array.map((v) => Math.abs(v) || 0)) || 1 : 1;
    for (let i = 0; i < rows; i++) {
      const top = 35 + i * line, cell = half - 3;
      if (!array) {
        g.append(element("rect", { class: "blank", x: columns[c] + 1, y: top + 1.5, width: cell - 1, height: line - 3 }));
        continue;
      }
      const v = array[i], long = Math.abs(v / largest) * (cell / 2) || 0;
      g.append(element("rect", { class: "bar", x: columns[c] + cell / 2 - (v < 0 ? long : 0), y: top + 1, width: long, height: line - 2 }));
      const small = `font-size: ${half < 42 ? 8.8 : half < 50 ? 9.5 : 10.5}px`;
      text(columns[c] + cell - 1, top + line - 4, shown(v, 4), { "text-anchor": "end", style: small });
    }
  });
  const { waits } = view.nodes[view.shownIndex(b)];
  if (waits) {
    const arrived = waits - gradient.awaited;
    text(w - 7, h - 5, "●".repeat(arrived) + "○".repeat(gradient.awaited), { class: "dots", "text-anchor": "end", style: "font-size: 9px" });
    text(7, h - 5, gradient.awaited ? `waits for ${gradient.awaited}` : "complete", { class: "small" });
  } else if (node.op === "constant") text(7, h - 5, "no gradient", { class: "small" });
  const label = `${node.symbol}${node.formula && node.formula !== node.symbol ? " = " + node.formula : ""}. ` +
    `value ${known ? list(inner.value) : "not computed yet"}. ` +
    (node.op === "constant" ? "A constant." : `gradient ${gradient.array ? list(gradient.array) : "not known yet"}.`);
  g.setAttribute("aria-label", label);
  g.append(element("title", {}, label + (node.code ? `\n${node.code}\n${node.where}` : "")));
  return g;
}
