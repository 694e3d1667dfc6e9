// What a page can do without, and is better with: commands are copied by a click, and a form is sent once.
"use strict";

for (const command of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy " + command.textContent);
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(command.textContent);
    button.textContent = "Copied";
  });
  command.after(button);
}

for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    const deciding = form.classList.contains("decide");
    if (deciding && !form.querySelector("input[type=checkbox]:checked")) {
      event.preventDefault();
      form.querySelector("input[type=checkbox]")?.focus();
      return;
    }
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}

window.addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});
