"""The colours of all pictures."""

from __future__ import annotations

INK = "#1f2933"
SOFT = "#6b7683"
RULE = "#e1e5ea"

# Wong's palette (Nature Methods 8, 441, 2011): told apart with any kind of colour vision.
BLUE = "#0072b2"
VERMILION = "#d55e00"
GREEN = "#009e73"
PURPLE = "#cc79a7"
ORANGE = "#e69f00"
SKY = "#56b4e9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)

# One hue from light to dark reads the same in grey and with any kind of colour vision.
SHADES = ("#f3f7fb", "#cfe0ee", "#9cc3de", "#5f9dc6", "#2f74a8", "#124e80", "#08305a")
