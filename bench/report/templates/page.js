"use strict";
const root = document.documentElement;
const storedTheme = (value) => {
  try {
    if (value) localStorage.setItem("bench-theme", value);
    return localStorage.getItem("bench-theme");
  } catch (error) { return null; }  // some browsers have no storage for file: pages
};

const toggle = document.getElementById("theme");
const isDark = () => root.dataset.theme
  ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;
const applyTheme = (theme) => {
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  toggle.textContent = isDark() ? "Light theme" : "Dark theme";
};
applyTheme(storedTheme());

// Readers of a printed page cannot open details.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = Array.from(document.querySelectorAll("details:not([open])"));
  for (const details of unfolded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of unfolded) details.open = false;
  unfolded = [];
});
toggle.hidden = false;
toggle.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  storedTheme(theme);
  applyTheme(theme);
});
