"""The subcommands of `ganfuse`, one module each; see `ganfuse.cli`."""
