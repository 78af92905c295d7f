"""axe-core on a part of a page: what people who can't see it well, or have no mouse, would stumble over."""

from __future__ import annotations

from pathlib import Path

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
CONTROLS = ("<button", "<input", "<select", "<textarea")


def serious_faults(element):
    """What axe-core calls serious or critical in an element: each rule, with the HTML of what breaks it."""
    element.scroll_into_view_if_needed()  # contrast is judged of what is in sight only
    if not element.page.evaluate("() => 'axe' in window"):
        element.page.add_script_tag(content=AXE.read_text())
    # JupyterLab's body hides what flows over and has no height; axe-core takes all text in it for unseen then
    element.page.evaluate("() => { document.body.style.minHeight = '100vh'; }")
    found = element.evaluate("element => axe.run(element)")
    judged = [each for each in [*found["passes"], *found["violations"]] if each["id"] == "color-contrast"]
    if all(node["html"].startswith(CONTROLS) for each in judged for node in each["nodes"]):
        raise RuntimeError("axe-core could not judge the contrast of text: is the element in sight?")
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    return [(each["id"], node["html"]) for each in serious for node in each["nodes"]]
