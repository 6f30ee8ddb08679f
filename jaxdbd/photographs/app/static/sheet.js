"use strict";

// A contact sheet inside `root`. Cells are what sheet.py's `cell` returns. `options.open(number)` is called for a
// photograph that is chosen, without it the veil is lifted; `options.csv` is the address of the table.
function contactSheet(root, options = {}) {
  const STEP = 60; // cells drawn at once; more are as the page is scrolled
  const FILTERS = ["subject in focus", "subject missed?", "nothing in focus", "all in focus", "cannot be read"];
  const number = (a, b, key) => (b[key] ?? -1) - (a[key] ?? -1);
  const ORDERS = {
    "sharpest first": (a, b) => number(a, b, "sharpness"),
    "least sharp first": (a, b) => (a.sharpness ?? 2) - (b.sharpness ?? 2),
    "largest share in focus first": (a, b) => number(a, b, "share"),
    "by name": (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
  };
  const cells = [];
  const drawn = new Map(); // number -> figure, so that a picture is loaded once
  let filter = null;
  let shown = STEP;

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const grid = make("div", { className: "sheet-grid" });
  const end = make("div", { className: "sheet-empty" });
  const order = make("select", { onchange: () => draw(true) }, ...Object.keys(ORDERS).map((name) => make("option", {}, name)));
  order.setAttribute("aria-label", "order");
  const veil = make("input", { type: "checkbox", checked: true });
  veil.onchange = () => grid.classList.toggle("plain", !veil.checked);
  const buttons = [null, ...FILTERS].map((name) =>
    make("button", { type: "button", onclick: () => { filter = name; draw(true); } }));
  const table = options.csv ? [make("a", { href: options.csv, download: "photos.csv" }, "CSV")] : [];
  root.replaceChildren(
    make("div", { className: "sheet-bar" }, ...buttons),
    make("div", { className: "sheet-bar" }, order, make("label", {}, veil, "show what is in focus"), ...table),
    grid, end);

  function figure(cell) {
    const photo = make("div", { className: "sheet-photo" });
    const facts = [];
    if (cell.error) {
      photo.append(make("p", {}, cell.error));
      facts.push(cell.verdict);
    } else {
      photo.append(
        make("img", { loading: "lazy", decoding: "async", src: cell.thumbnail, alt: "" }),
        make("img", { loading: "lazy", decoding: "async", src: cell.veil, alt: "", className: "sheet-veil" }));
      const share = cell.share > 0 && cell.share < 0.01 ? "<1" : Math.round(100 * cell.share);
      facts.push(`sharpness ${cell.sharpness.toFixed(2)}`, `${share} % in focus`, cell.verdict);
    }
    const chosen = make("figure", { tabIndex: 0, title: cell.size ? `${cell.name}, ${cell.size}` : cell.name }, photo,
      make("figcaption", {},
        make("div", { className: "sheet-name" }, cell.name),
        make("div", { className: "sheet-facts" }, facts.join(" · "))));
    chosen.onclick = () => (options.open ? options.open(cell.number) : chosen.classList.toggle("plain"));
    chosen.onkeydown = (event) => { if (event.key === "Enter") chosen.onclick(); };
    return chosen;
  }

  function draw(anew) {
    if (anew) shown = STEP;
    [null, ...FILTERS].forEach((name, i) => {
      const count = name ? cells.filter((cell) => cell.verdict === name).length : cells.length;
      buttons[i].textContent = `${name ?? "all"} ${count}`;
      buttons[i].disabled = !count;
      buttons[i].setAttribute("aria-pressed", name === filter);
    });
    const chosen = cells.filter((cell) => !filter || cell.verdict === filter).sort(ORDERS[order.value]);
    for (const cell of chosen.slice(0, shown)) if (!drawn.has(cell.number)) drawn.set(cell.number, figure(cell));
    grid.replaceChildren(...chosen.slice(0, shown).map((cell) => drawn.get(cell.number)));
    end.textContent = chosen.length ? "" : "no photographs";
    end.hidden = chosen.length > 0 && shown >= chosen.length;
    more.unobserve(end); // told anew, as it may be in sight still
    more.observe(end);
  }

  const more = new IntersectionObserver((seen) => {
    if (seen.at(-1).isIntersecting && shown < cells.length) {
      shown += STEP;
      draw(false);
    }
  }, { rootMargin: "800px" });

  draw(true);
  return {
    add(further) { cells.push(...further); draw(false); },
    clear() { cells.length = 0; drawn.clear(); filter = null; draw(true); },
  };
}
