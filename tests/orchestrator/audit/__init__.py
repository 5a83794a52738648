"""What audits find, theme by theme, on records made for it; then what holds for any records."""
