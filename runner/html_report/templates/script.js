"use strict";
// Tooltips of heat maps for mouse, touch and keyboard; arrow keys move between cells.
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("role", "status");
document.body.append(tip);

function show(cell) {
  tip.textContent = cell.dataset.tip;
  tip.hidden = false;
  const box = cell.getBoundingClientRect();
  const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
  tip.style.top = `${box.bottom + 6 + window.scrollY}px`;
}

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
for (const table of document.querySelectorAll(".heat")) {
  table.addEventListener("mouseover", (event) => event.target.dataset.tip && show(event.target));
  table.addEventListener("mouseout", () => { tip.hidden = true; });
  table.addEventListener("focusin", (event) => event.target.dataset.tip && show(event.target));
  table.addEventListener("focusout", () => { tip.hidden = true; });
  table.addEventListener("click", (event) => event.target.dataset.tip && event.target.focus());
  table.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tip.hidden = true;
    const move = MOVES[event.key];
    const cell = event.target;
    if (!move || !cell.dataset.tip) return;
    const next = table.rows[cell.parentElement.rowIndex + move[0]]?.cells[cell.cellIndex + move[1]];
    event.preventDefault();
    if (!next?.dataset.tip) return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}

// Folded parts are printed too.
window.addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details:not([open])")) {
    each.open = true;
    each.dataset.folded = "";
  }
});
window.addEventListener("afterprint", () => {
  for (const each of document.querySelectorAll("details[data-folded]")) {
    each.open = false;
    delete each.dataset.folded;
  }
});
