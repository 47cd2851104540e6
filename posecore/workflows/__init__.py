"""The steps of jobs, and what their training processes do; scripts of `pipelines/` put them together."""
