"""The report of a conversion: its values, and how a terminal, a browser and a program get to see them."""
