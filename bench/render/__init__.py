"""Tables as terminal text, Markdown, LaTeX, CSV and JSON."""
