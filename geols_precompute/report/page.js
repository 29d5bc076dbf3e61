// The page: which case and slices are shown, which voxel is read, and what a change of the controls does.

const $ = (id) => document.getElementById(id);
// point: the voxel z,y,x through which slices go and around which they are enlarged; reading: the one that is read
const state = { case: 0, views: [], point: [0, 0, 0], reading: { view: null, row: 0, column: 0 } };

async function showCase(number) {
  if (!report.cases.length) return; // all were too large
  state.case = (number + report.cases.length) % report.cases.length;
  const found = report.cases[state.case];
  $("case").value = String(state.case);
  const odd = report.ranking.find((entry) => entry.id === found.id);
  $("case-note").textContent = odd.reason === "nothing" ? "" : `odd because: ${odd.reason}`;
  const views = found.views.map((view, number) => ({ ...view, number, slice: null, pictures: [], slider: null }));
  for (const view of views) view.slice = await unpack(view, nearest(view, found.centre), found);
  if (report.cases[state.case] !== found) return; // another case was chosen meanwhile
  state.views = views;
  state.point = [...found.centre];
  read(views[0], ...inView(views[0], state.point));
  $("pictures").replaceChildren(...views.map(pictureRow));
  $("raters").replaceChildren(...found.raters.map((name, r) => {
    const item = document.createElement("span");
    item.append(keyOf(raterColour(r)), name);
    return item;
  }));
  $("contours-label").hidden = !found.raters.length;
  offerWindows();
  for (const row of $("ranking").tBodies[0].rows) row.toggleAttribute("aria-current", row.dataset.case === found.id);
  update();
}

// The slice of a view that is nearest to a voxel.
function nearest(view, point) {
  const far = view.slices.map(({ at }) => Math.abs(at - point[view.axis]));
  return far.indexOf(Math.min(...far));
}

// Row and column of a voxel in a view, whichever slice it lies in.
function inView(view, point) {
  return [0, 1].map((n) => (point[[view.rows, view.columns][n]] - view.starts[n]) * view.steps[n]);
}

// The voxel z,y,x at a row and column of the slice that a view shows.
function voxelAt(view, row, column) {
  const place = [0, 0, 0];
  place[view.axis] = view.slices[view.slice.number].at;
  place[view.rows] = view.starts[0] + view.steps[0] * row;
  place[view.columns] = view.starts[1] + view.steps[1] * column;
  return place;
}

function inside(view, row, column) {
  return [Math.min(Math.max(row, 0), view.size[0] - 1), Math.min(Math.max(column, 0), view.size[1] - 1)];
}

function pictureRow(view) {
  const row = document.createElement("div"), block = document.createElement("div");
  row.className = "view";
  // voxels as they lie in space, some pixels each, and no picture longer than the screen
  const [height, width] = view.size.map((n, at) => n * view.spacing[at] / Math.min(...view.spacing));
  const longest = Math.max(height, width), zoom = Math.min(Math.max(1, Math.min(5, Math.floor(420 / longest))), 1200 / longest);
  view.pictures = [null, ...METHODS].map((method) => {
    const name = method ?? "image", figure = document.createElement("figure"), canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    canvas.width = Math.max(1, Math.round(width * zoom));
    canvas.height = Math.max(1, Math.round(height * zoom));
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${view.direction || "across " + AXES[view.axis]}, ${name}; arrow keys move the voxel `
      + "that is read, page up and page down the slice");
    canvas.dataset.view = view.number; canvas.dataset.method = name;
    const at = (event) => {
      const box = canvas.getBoundingClientRect(), { top, left, height, width } = seen(view);
      return inside(view, Math.floor(top + (event.clientY - box.top) / box.height * height),
        Math.floor(left + (event.clientX - box.left) / box.width * width));
    };
    canvas.addEventListener("mousemove", (event) => readAt(view, ...at(event)));
    canvas.addEventListener("mouseleave", () => readAt(view, ...inView(view, voxelOf(view))));
    canvas.addEventListener("click", (event) => { goTo(voxelAt(view, ...at(event)), view); });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return; // the page scrolls until a picture is chosen
      event.preventDefault();
      goOn(view, Math.sign(event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      const slices = { PageUp: -1, PageDown: 1 }[event.key];
      if (!step && !slices) return;
      event.preventDefault();
      if (slices) { goOn(view, slices); return; }
      const here = state.reading.view === view ? [state.reading.row, state.reading.column] : inView(view, state.point);
      goTo(voxelAt(view, ...inside(view, here[0] + step[0], here[1] + step[1])), view);
    });
    figure.append(canvas, caption);
    row.append(figure);
    return { method, canvas, caption, kept: document.createElement("canvas"), voxels: document.createElement("canvas") };
  });
  const label = document.createElement("label");
  view.slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: view.slices.length - 1,
    value: view.slice.number, disabled: view.slices.length === 1 });
  view.slider.dataset.view = view.number;
  view.slider.addEventListener("input", () => goOn(view, Number(view.slider.value) - view.slice.number));
  label.className = "slices";
  label.append(`${view.direction || "across " + AXES[view.axis]} slices `, view.slider);
  block.append(label, row);
  return block;
}

// The point, in the slice that a view shows.
function voxelOf(view) {
  const voxel = [...state.point];
  voxel[view.axis] = view.slices[view.slice.number].at;
  return voxel;
}

// Show the slices that are nearest to a voxel, and read it in `from`, a view that it was chosen in.
async function goTo(point, from) {
  state.point = point;
  read(from, ...inView(from, point));
  const moved = [], found = report.cases[state.case];
  for (const view of state.views) {
    const number = nearest(view, point);
    view.slider.value = number;
    if (number === view.slice.number) continue;
    const slice = await unpack(view, number, found);
    if (state.point !== point || report.cases[state.case] !== found) return; // it went on meanwhile
    view.slice = slice;
    moved.push(view);
  }
  for (const view of state.views) for (const picture of view.pictures) (moved.includes(view) ? paint : compose)(view, picture);
  readOut();
}

// Go some slices on in a view.
function goOn(view, slices) {
  const number = Math.min(Math.max(nearest(view, state.point) + slices, 0), view.slices.length - 1), voxel = [...state.point];
  voxel[view.axis] = view.slices[number].at;
  return goTo(voxel, view);
}

function read(view, row, column) {
  [row, column] = inside(view, row, column);
  state.reading = { view, row, column };
}

function readAt(view, row, column) {
  const before = state.reading;
  if (before.view === view && before.row === row && before.column === column) return;
  read(view, row, column);
  for (const changed of new Set([before.view, view])) for (const picture of changed.pictures) show(changed, picture);
  readOut();
}

function readOut() {
  const { view, row, column } = state.reading, { slice } = view, place = voxelAt(view, row, column);
  const label = labelAt(slice, row, column), alpha = Number($("alpha").value), normalize = $("normalize").checked;
  const columns = [classMaps(slice, row, column), ...METHODS.map((m) => softLabel(m, slice, row, column, alpha, normalize))];
  const name = label === IGNORE ? "ignored" : report.classes[label];
  const image = report.cases[state.case].images.map(({ low, step }, m) => {
    const at = m * slice.H * slice.W + row * slice.W + column;
    return `${report.modalities[m]} ${Number((low + step * (256 * slice.high[at] + slice.low[at])).toPrecision(5))}`;
  });
  $("voxel").textContent = `z ${place[0]}, y ${place[1]}, x ${place[2]}: ${image.join(", ")}; labelled ${name}. GeoLS at α = ${alpha}: `
    + mostProbable(columns[4]).map((c) => `${report.classes[c]} ${columns[4][c].toFixed(3)}`).join(", ");
  fill($("probabilities"), ["class", "map g", ...METHODS], report.classes.map((n, c) => [
    keyed(n, c), ...columns.map((y) => numberCell(y[c], 4)),
  ]));
  $("probabilities").dataset.voxel = place.join(",");
}

// The classes of a soft label that have most of it, of which a line has room for six.
function mostProbable(y) {
  return [...y.keys()].sort((a, b) => y[b] - y[a]).slice(0, 6);
}

// What the controls change; α and the division by the sum change two of the methods only.
function update(event) {
  $("alpha-value").textContent = Number($("alpha").value).toFixed(2);
  $("zoom-value").textContent = `${$("zoom").value}×`;
  fillClasses();
  fillRanking();
  if (!state.views.length) return;
  const changes = event ? event.target.id : "";
  const methods = ["alpha", "normalize"].includes(changes) ? ["LS", "GeoLS"] : [null, ...METHODS];
  for (const view of state.views) for (const picture of view.pictures)
    if (methods.includes(picture.method)) (["zoom", "contours"].includes(changes) ? compose : paint)(view, picture);
  readOut();
}

// Windows of intensity for the chosen modality: what the case has, and those of CT where it is one.
const CT_WINDOWS = { "soft tissue": [-160, 240], "lung": [-1350, 150], "bone": [-450, 1050], "brain": [0, 80], "liver": [-15, 165] };

function offerWindows() {
  const { window: [from, to], hounsfield } = report.cases[state.case].images[Number($("modality").value)];
  const windows = { "0.5 to 99.5 % of the case": [from, to], ...(hounsfield ? CT_WINDOWS : {}), "as typed": null };
  const before = $("window").selectedOptions[0]?.textContent, names = Object.keys(windows);
  $("window").replaceChildren();
  options($("window"), names);
  const chosen = names.includes(before) ? before : hounsfield ? "soft tissue" : names[0];
  $("window").value = String(names.indexOf(chosen));
  if (!windows[chosen]) return;
  [$("window-from").value, $("window-to").value] = windows[chosen].map((value) => Number(value.toPrecision(5)));
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
for (const id of ["modality", "window"]) $(id).addEventListener("input", () => { if (state.views.length) offerWindows(); });
for (const id of ["window-from", "window-to"]) $(id).addEventListener("input", () => {
  $("window").value = $("window").lastElementChild.value;
});
for (const id of ["alpha", "normalize", "class", "quantity", "opacity", "modality", "window", "window-from", "window-to", "zoom",
  "contours"]) $(id).addEventListener("input", update);
$("case").addEventListener("input", () => showCase(Number($("case").value)));
$("previous").addEventListener("click", () => showCase(state.case - 1));
$("next").addEventListener("click", () => showCase(state.case + 1));
fillFlags();
drawHistograms();
update();
if (report.cases.length) showCase(0);
