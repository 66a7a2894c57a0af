"""The paper's tables: printed numbers, lint, reproduction and studies."""
