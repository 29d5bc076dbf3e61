// The pictures of a slice: what is shown of a soft label, in colours, over the image and under the borders of the labels.

const AXES = "zyx";
// Okabe and Ito's colours, which do not depend on red and green being told apart; the background is grey
const COLOURS = ["#999999", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442"];
const VIRIDIS = ["440154", "48186a", "472d7b", "424086", "3b528b", "33638d", "2c728e", "26828e", "21918c", "1fa088",
  "28ae80", "3fbc73", "5ec962", "84d44b", "addc30", "d8e219", "fde725"]
  .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

function colourOf(index) { return index === 0 ? COLOURS[0] : COLOURS[1 + (index - 1) % (COLOURS.length - 1)]; }

// The arrays of a slice of a view, as geols_precompute/report/slices.py packs them.
async function unpack(view, number, found) {
  const bytes = Uint8Array.from(atob(view.slices[number].data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const all = new Uint8Array(await new Response(stream).arrayBuffer());
  const [H, W] = view.size, M = report.modalities.length, border = (H + 2) * (W + 2);
  let at = 0;
  const next = (count) => all.subarray(at, at += count);
  return {
    number, H, W, present: new Set(found.present), high: next(M * H * W), low: next(M * H * W),
    maps: next(report.channels.length * H * W), labels: next(3 * border), raters: next(found.raters.length * H * W),
  };
}

function quantityAt(method, slice, row, column) {
  const index = Number($("class").value);
  if ($("quantity").value === "map") return classMaps(slice, row, column)[index];
  const y = softLabel(method, slice, row, column, Number($("alpha").value), $("normalize").checked);
  if ($("quantity").value === "class") return y[index];
  const label = labelAt(slice, row, column);
  if (label === IGNORE) return 0;
  let other = 0;
  for (let c = 0; c < C; c++) if (c !== label) other += y[c];
  return other;
}

function viridis(share) {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[low].map((c, i) => c + (VIRIDIS[low + 1][i] - c) * (at - low));
}

// The grey of every level of the chosen modality in the window that is set.
function greys() {
  const { low, step } = report.cases[state.case].images[Number($("modality").value)];
  const from = Number($("window-from").value), to = Number($("window-to").value), width = Math.max(to - from, 1e-9);
  return (level) => Math.min(Math.max((low + level * step - from) / width, 0), 1) * 255;
}

// Mix and colour a picture of a slice, voxel by voxel.
function paint(view, picture) {
  const { slice } = view, { H, W } = slice, { method, voxels } = picture, values = new Float64Array(H * W);
  let most = 0;
  if (method) for (let i = 0; i < H * W; i++) {
    values[i] = quantityAt(method, slice, Math.floor(i / W), i % W);
    most = Math.max(most, values[i]);
  }
  const scale = $("quantity").value === "leaving" ? most || 1 : 1;
  voxels.width = W; voxels.height = H;
  const pixels = new ImageData(W, H), opacity = method ? Number($("opacity").value) : 0, grey = greys();
  const from = Number($("modality").value) * H * W;
  for (let i = 0; i < H * W; i++) {
    const dark = grey(256 * slice.high[from + i] + slice.low[from + i]), colour = viridis(values[i] / scale);
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = Math.round((1 - opacity) * dark + opacity * colour[c]);
    pixels.data[4 * i + 3] = 255;
  }
  voxels.getContext("2d").putImageData(pixels, 0, 0);
  describe(view, picture, scale);
  compose(view, picture);
}

function describe(view, { method, caption }, scale) {
  caption.textContent = !method ? placeOf(view)
    : $("quantity").value === "map" ? (method === "GeoLS" ? "map g, colours 0 to 1" : "")
    : `${method}, colours 0 to ${scale.toPrecision(2)}`;
  if (method) caption.append(colourBar());
}

function placeOf(view) {
  const name = [view.direction, `${AXES[view.axis]} ${view.slices[view.slice.number].at}`].filter(Boolean).join(", ");
  return view.every > 1 ? `${name} (every ${view.every} slices)` : name;
}

// The colours from none to most, as a strip.
function colourBar() {
  const bar = document.createElement("span");
  bar.className = "bar"; bar.setAttribute("aria-hidden", "true");
  bar.style.background = `linear-gradient(to right, ${VIRIDIS.map((c) => `rgb(${c})`).join(", ")})`;
  return bar;
}

// The part of a view that is seen: all of it, or what lies around the point when it is enlarged.
function seen(view) {
  const [H, W] = view.size, zoom = Number($("zoom").value), height = H / zoom, width = W / zoom;
  const [row, column] = inView(view, state.point);
  const begin = (centre, length, all) => Math.min(Math.max(centre + 0.5 - length / 2, 0), all - length);
  return { top: begin(row, height, H), left: begin(column, width, W), height, width };
}

// Enlarge what was painted and draw the borders over it, and keep it: a cursor that moves is drawn over what is kept.
function compose(view, picture) {
  const { method, canvas, kept, voxels } = picture, { top, left, height, width } = seen(view);
  kept.width = canvas.width; kept.height = canvas.height;
  const context = kept.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(voxels, left, top, width, height, 0, 0, kept.width, kept.height);
  context.setTransform(kept.width / width, 0, 0, kept.height / height, -left * kept.width / width, -top * kept.height / height);
  const { slice } = view, raters = report.cases[state.case].raters;
  drawBorders(context, slice, 1.5, (row, column) => labelAt(slice, row, column), colourOf);
  if (!method && $("contours").checked) raters.forEach((_, r) => {
    const from = r * slice.H * slice.W;
    drawBorders(context, slice, 1.5, (row, column) => slice.raters[from + row * slice.W + column], () => raterColour(r));
  });
  context.resetTransform();
  if (!method && view.edges.length) drawEdges(context, view.edges, kept.width, kept.height);
  show(view, picture);
}

function raterColour(number) { return COLOURS[1 + (number + report.classes.length - 1) % (COLOURS.length - 1)]; }

// Where the body's right and left, front and back, head and feet are.
function drawEdges(context, [left, right, top, bottom], width, height) {
  context.font = "bold 13px system-ui, sans-serif";
  context.lineWidth = 3; context.strokeStyle = "#000"; context.fillStyle = "#fff";
  for (const [letter, x, y, align, baseline] of [[left, 3, height / 2, "left", "middle"],
    [right, width - 3, height / 2, "right", "middle"], [top, width / 2, 3, "center", "top"],
    [bottom, width / 2, height - 3, "center", "bottom"]]) {
    context.textAlign = align; context.textBaseline = baseline;
    context.strokeText(letter, x, y); context.fillText(letter, x, y);
  }
}

// Show what is kept, and on it the voxel that is read.
function show(view, { canvas, kept }) {
  const context = canvas.getContext("2d"), { top, left, height, width } = seen(view);
  context.drawImage(kept, 0, 0);
  const marked = state.reading.view === view ? [state.reading.row, state.reading.column] : inView(view, state.point);
  const sx = canvas.width / width, sy = canvas.height / height;
  const x = (marked[1] - left) * sx, y = (marked[0] - top) * sy;
  context.strokeStyle = "#fff"; context.lineWidth = 2;
  context.strokeRect(x - 2, y - 2, sx + 4, sy + 4);
  context.strokeStyle = "#000"; context.lineWidth = 1;
  context.strokeRect(x - 3.5, y - 3.5, sx + 7, sy + 7);
}

// Draw lines between voxels of different labels, `width` pixels wide however the picture is enlarged.
function drawBorders(context, { H, W }, width, at, colour) {
  const { a, d } = context.getTransform(), paths = new Map();
  for (let row = 0; row < H; row++) for (let column = 0; column < W; column++) {
    const label = at(row, column);
    for (const [dr, dc] of [[0, 1], [1, 0]]) {
      if (row + dr >= H || column + dc >= W) continue;
      const other = at(row + dr, column + dc);
      if (other === label) continue;
      const line = colour([label, other].filter((n) => n !== IGNORE).reduce((a, b) => Math.max(a, b), 0));
      if (!paths.has(line)) paths.set(line, new Path2D());
      paths.get(line).moveTo(column + dc, row + dr);
      paths.get(line).lineTo(column + 1, row + 1);
    }
  }
  context.lineWidth = width / Math.min(a, d);
  for (const [line, path] of paths) { context.strokeStyle = line; context.stroke(path); }
}
