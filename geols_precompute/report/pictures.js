// The pictures of a cut: what is shown of a soft label, in colours, over the image and under the borders of the labels.

const AXES = "zyx";
// Okabe and Ito's colours, which do not depend on red and green being told apart; the background is grey
const COLOURS = ["#999999", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442"];
const VIRIDIS = ["440154", "48186a", "472d7b", "424086", "3b528b", "33638d", "2c728e", "26828e", "21918c", "1fa088",
  "28ae80", "3fbc73", "5ec962", "84d44b", "addc30", "d8e219", "fde725"]
  .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));

function colourOf(index) { return index === 0 ? COLOURS[0] : COLOURS[1 + (index - 1) % (COLOURS.length - 1)]; }

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

// Mix and colour a picture of a cut, and keep it: a cursor that moves is drawn over what is kept.
function draw(cut, picture) {
  const { H, W } = cut, { method, canvas, caption, kept } = picture, values = new Float64Array(H * W);
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
  kept.width = canvas.width; kept.height = canvas.height;
  const context = kept.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, kept.width, kept.height);
  drawBorders(context, cut, kept.width / W, kept.height / H);
  caption.textContent = !method ? `across ${AXES[cut.axis]}: rows ${AXES[cut.rows]}, columns ${AXES[cut.columns]}`
    : $("quantity").value === "map" ? (method === "GeoLS" ? "map g, colours 0 to 1" : "")
    : `${method}, colours 0 to ${scale.toPrecision(2)}`;
  if (method) caption.append(colourBar());
  else drawEdges(context, cut.edges, kept.width, kept.height);
  showPicture(cut, picture);
}

// The colours from none to most, as a strip.
function colourBar() {
  const bar = document.createElement("span");
  bar.className = "bar"; bar.setAttribute("aria-hidden", "true");
  bar.style.background = `linear-gradient(to right, ${VIRIDIS.map((c) => `rgb(${c})`).join(", ")})`;
  return bar;
}

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

function showPicture(cut, { canvas, kept }) {
  const context = canvas.getContext("2d"), sx = canvas.width / cut.W, sy = canvas.height / cut.H;
  context.drawImage(kept, 0, 0);
  const { row, column } = state.cursor;
  if (state.cuts[state.cursor.cut] !== cut) return;
  context.strokeStyle = "#fff"; context.lineWidth = 2;
  context.strokeRect(column * sx - 2, row * sy - 2, sx + 4, sy + 4);
  context.strokeStyle = "#000"; context.lineWidth = 1;
  context.strokeRect(column * sx - 3.5, row * sy - 3.5, sx + 7, sy + 7);
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

function drawAll(methods) {
  for (const cut of state.cuts) for (const picture of cut.pictures) if (methods.includes(picture.method)) draw(cut, picture);
}
