"""Programs that show a use of ganfuse. Not part of the installed package."""
