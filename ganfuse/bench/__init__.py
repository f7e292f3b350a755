"""What `ganfuse bench` measures, and the harness that it shares with the scripts in benchmarks/."""
