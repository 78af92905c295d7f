// Before anything is drawn, so that nothing flashes in the other colours. A classic script: modules come later.
try {
  const theme = JSON.parse(localStorage.getItem(`llmapi_kit:${new URL(".", location.href).pathname}:theme`));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // no storage here, or something else in it: as the system is
}
