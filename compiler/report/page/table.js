// A table that its headings order: rows are made anew from the data, as many as it had.

class SortedTable {
  /** `columns` gives a number for each heading's key, the largest comes first; `cells` the [text, class] of a
   * row; `choose` gets the number of a row that is clicked. */
  constructor(table, count, columns, cells, choose) {
    Object.assign(this, { count, columns, cells });
    this.body = table.tBodies[0];
    this.rows = this.body.rows.length;
    this.headings = [...table.querySelectorAll("th[data-sort]")];
    for (const heading of this.headings) {
      heading.tabIndex = 0;
      heading.addEventListener("click", () => this.sort(heading));
      heading.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); this.sort(heading); }
      });
    }
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-step]");
      if (row) choose(Number(row.dataset.step));
    });
  }

  sort(heading) {
    for (const other of this.headings) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", heading.dataset.sort === "index" ? "ascending" : "descending");
    const value = this.columns[heading.dataset.sort];
    const order = Array.from({ length: this.count }, (_, row) => row).sort((a, b) => value(b) - value(a) || a - b);
    this.body.replaceChildren(...order.slice(0, this.rows).map((row) => this.#row(row)));
  }

  #row(number) {
    const cells = this.cells(number).map(([textContent, className]) => element("td", { textContent, className }));
    const row = element("tr", {}, cells);
    row.dataset.step = String(number);
    return row;
  }
}
