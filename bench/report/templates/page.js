"use strict";
const root = document.documentElement;
const kept = (value) => {
  try {
    if (value) localStorage.setItem("bench-theme", value);
    return localStorage.getItem("bench-theme");
  } catch (refused) { return null; }  // some browsers keep nothing for files
};

const toggle = document.getElementById("theme");
const isDark = () => root.dataset.theme
  ? root.dataset.theme === "dark"
  : matchMedia("(prefers-color-scheme: dark)").matches;
const paint = (theme) => {
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  toggle.textContent = isDark() ? "Light page" : "Dark page";
};
paint(kept());

// Paper cannot be unfolded.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = Array.from(document.querySelectorAll("details:not([open])"));
  for (const each of unfolded) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of unfolded) each.open = false;
  unfolded = [];
});
toggle.hidden = false;
toggle.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  kept(theme);
  paint(theme);
});
