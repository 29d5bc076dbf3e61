"use strict";
// The soft labels are mixed here, from labels and stored maps, as geols_precompute/softlabel.py does.

const report = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const C = report.classes.length, IGNORE = 255;
const AXES = "zyx";
const METHODS = ["one-hot", "LS", "SVLS", "GeoLS"];
// Okabe and Ito's colours, which do not depend on red and green being told apart; the background is grey
const COLOURS = ["#999999", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442"];
const VIRIDIS = ["440154", "48186a", "472d7b", "424086", "3b528b", "33638d", "2c728e", "26828e", "21918c", "1fa088",
  "28ae80", "3fbc73", "5ec962", "84d44b", "addc30", "d8e219", "fde725"]
  .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const SVLS_KERNEL = svlsKernel();
const state = { case: 0, cuts: [], cursor: { cut: 0, row: 0, column: 0 } };

// --- mixing -------------------------------------------------------------------------------------------------------

function colourOf(index) { return index === 0 ? COLOURS[0] : COLOURS[1 + (index - 1) % (COLOURS.length - 1)]; }

function svlsKernel() {
  const weights = [];
  for (let z = -1; z < 2; z++) for (let y = -1; y < 2; y++) for (let x = -1; x < 2; x++)
    weights.push(Math.exp(-(z * z + y * y + x * x) / 2));
  const others = weights.reduce((a, b) => a + b) - weights[13];
  weights[13] = others;
  return weights.map((w) => w / (2 * others));
}

function labelAt(cut, row, column) { return cut.labels[(cut.H + 2 + row + 1) * (cut.W + 2) + column + 1]; }

function classMaps(cut, row, column) {
  const g = new Float64Array(C), at = row * cut.W + column;
  report.channels.forEach((index, k) => { if (cut.present.has(index)) g[index] = cut.maps[k * cut.H * cut.W + at] / 255; });
  if (!report.channels.includes(0)) {
    let sum = 0, count = 0;
    for (const index of cut.present) if (index) { sum += g[index]; count += 1; }
    g[0] = count ? 1 - sum / count : 1;
  }
  return g;
}

function softLabel(method, cut, row, column, alpha, normalize) {
  const label = labelAt(cut, row, column), y = new Float64Array(C);
  if (label === IGNORE) return y;
  if (method === "SVLS") return svls(cut, row, column);
  y[label] = 1;
  if (method === "LS") return y.map((p) => (1 - alpha) * p + alpha / C);
  if (method === "GeoLS") {
    const g = classMaps(cut, row, column), total = g.reduce((a, b) => a + b);
    if (total === 0) return y;
    return y.map((p, c) => (1 - alpha) * p + alpha * (normalize ? g[c] / total : g[c]));
  }
  return y;
}

function svls(cut, row, column) {
  const y = new Float64Array(C), plane = (cut.H + 2) * (cut.W + 2);
  let total = 0, k = 0;
  for (let z = 0; z < 3; z++) for (let dy = 0; dy < 3; dy++) for (let dx = 0; dx < 3; dx++, k++) {
    const label = cut.labels[z * plane + (row + dy) * (cut.W + 2) + column + dx];
    if (label !== IGNORE) { y[label] += SVLS_KERNEL[k]; total += SVLS_KERNEL[k]; }
  }
  return total > 0 ? y.map((p) => p / total) : y;
}

// --- pictures -----------------------------------------------------------------------------------------------------

async function unpack(cut, present) {
  const bytes = Uint8Array.from(atob(cut.data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const all = new Uint8Array(await new Response(stream).arrayBuffer());
  const [H, W] = cut.size, M = report.modalities.length, K = report.channels.length;
  return {
    ...cut, H, W, present: new Set(present), images: all.subarray(0, M * H * W),
    maps: all.subarray(M * H * W, (M + K) * H * W), labels: all.subarray((M + K) * H * W),
  };
}

function quantityAt(method, cut, row, column) {
  const index = Number($("class").value);
  if ($("quantity").value === "map") return classMaps(cut, row, column)[index];
  const y = softLabel(method, cut, row, column, Number($("alpha").value), $("normalize").checked);
  if ($("quantity").value === "class") return y[index];
  const label = labelAt(cut, row, column);
  if (label === IGNORE) return 0;
  let other = 0;
  for (let c = 0; c < C; c++) if (c !== label) other += y[c];
  return other;
}

function viridis(share) {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((c, i) => c + (VIRIDIS[low + 1][i] - c) * (at - low));
}

function draw(cut, column, canvas, caption) {
  const { H, W } = cut, method = METHODS[column - 1], values = new Float64Array(H * W);
  let most = 0;
  if (method) for (let i = 0; i < H * W; i++) {
    values[i] = quantityAt(method, cut, Math.floor(i / W), i % W);
    most = Math.max(most, values[i]);
  }
  const scale = $("quantity").value === "leaving" ? most || 1 : 1;
  const small = document.createElement("canvas");
  small.width = W; small.height = H;
  const pixels = new ImageData(W, H), opacity = method ? Number($("opacity").value) : 0;
  const from = Number($("modality").value) * H * W;
  for (let i = 0; i < H * W; i++) {
    const grey = cut.images[from + i], colour = viridis(values[i] / scale);
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.round((1 - opacity) * grey + opacity * colour[c]);
    pixels.data[4 * i + 3] = 255;
  }
  small.getContext("2d").putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d"), sx = canvas.width / W, sy = canvas.height / H;
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  drawBorders(context, cut, sx, sy);
  const { row, column: x } = state.cursor;
  if (state.cuts[state.cursor.cut] === cut) {
    context.strokeStyle = "#fff"; context.lineWidth = 2;
    context.strokeRect(x * sx - 2, row * sy - 2, sx + 4, sy + 4);
    context.strokeStyle = "#000"; context.lineWidth = 1;
    context.strokeRect(x * sx - 3.5, row * sy - 3.5, sx + 7, sy + 7);
  }
  caption.textContent = !method ? `across ${AXES[cut.axis]}: rows ${AXES[cut.rows]}, columns ${AXES[cut.columns]}`
    : $("quantity").value === "map" ? (method === "GeoLS" ? "map g, colours 0 to 1" : "")
    : `${method}, colours 0 to ${scale.toPrecision(2)}`;
  canvas.dataset.most = most;
}

function drawBorders(context, cut, sx, sy) {
  context.lineWidth = 1.5;
  for (let row = 0; row < cut.H; row++) for (let column = 0; column < cut.W; column++) {
    const label = labelAt(cut, row, column);
    for (const [dr, dc] of [[0, 1], [1, 0]]) {
      if (row + dr >= cut.H || column + dc >= cut.W) continue;
      const other = labelAt(cut, row + dr, column + dc);
      if (other === label) continue;
      context.strokeStyle = colourOf([label, other].filter((n) => n !== IGNORE).reduce((a, b) => Math.max(a, b), 0));
      context.beginPath();
      context.moveTo((column + dc) * sx, (row + dr) * sy);
      context.lineTo((column + 1) * sx, (row + 1) * sy);
      context.stroke();
    }
  }
}

function drawAll() {
  state.cuts.forEach((cut) => cut.canvases.forEach(([canvas, caption], column) => draw(cut, column, canvas, caption)));
}

// --- the case -----------------------------------------------------------------------------------------------------

async function showCase(number) {
  state.case = (number + report.cases.length) % report.cases.length;
  const found = report.cases[state.case];
  $("case").value = String(state.case);
  const odd = report.ranking.find((entry) => entry.id === found.id);
  $("case-note").textContent = `odd because: ${odd.reason}`;
  const cuts = await Promise.all(found.cuts.map((cut) => unpack(cut, found.present)));
  if (report.cases[state.case] !== found) return; // another case was chosen meanwhile
  state.cuts = cuts;
  const [first] = state.cuts;
  state.cursor = { cut: 0, row: found.centre[first.rows] - first.start[0], column: found.centre[first.columns] - first.start[1] };
  $("pictures").replaceChildren(...state.cuts.map((cut, number) => pictureRow(cut, number)));
  for (const row of $("ranking").tBodies[0].rows) row.toggleAttribute("aria-current", row.dataset.case === found.id);
  update();
}

function pictureRow(cut, number) {
  const row = document.createElement("div");
  row.className = "cut";
  const zoom = Math.min(5, Math.max(1, Math.floor(420 / Math.max(cut.W * cut.spacing[1], cut.H * cut.spacing[0]) * Math.min(...cut.spacing))));
  const unit = Math.min(...cut.spacing);
  cut.canvases = ["image", ...METHODS].map((name) => {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    canvas.width = Math.round(cut.W * zoom * cut.spacing[1] / unit);
    canvas.height = Math.round(cut.H * zoom * cut.spacing[0] / unit);
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `cut across ${AXES[cut.axis]}, ${name}; arrow keys move the voxel that is read`);
    canvas.dataset.cut = number; canvas.dataset.method = name;
    canvas.addEventListener("mousemove", (event) => {
      const box = canvas.getBoundingClientRect();
      moveTo(number, Math.floor((event.clientY - box.top) / box.height * cut.H),
        Math.floor((event.clientX - box.left) / box.width * cut.W));
    });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const here = state.cursor.cut === number ? state.cursor : { row: Math.floor(cut.H / 2), column: Math.floor(cut.W / 2) };
      moveTo(number, here.row + step[0], here.column + step[1]);
    });
    figure.append(canvas, caption);
    row.append(figure);
    return [canvas, caption];
  });
  return row;
}

function moveTo(number, row, column) {
  const cut = state.cuts[number];
  row = Math.min(Math.max(row, 0), cut.H - 1); column = Math.min(Math.max(column, 0), cut.W - 1);
  const before = state.cursor;
  if (before.cut === number && before.row === row && before.column === column) return;
  state.cursor = { cut: number, row, column };
  for (const changed of new Set([before.cut, number]))
    state.cuts[changed].canvases.forEach(([canvas, caption], at) => draw(state.cuts[changed], at, canvas, caption));
  readVoxel();
}

function readVoxel() {
  const { cut: number, row, column } = state.cursor, cut = state.cuts[number], found = report.cases[state.case];
  const place = [0, 0, 0];
  place[cut.axis] = found.centre[cut.axis];
  place[cut.rows] = row + cut.start[0]; place[cut.columns] = column + cut.start[1];
  const label = labelAt(cut, row, column), alpha = Number($("alpha").value), normalize = $("normalize").checked;
  const columns = [classMaps(cut, row, column), ...METHODS.map((m) => softLabel(m, cut, row, column, alpha, normalize))];
  const name = label === IGNORE ? "ignored" : report.classes[label];
  $("voxel").textContent = `z ${place[0]}, y ${place[1]}, x ${place[2]}: labelled ${name}. GeoLS at α = ${alpha}: `
    + report.classes.map((n, c) => `${n} ${columns[4][c].toFixed(3)}`).join(", ");
  fill($("probabilities"), ["class", "map g", ...METHODS], report.classes.map((n, c) => [
    keyed(n, c), ...columns.map((y) => numberCell(y[c], 4)),
  ]));
  $("probabilities").dataset.voxel = place.join(",");
}

// --- tables -------------------------------------------------------------------------------------------------------

function keyed(name, index) {
  const cell = document.createElement("th"), key = document.createElement("span");
  cell.scope = "row"; key.className = "key"; key.style.background = colourOf(index);
  cell.append(key, name);
  return cell;
}

function numberCell(value, digits) {
  const cell = document.createElement("td");
  cell.textContent = value === null ? "–" : value.toFixed(digits);
  if (value !== null) cell.dataset.value = value;
  return cell;
}

function textCell(text) {
  const cell = document.createElement("td");
  cell.className = "text"; cell.textContent = text;
  return cell;
}

function spreadCell(values, digits = 0, factor = 1) {
  const cell = document.createElement("td");
  if (!values) { cell.textContent = "–"; return cell; }
  const [least, median, largest] = values.map((v) => (v * factor).toFixed(digits)), strong = document.createElement("strong");
  strong.textContent = median;
  cell.append(`${least} · `, strong, ` · ${largest}`);
  cell.dataset.value = values[1] * factor;
  return cell;
}

function fill(table, header, rows) {
  const head = document.createElement("tr");
  head.append(...header.map((text, at) => Object.assign(document.createElement("th"), {
    scope: "col", textContent: text, className: rows[0][at].className })));
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  }));
}

function fillClasses() {
  const alpha = Number($("alpha").value), kind = $("normalize").checked ? "leaving" : "leaving_unnormalised";
  fill($("classes"), ["class", "cases", "voxels", "seeds", "of them fallbacks, in all", "voxels nearer to another class (%)",
    `leaves the class at α = ${alpha} (%)`], report.dataset.map((found, c) => [
    keyed(`${report.classes[c]} (${report.values[c]})`, c), numberCell(found.cases, 0), spreadCell(found.voxels),
    c ? spreadCell(found.seeds) : textCell(""), c ? numberCell(found.fallbacks, 0) : textCell(""),
    spreadCell(found.other_largest, 1, 100), spreadCell(found[kind], 2, 100 * alpha),
  ]));
}

function fillRanking() {
  const alpha = Number($("alpha").value), kind = $("normalize").checked ? "leaving" : "leaving_unnormalised";
  const shown = new Map(report.cases.map((found, number) => [found.id, number]));
  fill($("ranking"), ["case", "odd because", "foreground nearer to another class (%)", `leaves the class at α = ${alpha} (%)`],
    report.ranking.map((entry) => {
      const cell = document.createElement("th");
      cell.scope = "row";
      if (shown.has(entry.id)) {
        const button = Object.assign(document.createElement("button"), { type: "button", textContent: entry.id });
        button.addEventListener("click", () => { showCase(shown.get(entry.id)); $("viewer").focus(); });
        cell.append(button);
      } else cell.textContent = entry.id;
      const value = entry[kind];
      return [cell, textCell(entry.reason), numberCell(entry.other_largest === null ? null : 100 * entry.other_largest, 1),
        numberCell(value === null ? null : 100 * alpha * value, 2)];
    }));
  [...$("ranking").tBodies[0].rows].forEach((row, at) => {
    row.dataset.case = report.ranking[at].id;
    row.toggleAttribute("aria-current", report.cases.length > 0 && row.dataset.case === report.cases[state.case].id);
  });
}

function drawHistograms() {
  const svg = "http://www.w3.org/2000/svg";
  report.dataset.forEach((found, c) => {
    if (!found.histogram) return;
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    const picture = document.createElementNS(svg, "svg"), most = Math.max(...found.histogram), n = found.histogram.length;
    picture.setAttribute("viewBox", `0 0 ${n} 10`);
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `${report.classes[c]}: ` + found.histogram.map((share, at) =>
      `${(at / n).toFixed(2)} to ${((at + 1) / n).toFixed(2)} ${(100 * share).toFixed(1)} %`).join(", "));
    found.histogram.forEach((share, at) => {
      const bar = document.createElementNS(svg, "rect"), height = most ? 10 * share / most : 0;
      bar.setAttribute("x", at + 0.05); bar.setAttribute("width", 0.9);
      bar.setAttribute("y", 10 - height); bar.setAttribute("height", height);
      bar.setAttribute("fill", colourOf(c));
      picture.append(bar);
    });
    caption.textContent = `${report.classes[c]}: g from 0 to 1, tallest bar ${(100 * most).toFixed(1)} %`;
    figure.append(picture, caption);
    $("histograms").append(figure);
  });
}

function fillFlags() {
  const items = report.flags.map((flag) => {
    const item = document.createElement("li"), kind = document.createElement("strong");
    const few = flag.cases.slice(0, 8).join(", "), more = flag.cases.length > 8 ? `, and ${flag.cases.length - 8} more` : "";
    kind.textContent = flag.kind;
    item.append(kind, `, ${flag.cases.length} of ${report.ranking.length} cases: ${flag.text}. (${few}${more})`);
    return item;
  });
  if (!items.length) items.push(Object.assign(document.createElement("li"), { textContent: "Nothing was found." }));
  if (report.left_out.length) items.push(Object.assign(document.createElement("li"), {
    textContent: `Not shown, as the file would be too large: ${report.left_out.join(", ")}.` }));
  $("flags").replaceChildren(...items);
}

function update() {
  $("alpha-value").textContent = Number($("alpha").value).toFixed(2);
  fillClasses();
  fillRanking();
  if (state.cuts.length) { drawAll(); readVoxel(); }
}

function options(select, names) {
  select.append(...names.map((name, at) => Object.assign(document.createElement("option"), { value: String(at), textContent: name })));
}

$("digest").textContent = report.store.digest;
$("recipe").textContent = report.store.recipe;
$("alpha").value = report.alpha;
options($("class"), report.classes);
$("class").value = String(Math.min(1, C - 1));
options($("modality"), report.modalities);
options($("case"), report.cases.map((found) => found.id));
for (const id of ["alpha", "normalize", "class", "quantity", "opacity", "modality"]) $(id).addEventListener("input", update);
$("case").addEventListener("input", () => showCase(Number($("case").value)));
$("previous").addEventListener("click", () => showCase(state.case - 1));
$("next").addEventListener("click", () => showCase(state.case + 1));
fillFlags();
drawHistograms();
update();
if (report.cases.length) showCase(0);
