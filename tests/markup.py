"""Names that libraries read as something else: rich as markup or emoji, matplotlib as formulas."""

NAMES = ["scan [final].jpg", "[bold]", "[/bold] [/]", r"\[x]", ":smile:", "[link=x]y", "$5 to $6", r"$\nonsense$"]
