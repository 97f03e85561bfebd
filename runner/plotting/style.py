"""The colours of all pictures."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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


def new_figure(size_inch: tuple[float, float], heading: str, title: str) -> Figure:
    """An empty figure with its two lines of title; the layout leaves their room alone."""
    figure = Figure(figsize=size_inch, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    height_inch = size_inch[1]
    left = 0.15 / size_inch[0]
    figure.text(left, 1 - 0.13 / height_inch, heading, va="top", color=INK, weight="bold", size=12)
    figure.text(left, 1 - 0.37 / height_inch, title, va="top", color=SOFT, size=9.5)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.65 / height_inch))
    return figure
