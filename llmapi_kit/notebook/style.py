"""Styles that the kit's outputs in cells have in common: the notebook's own fonts and colours where there are some."""

UI_FONT = "font-family:var(--jp-ui-font-family, system-ui, sans-serif);font-size:13px;line-height:1.5"
CODE_FONT = "font-family:var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace);font-size:12px"
BORDER = "1px solid var(--jp-border-color2, rgba(128,128,128,.35))"
TEXT = "var(--jp-ui-font-color1, CanvasText)"
