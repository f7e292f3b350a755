"""What is measured, how, and the committed results. Not part of the installed package."""
