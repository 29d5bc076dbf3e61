// The tables, the histograms and the list of what is worth a look.

function keyOf(colour) {
  const key = document.createElement("span");
  key.className = "key"; key.style.background = colour;
  return key;
}

function keyed(name, index) {
  const cell = document.createElement("th");
  cell.scope = "row";
  cell.append(keyOf(colourOf(index)), name);
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
    kind.textContent = flag.kind;
    item.append(kind, `, ${flag.count} of ${report.cases_in_all} ${report.cases_in_all === 1 ? "case" : "cases"}: ${flag.text}. (${flag.cases.join(", ")})`);
    return item;
  });
  const odd = report.ranking.find((entry) => entry.reason !== "nothing");
  if (!items.length) items.push(Object.assign(document.createElement("li"), {
    textContent: odd ? `No flag. The oddest case is ${odd.id}: ${odd.reason}.` : "Nothing was found." }));
  if (report.left_out.length) items.push(Object.assign(document.createElement("li"), {
    textContent: `Not shown, as the file would be too large: ${report.left_out.join(", ")}.` }));
  if (report.ranking.length < report.cases_in_all) items.push(Object.assign(document.createElement("li"), {
    textContent: `The table below has the oddest of all ${report.cases_in_all} cases only.` }));
  $("flags").replaceChildren(...items);
}
