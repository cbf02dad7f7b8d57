"use strict";
// Readers without scripts lack nothing but this: fields that filter rows, and unfolding for print.

for (const list of document.querySelectorAll("[data-filter]")) {
  const rows = [...list.querySelectorAll(":scope tbody tr, :scope > details")];
  if (rows.length < 6) continue;
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const field = document.createElement("input");
  const count = document.createElement("output");
  const label = document.createElement("label");
  const bar = document.createElement("p");
  field.type = "search";
  label.append("Search ", field);
  bar.className = "filter";
  bar.append(label);
  let only = null;
  if (rows.some((row) => "flagged" in row.dataset)) {
    const choice = document.createElement("label");
    only = document.createElement("input");
    only.type = "checkbox";
    choice.append(only, " flagged rows only");
    bar.append(choice);
  }
  bar.append(count);
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    let shown = 0;
    rows.forEach((row, index) => {
      const kept = words.every((word) => texts[index].includes(word))
        && !(only && only.checked && !("flagged" in row.dataset));
      row.hidden = !kept;
      shown += kept;
    });
    count.textContent = `${shown} of ${rows.length}`;
  };
  bar.addEventListener("input", show);
  list.prepend(bar);
  show();
}

const folded = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) {
    folded.push(part);
    part.open = true;
  }
});
addEventListener("afterprint", () => {
  for (const part of folded.splice(0)) part.open = false;
});
