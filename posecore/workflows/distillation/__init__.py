"""The steps of a distillation, one after the other in `pipelines/distill.py`."""
