"use strict";
// The soft labels are mixed here, from labels and stored maps, as geols_precompute/softlabel.py does.

const report = JSON.parse(document.getElementById("data").textContent);
const C = report.classes.length, IGNORE = 255;
const METHODS = ["one-hot", "LS", "SVLS", "GeoLS"];
const SVLS_KERNEL = svlsKernel();

function svlsKernel() {
  const weights = [];
  for (let z = -1; z < 2; z++) for (let y = -1; y < 2; y++) for (let x = -1; x < 2; x++)
    weights.push(Math.exp(-(z * z + y * y + x * x) / 2));
  const others = weights.reduce((a, b) => a + b) - weights[13];
  weights[13] = others;
  return weights.map((w) => w / (2 * others));
}

// A slice as `unpack` returns it has H rows and W columns; its labels have a voxel more at every side.
function labelAt(slice, row, column) { return slice.labels[(slice.H + 2 + row + 1) * (slice.W + 2) + column + 1]; }

function classMaps(slice, row, column) {
  const g = new Float64Array(C), at = row * slice.W + column;
  report.channels.forEach((index, k) => { if (slice.present.has(index)) g[index] = slice.maps[k * slice.H * slice.W + at] / 255; });
  if (!report.channels.includes(0)) {
    let sum = 0, count = 0;
    for (const index of slice.present) if (index) { sum += g[index]; count += 1; }
    g[0] = count ? 1 - sum / count : 1;
  }
  return g;
}

function softLabel(method, slice, row, column, alpha, normalize) {
  const label = labelAt(slice, row, column), y = new Float64Array(C);
  if (label === IGNORE) return y;
  if (method === "SVLS") return svls(slice, row, column);
  y[label] = 1;
  if (method === "LS") return y.map((p) => (1 - alpha) * p + alpha / C);
  if (method === "GeoLS") {
    const g = classMaps(slice, row, column), total = g.reduce((a, b) => a + b);
    if (total === 0) return y;
    return y.map((p, c) => (1 - alpha) * p + alpha * (normalize ? g[c] / total : g[c]));
  }
  return y;
}

function svls(slice, row, column) {
  const y = new Float64Array(C), plane = (slice.H + 2) * (slice.W + 2);
  let total = 0, k = 0;
  for (let z = 0; z < 3; z++) for (let dy = 0; dy < 3; dy++) for (let dx = 0; dx < 3; dx++, k++) {
    const label = slice.labels[z * plane + (row + dy) * (slice.W + 2) + column + dx];
    if (label !== IGNORE) { y[label] += SVLS_KERNEL[k]; total += SVLS_KERNEL[k]; }
  }
  return total > 0 ? y.map((p) => p / total) : y;
}
