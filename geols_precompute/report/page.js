// The page: which case is shown, which voxel is read, and what a change of the controls does.

const $ = (id) => document.getElementById(id);
const state = { case: 0, cuts: [], cursor: { cut: 0, row: 0, column: 0 } };

async function showCase(number) {
  if (!report.cases.length) return; // all were too large
  state.case = (number + report.cases.length) % report.cases.length;
  const found = report.cases[state.case];
  $("case").value = String(state.case);
  const odd = report.ranking.find((entry) => entry.id === found.id);
  $("case-note").textContent = odd.reason === "nothing" ? "" : `odd because: ${odd.reason}`;
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
  // voxels as they lie in space, some pixels each, and no picture longer than the screen
  const [height, width] = cut.size.map((n, at) => n * cut.spacing[at] / Math.min(...cut.spacing));
  const longest = Math.max(height, width), zoom = Math.min(Math.max(1, Math.min(5, Math.floor(420 / longest))), 1200 / longest);
  cut.pictures = [null, ...METHODS].map((method) => {
    const name = method ?? "image", figure = document.createElement("figure"), canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    canvas.width = Math.max(1, Math.round(width * zoom));
    canvas.height = Math.max(1, Math.round(height * zoom));
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
    return { method, canvas, caption, kept: document.createElement("canvas") };
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
    for (const picture of state.cuts[changed].pictures) showPicture(state.cuts[changed], picture);
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

// What the controls change; α and the division by the sum change two of the methods only.
function update(event) {
  $("alpha-value").textContent = Number($("alpha").value).toFixed(2);
  fillClasses();
  fillRanking();
  const ofMix = event && ["alpha", "normalize"].includes(event.target.id);
  if (state.cuts.length) { drawAll(ofMix ? ["LS", "GeoLS"] : [null, ...METHODS]); readVoxel(); }
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
