// The gradient ladder: one line per norm, which grows from the last layer to the first.

const ARMS = {
  none: { name: "no norm", dash: "7 4", mark: "M-4,-4 h8 v8 h-8 Z" },
  layer: { name: "layer norm", dash: "9 3 2 3", mark: "M0,-5 L5,4 L-5,4 Z" },
  batch: { name: "batch norm", dash: "", mark: "M-4,0 a4,4 0 1,0 8,0 a4,4 0 1,0 -8,0" },
};
let ladder, player;

function draw(step, hidden) {
  const svg = $("#graph svg"), width = $("#graph").clientWidth, height = Math.min(420, Math.max(280, width * 0.42));
  if (!width) return;
  const { depth, arms, theory } = ladder;
  const line = (k) => theory[0] ** (depth - 1 - k);
  const all = arms.flatMap((arm) => arm.norms).filter((v) => v > 0);
  const lows = [...all, 0.5], highs = [...all, 2, ...(theory ? [line(0)] : [])];
  const low = Math.floor(Math.log10(Math.min(...lows))), high = Math.ceil(Math.log10(Math.max(...highs)));
  const x = (k) => 52 + (k / (depth - 1)) * (width - 70);
  const y = (v) => 14 + ((high - Math.log10(v)) / (high - low)) * (height - 60);
  const shownFrom = depth - step + (hidden ? 1 : 0); // the lowest layer reached, from 0
  const parts = [];
  const every = Math.ceil((high - low) / 8);
  for (let e = low; e <= high; e += every) {
    parts.push(element("line", { class: "edge", x1: 46, x2: width - 10, y1: y(10 ** e), y2: y(10 ** e) }),
      element("text", { x: 40, y: y(10 ** e) + 4, "text-anchor": "end" }, e === 0 ? "1" : `1e${e}`.replace("-", "−")));
  }
  for (let k = 0; k < depth; k += width < 500 && k ? 5 : k ? 1 : width < 500 ? 4 : 1) {
    parts.push(element("text", { x: x(k), y: height - 26, "text-anchor": "middle" }, String(k + 1)));
  }
  parts.push(element("text", { class: "small", x: width - 10, y: height - 8, "text-anchor": "end" }, "hidden layer; the backward pass goes from right to left"));
  const path = (f, from) => Array.from({ length: depth - from }, (_, i) => `${i ? "L" : "M"}${x(from + i)},${y(f(from + i))}`).join(" ");
  if (theory) parts.push(element("path", { class: "axis", fill: "none", d: path(line, 0) }));
  if (shownFrom < depth) {
    parts.push(element("line", { class: "axis", "stroke-dasharray": "2 3", x1: x(shownFrom), x2: x(shownFrom), y1: 10, y2: height - 42 }));
    for (const arm of arms) {
      const { dash, mark } = ARMS[arm.norm], color = `var(--arm-${arm.norm})`;
      const style = `stroke: ${color}; stroke-dasharray: ${dash || "none"}`;
      if (arm.norms.every((v) => v > 0)) parts.push(element("path", { class: "strand", d: path((k) => arm.norms[k], shownFrom), style }));
      for (let k = shownFrom; k < depth; k++) {
        if (!(arm.norms[k] > 0)) continue;
        parts.push(element("path", { d: mark, transform: `translate(${x(k)},${y(arm.norms[k])})`, style: `fill: ${color}`, "data-arm": arm.norm, "data-layer": k + 1 }));
      }
    }
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.setAttribute("width", width);
  svg.replaceChildren(...parts);
}

function tell(step, hidden) {
  const { depth, arms } = ladder, k = depth - step, last = step === depth;
  $("#phase").textContent = step ? "backward pass" : "start";
  $("#title").textContent = step ? `hidden layer ${k + 1} of ${depth}` : "Nothing has flowed back yet";
  const switched = { relu: "ReLU", tanh: "tanh", sigmoid: "sigmoid" }[ladder.activation];
  let said = `${depth} hidden layers of ${ladder.width} units, ${switched}, ${ladder.batch} digits. The gradients are blank: nobody knows them yet.`;
  if (step === 1) said = "Here the gradient arrives: random numbers. Call its norm 1.";
  if (step > 1) said = "How large the gradient of this layer's output is, and how many times as large as in the layer above.";
  if (last) said = "The first hidden layer. From the last layer to here, the gradient was multiplied per layer by the numbers in the last column.";
  $("#say").textContent = said;
  const numbers = $("#numbers");
  numbers.replaceChildren();
  if (hidden) {
    const button = element("button", { type: "button", id: "reveal" }, "show the answer");
    button.onclick = () => player.next();
    numbers.append(element("p", { class: "ask" }, "Predict: which of the three grow, which shrink? ", button));
  } else if (step) {
    const heads = ["", "norm", ...(step > 1 ? ["× layer above"] : []), ...(last ? ["mean factor"] : [])];
    const rows = arms.map((arm) => element("tr", { "data-arm": arm.norm },
      element("th", { scope: "row" }, key(arm.norm), ARMS[arm.norm].name),
      element("td", { class: "adds" }, shown(arm.norms[k])),
      ...(step > 1 ? [element("td", {}, shown(arm.factors[k], 4))] : []),
      ...(last ? [element("td", {}, shown(arm.growth[0], 4))] : [])));
    numbers.append(element("table", {}, element("tr", {}, ...heads.map((t) => element("th", { scope: "col" }, t))), ...rows));
    if (last && ladder.theory) numbers.append(element("p", {}, `Theory for batch norm and ReLU, infinitely wide: × ${shown(ladder.theory[0], 4)} per layer.`));
  }
  const values = hidden || !step ? "" : arms.map((arm) => `${ARMS[arm.norm].name} ${shown(arm.norms[k])}`).join(", ");
  $("#live").textContent = `Step ${step} of ${depth}. ${$("#title").textContent}. ${values || said}`;
}

const key = (norm) => element("svg", { class: "key", viewBox: "0 0 24 12", "aria-hidden": "true" },
  element("line", { x1: 0, x2: 24, y1: 6, y2: 6, class: "strand", style: `stroke: var(--arm-${norm}); stroke-dasharray: ${ARMS[norm].dash || "none"}` }),
  element("path", { d: ARMS[norm].mark, transform: "translate(12,6)", style: `fill: var(--arm-${norm})` }));

function render(step, hidden) {
  draw(step, hidden);
  tell(step, hidden);
  remember(step);
}

function choose() {
  ladder = unfolded(chosen().join("/"));
  player.count = ladder.depth + 1;
  const about = Object.entries(ladder.provenance).map(([k, v]) => (k === "command" ? v : `${k} ${v}`));
  $("#provenance").textContent = `Recorded, not computed here: ${about.join(" · ")}`;
  player.go(player.at);
}

begin(() => {
  player = new Player(render);
  player.canAsk = (step) => step > 0;
  const step = ask(choose);
  choose();
  player.go(step);
  $("#pathkeys").replaceChildren(...Object.keys(ARMS).flatMap((norm) => [key(norm), ARMS[norm].name, element("br")]));
  new ResizeObserver(() => draw(player.at, player.hidden)).observe($("#graph"));
  $("#predict").onchange = () => player.go(player.at);
});
