"""Colours of a report, in light and in dark. Charts are drawn with the light ones."""

# Each is readable on its background: 4.5 to 1 for text, 3 to 1 for lines.
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1c2430",
    "muted": "#5b6675",
    "rule": "#d8dee6",
    "series-0": "#1f5fc4",
    "series-1": "#c2500c",
    "series-2": "#0f766e",
    "series-3": "#8e35c9",
    "series-4": "#be185d",
    "series-5": "#4d7c0f",
    "series-6": "#8a5a0b",
    "series-7": "#4a5a70",
}
DARK = {
    "paper": "#12161c",
    "ink": "#e6eaf0",
    "muted": "#9aa6b5",
    "rule": "#333c48",
    "series-0": "#6eb0ff",
    "series-1": "#f59a56",
    "series-2": "#4fd1c0",
    "series-3": "#c79bff",
    "series-4": "#f77fb5",
    "series-5": "#a2d45e",
    "series-6": "#dcaa5e",
    "series-7": "#a9b6c6",
}
NUM_SERIES = sum(name.startswith("series") for name in LIGHT)


def series(number: int) -> str:
    """Returns the name of a series' colour; after the last comes the first."""
    return f"series-{number % NUM_SERIES}"


def shape(number: int) -> str:
    """Returns the matplotlib marker that tells apart series of one colour."""
    return "osD^"[number // NUM_SERIES % 4]


def css(colours: dict[str, str]) -> str:
    """Returns the colours as CSS variables."""
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
