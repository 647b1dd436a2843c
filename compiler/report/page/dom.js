// Elements of the page. Text from a plan is only ever set as text.

const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function definitions(rows) {
  return element("dl", {}, rows.filter(Boolean).flatMap(([term, text, code]) => [
    element("dt", { textContent: term }),
    element("dd", { textContent: text, className: code ? "code" : "" }),
  ]));
}
