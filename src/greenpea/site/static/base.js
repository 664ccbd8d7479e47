// On every page: the theme changes at once, and menus close when one clicks beside them.

const form = document.getElementById("theme-form");

form?.addEventListener("submit", (event) => {
  const button = form.querySelector("button");
  const theme = document.documentElement.dataset.theme === "light" ? "dark" : "light";
  event.preventDefault();
  document.documentElement.dataset.theme = theme;
  document.querySelector('meta[name="color-scheme"]').content = theme;
  const body = new URLSearchParams(new FormData(form));
  body.set("theme", theme);
  fetch(form.action, { method: "POST", body, redirect: "manual", credentials: "same-origin" }).catch(() => {});
  button.value = theme === "light" ? "dark" : "light";
});

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
